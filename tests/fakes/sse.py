"""A client of event streams that keeps to the standard (HTML, section 9.2)."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import ClientResponse

from limner.http import revocation, sse
from tests.fakes.front import PATIENCE_S


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often at who may still listen; a module of tests takes this fixture by naming it."""
    monkeypatch.setattr(sse, "RECONNECT_S", 0.02)
    monkeypatch.setattr(revocation, "RECHECK_S", 0.05)


@dataclass
class Heard:
    """One event; ``id`` is empty if the event carried none."""

    name: str
    id: str
    data: Any


@dataclass
class Listener:
    """Reads one stream; ``retries`` and ``pings`` are what came beside the events."""

    response: ClientResponse
    retries: list[int] = field(default_factory=list)
    pings: int = 0
    is_ended: bool = False

    async def next(self, timeout_s: float = PATIENCE_S) -> Heard | None:
        """Give the next event, or None at the end of the stream."""
        name, ident = "message", ""
        data: list[str] = []
        async with asyncio.timeout(timeout_s):
            while True:
                raw = await self.response.content.readline()
                if not raw:
                    self.is_ended = True
                    return None
                line = raw.decode().rstrip("\r\n")
                if not line:
                    if data:
                        return Heard(name, ident, json.loads("\n".join(data)))
                    continue
                key, _, value = line.partition(":")
                value = value.removeprefix(" ")
                match key:
                    case "":
                        self.pings += 1
                    case "event":
                        name = value
                    case "id":
                        ident = value
                    case "data":
                        data.append(value)
                    case "retry":
                        self.retries.append(int(value))
                    case _:
                        raise AssertionError(f"no field of a stream: {line}")

    async def until(self, name: str) -> Heard:
        """Give the next event of a name."""
        while (heard := await self.next()) is not None:
            if heard.name == name:
                return heard
        raise AssertionError(f"the stream ended before {name}")

    async def rest(self) -> list[Heard]:
        """Give all events up to the end of the stream."""
        found = []
        while (heard := await self.next()) is not None:
            found.append(heard)
        return found

"""The line between the processes of the streams' benchmark: bells, and the word that all came."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

LINE_LIMIT_BYTES = 1 << 20
DONE = b"done\n"
END = b"\x1e"
HOST = "127.0.0.1"

Take = Callable[[bytes], Awaitable[None]]


def stored(path: str) -> dict[str, Any]:
    """Read what one process left for another in a file."""
    found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return found


def store(path: Path, content: dict[str, Any]) -> None:
    """Leave something for another process in a file."""
    path.write_text(json.dumps(content), encoding="utf-8")


async def _nothing(line: bytes) -> None:
    del line


class Control:
    """What a server hears from the others: ``take`` gets each line, the last sets ``ended``."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self.ended = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def listening(
        cls, host: str, port: int, take: Take = _nothing
    ) -> AsyncIterator["Control"]:
        """Listen while the block runs."""
        control = cls(take)
        server = await asyncio.start_server(control._serve, host, port, limit=LINE_LIMIT_BYTES)
        async with server:
            yield control

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for line in reader:
            if line == DONE:
                self.ended.set()
                break
            await self._take(line)
        writer.close()

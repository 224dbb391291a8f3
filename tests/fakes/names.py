"""Names that lead where a test says, and a client that lives in that world."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from limner.core.errors import LimnerError
from limner.core.outgoing import Outgoing
from tests.fakes.raw_http import RawHttp


class Names:
    """A resolver of its own world: each call to a name gives its next answer, the last for good."""

    def __init__(self, **answers: list[Sequence[str]]) -> None:
        self.answers = {name.replace("_", "."): found for name, found in answers.items()}
        self.asked: list[str] = []
        self.closed = False

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host == "never.test":
            await asyncio.Event().wait()
        if host not in self.answers:
            raise OSError("no such name")
        left = self.answers[host]
        return left.pop(0) if len(left) > 1 else left[0]

    async def aclose(self) -> None:
        self.closed = True


@asynccontextmanager
async def client(*servers: RawHttp, **options: Any) -> AsyncIterator[Outgoing]:
    """A client that may reach ``servers``."""
    allowed = frozenset(each.host for each in servers) | options.pop("allowed", frozenset())
    outgoing = Outgoing(allow_private_hosts=allowed, **options)
    try:
        yield outgoing
    finally:
        await outgoing.aclose()


async def fate(outgoing: Outgoing, method: str, url: str, **options: Any) -> LimnerError:
    """Give the error that a request ends in."""
    try:
        await outgoing.request(method, url, **options)
    except LimnerError as error:
        return error
    raise AssertionError("the request was answered")

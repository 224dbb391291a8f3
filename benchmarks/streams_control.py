"""What the servers of the streams' benchmark share: the line to the others, and the measuring."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks import memory
from benchmarks.child import Measured, gate

LOOK_S = 0.01
LINE_LIMIT_BYTES = 1 << 20
DONE = b"done\n"
END = b"\x1e"
HOST = "127.0.0.1"

Take = Callable[[bytes], Awaitable[None]]
Send = Callable[[], Awaitable[None]]


def stored(path: str) -> dict[str, Any]:
    """Read what one process left for another in a file."""
    found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return found


def store(path: Path, content: dict[str, Any]) -> None:
    """Leave something for another process in a file."""
    path.write_text(json.dumps(content), encoding="utf-8")


async def _nothing(*_: bytes) -> None:
    pass


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


async def measured(
    control: int,
    before_mib: float,
    all_came: Callable[[], bool],
    *,
    take: Take = _nothing,
    send: Send = _nothing,
) -> Measured:
    """Wait until ``all_came``, then give what it costs to serve them until the client is done.

    Args:
        control: the port to be told at.
        before_mib: what the process held without connections.
        all_came: whether all streams are open.
        take: gets each line of the other processes but the last.
        send: runs once when the gate has opened.
    """
    async with Control.listening(HOST, control, take) as done:
        while not all_came():  # noqa: ASYNC110 - nobody rings when a client has come
            await asyncio.sleep(LOOK_S)
        held_mib = memory.resident_mib() - before_mib
        await gate()
        started_s = time.process_time()
        await send()
        await done.ended.wait()
        return {"cpu_s": time.process_time() - started_s, "held_mib": held_mib}

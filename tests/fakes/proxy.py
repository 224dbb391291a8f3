"""A line that fails where it is told to: a TCP proxy on loopback between a client and a server."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from tests.engines.server import HOST, free_port

CHUNK_BYTES = 65_536
CONNECT_LIMIT_S = 10.0
END_LIMIT_S = 10.0

Side = Literal["client", "server"]


class Cut:
    """A pattern that, once one side has said it, ends its line before the answer comes through.

    What was said up to then reaches the other side, and the line breaks when that has answered, so
    that the work is done and nobody hears of it. ``done`` is set when it has happened.
    """

    def __init__(self, pattern: bytes, side: Side) -> None:
        self.pattern = pattern
        self.side = side
        self.done = asyncio.Event()


@dataclass
class Line:
    """One connection, with a stream to either side; ``cut`` is set once its pattern was said."""

    client: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    server: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    cut: Cut | None = None
    said: dict[Side, bytes] = field(default_factory=lambda: {"client": b"", "server": b""})

    def ends(self, side: Side) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Give where ``side`` is read from and where that goes to."""
        from_, to = (self.client, self.server) if side == "client" else (self.server, self.client)
        return from_[0], to[1]

    def reset(self) -> None:
        """Break both halves with RST."""
        for _, writer in (self.client, self.server):
            _reset(writer)

    def close(self) -> None:
        """End both halves, whatever still waits in them."""
        for _, writer in (self.client, self.server):
            writer.transport.abort()


def _reset(writer: asyncio.StreamWriter) -> None:
    line = writer.get_extra_info("socket")
    if line is not None and not writer.transport.is_closing():
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Proxy:
    """``async with Proxy(port) as proxy``: clients use ``proxy.port``, whatever happens.

    ``latency_s`` is added to each piece of each direction. While the proxy refuses, its port is
    closed; in the black hole, connections are taken and nothing passes, and ``heal`` lets what
    waits pass, as TCP does when packets come through again.
    """

    def __init__(self, port: int, host: str = HOST) -> None:
        self.target = (host, port)
        self.port = free_port()
        self.latency_s = 0.0
        self.connections = 0
        self.passed_bytes = 0
        self._cut: Cut | None = None
        self._passes = asyncio.Event()
        self._passes.set()
        self._server: asyncio.Server | None = None
        self._lines: list[Line] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._deafen()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=END_LIMIT_S)
        await asyncio.sleep(0)  # lets the transports that were dropped report it

    # Faults

    async def refuse(self) -> None:
        """Close the port and break every line."""
        self._deafen()
        self.reset()

    def black_hole(self) -> None:
        """Let nothing pass any more, without a word."""
        self._passes.clear()

    def reset(self) -> None:
        """Break every line with RST; new ones go well."""
        for line in list(self._lines):
            line.reset()

    def cut_after(self, pattern: bytes, side: Side = "client") -> Cut:
        """Break the next line on which ``side`` says ``pattern``, when the other has answered."""
        self._cut = Cut(pattern, side)
        return self._cut

    async def heal(self) -> None:
        """Take connections and let everything pass, at once."""
        self.latency_s = 0.0
        self._cut = None
        self._passes.set()
        if self._server is None:
            await self._listen()

    # The line

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(
            lambda reader, writer: self._spawn(self._serve(reader, writer)), HOST, self.port
        )

    def _deafen(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._passes.wait()
            async with asyncio.timeout(CONNECT_LIMIT_S):
                server = await asyncio.open_connection(*self.target)
        except OSError:
            _reset(writer)
            return
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        line = Line((reader, writer), server)
        self._lines.append(line)
        try:
            await self._carry(line)
        finally:
            self._lines.remove(line)
            line.close()

    async def _carry(self, line: Line) -> None:
        """Carry both directions until both have ended; a broken one breaks the other."""
        with contextlib.suppress(OSError, ExceptionGroup):
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(line, "client"))
                both.create_task(self._pump(line, "server"))

    async def _pump(self, line: Line, side: Side) -> None:
        reader, writer = line.ends(side)
        while said := await reader.read(CHUNK_BYTES):
            await self._passes.wait()
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            if line.cut is not None and side != line.cut.side:
                line.reset()
                line.cut.done.set()
                return
            writer.write(said)
            await writer.drain()
            self.passed_bytes += len(said)
            if line.cut is None:
                line.cut = self._taken(line, side, said)
        if writer.can_write_eof():
            writer.write_eof()

    def _taken(self, line: Line, side: Side, said: bytes) -> Cut | None:
        """Give the cut whose pattern ends in what was just said; another line cannot take it."""
        cut = self._cut
        if cut is None or cut.side != side:
            return None
        heard = line.said[side] + said
        line.said[side] = heard[-len(cut.pattern) :]
        if cut.pattern not in heard:
            return None
        self._cut = None
        return cut

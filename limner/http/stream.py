"""One connection of an event stream: its head, what is written to it, its end."""

import asyncio
from contextlib import suppress

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp_sse import EventSourceResponse

from limner.core.failpoints import declare, step
from limner.core.logs import get_logger
from limner.http import frames
from limner.http.auth.callers import Caller
from limner.http.frames import Frame
from limner.http.listener import Connection

SSE_WRITE = declare("sse.write")
BACKLOG_LIMIT_BYTES = 1 << 20
REPLAY_PATIENCE_S = 60.0
NEVER_S = 1e8
"""The library's own ping: a timer per connection. All connections share one of ours instead."""

log = get_logger("sse")


class Stream:
    """One connection. ``position`` is the number of the newest event it was sent.

    Its handler waits in ``over`` until ``end`` is called, here or by the hub.
    """

    __slots__ = (
        "_is_chunked",
        "_line",
        "_response",
        "_transport",
        "_writer",
        "caller",
        "is_ended",
        "is_live",
        "position",
    )

    def __init__(
        self,
        response: EventSourceResponse,
        writer: AbstractStreamWriter | None,
        request: web.Request,
        caller: Caller,
    ) -> None:
        self._response = response
        self._writer = writer
        self._transport = request.transport
        self._line = request.protocol if isinstance(request.protocol, Connection) else None
        self._is_chunked = request.version >= HttpVersion11
        self.caller = caller
        self.position = 0
        self.is_live = False
        self.is_ended = False

    @property
    def response(self) -> EventSourceResponse:
        """What the handler answers."""
        return self._response

    @property
    def backlog_bytes(self) -> int:
        """What the client has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def write(self, frame: Frame) -> None:
        """Hand an event to the transport; cut the client if it has fallen too far behind."""
        transport = self._transport
        if self.is_ended or transport is None or transport.is_closing():
            self.end()
            return
        # The frame is shared by all connections, so it bypasses the response's own writer, which
        # has nothing of its own in flight: each write here is one whole chunk.
        content = frame.chunk if self._is_chunked else frame.plain
        backlog_bytes = transport.get_write_buffer_size()
        if backlog_bytes + len(content) > BACKLOG_LIMIT_BYTES:
            log.warning("a client does not read; it is cut", backlog_bytes=backlog_bytes)
            self.cut()
            return
        if self._line is not None:
            self._line.expect_written(len(content))
        transport.write(content)

    async def taken(self) -> None:
        """Wait until the client has taken most of what was written: a replay goes at its pace.

        One that takes nothing for ``REPLAY_PATIENCE_S`` is cut.
        """
        if self._writer is None or self.is_ended:
            return
        try:
            async with asyncio.timeout(REPLAY_PATIENCE_S):
                await self._writer.drain()
        except TimeoutError:
            log.warning("a client does not take its replay; it is cut")
            self.cut()
        except ConnectionResetError:
            self.end()

    def cut(self) -> None:
        """Break the connection: its client knows that it has not had everything."""
        if self._transport is not None:
            self._transport.abort()
        self.end()

    def end(self) -> None:
        """Let the handler finish."""
        if not self.is_ended:
            self.is_ended = True
            self._response.stop_streaming()

    async def over(self) -> None:
        """Wait for the end."""
        await self._response.wait()


async def opened(request: web.Request, caller: Caller) -> Stream:
    """Answer with the head of a stream and its reconnection time."""
    response = EventSourceResponse(ping_interval=NEVER_S, sep="\n")
    response.headers["Cache-Control"] = "no-store"
    writer = await response.prepare(request)
    async with step(SSE_WRITE):
        await response.write(frames.retry(frames.RETRY_MS).plain)
    return Stream(response, writer, request, caller)


async def finish(stream: Stream) -> None:
    """End a stream whose client may be gone."""
    with suppress(ConnectionResetError, RuntimeError):
        await stream.response.write_eof()

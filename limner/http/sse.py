"""Event streams: one subscription per process, each event encoded once, written to many.

The database is the truth. An event only rings; the rows that follow are read for all objects that
rang, in one query, and written to every connection that has not had them. At every ping the
numbers of all streamed objects are compared with the database, so that an event that was lost
delays and never hides. A connection that does not read is cut at a bound of bytes; its client
comes back with the number of what it had last.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from aiohttp import HttpVersion11, web
from aiohttp_sse import EventSourceResponse

from limner.core.errors import EngineUnavailable, FailpointReached, Invalid
from limner.core.failpoints import declare, step
from limner.core.logs import get_logger
from limner.core.message import Envelope, Event
from limner.http import frames
from limner.http.auth.callers import Caller, still_valid
from limner.http.ports import Front
from limner.storage.sql.lines import last_numbers, lines_beyond
from limner.storage.sql.timeline import TimelineLine

SSE_WRITE = declare("sse.write")
PING_S = 15.0
BACKLOG_LIMIT_BYTES = 1 << 20
BATCH = 200
RETRY_MIN_MS = 1000
RETRY_MAX_MS = 5000
RECONNECT_S = 1.0
GATHER_S = 0.02
RECHECK_S = 4.0

log = get_logger("sse")


class Stream:
    """One connection. ``position`` is the number of the newest event it was sent."""

    def __init__(
        self,
        response: EventSourceResponse,
        request: web.Request,
        caller: Caller,
        position: int,
    ) -> None:
        self._response = response
        self._request = request
        self.caller = caller
        self._is_chunked = request.version >= HttpVersion11
        self.position = position
        self.is_live = False
        self.is_ended = False

    @property
    def backlog_bytes(self) -> int:
        """What the client has not taken yet."""
        transport = self._request.transport
        return 0 if transport is None else transport.get_write_buffer_size()

    def write(self, frame: bytes) -> None:
        """Hand bytes to the transport; cut the client if it has fallen too far behind."""
        transport = self._request.transport
        if self.is_ended or transport is None or transport.is_closing():
            self.end()
            return
        if self.backlog_bytes + len(frame) > BACKLOG_LIMIT_BYTES:
            log.warning("a client does not read; it is cut", backlog_bytes=self.backlog_bytes)
            transport.abort()
            self.end()
            return
        # The frame is shared by all connections, so it bypasses the response's own writer, which
        # has nothing of its own in flight: each write here is one whole chunk.
        transport.write(b"%x\r\n%b\r\n" % (len(frame), frame) if self._is_chunked else frame)

    def end(self) -> None:
        """Let the handler finish."""
        if not self.is_ended:
            self.is_ended = True
            self._response.stop_streaming()


@dataclass
class Channel:
    """One streamed object: who listens, what its live streams were sent, how often it rang."""

    ident: str
    position: int = 0
    streams: set[Stream] = field(default_factory=set)
    waiters: set[asyncio.Event] = field(default_factory=set)
    progress: bytes = b""
    rings: int = 0

    @property
    def is_idle(self) -> bool:
        """Whether nobody listens."""
        return not self.streams and not self.waiters


class Hub:
    """All streams of a process; ``run`` keeps them fed until it is cancelled."""

    def __init__(self, front: Front, ping_s: float = PING_S) -> None:
        self._front = front
        self.ping_s = ping_s
        self._channels: dict[str, Channel] = {}
        self._dirty: dict[str, None] = {}
        self._news = asyncio.Event()
        self.is_closing = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Feed the streams while the block runs."""
        loops = (self._listen, self._feed, self._compare, self._recheck)
        tasks = [
            asyncio.create_task(self._kept(loop), name=f"sse{loop.__name__}") for loop in loops
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @staticmethod
    async def _kept(loop: Callable[[], Awaitable[None]]) -> None:
        """Run a loop for ever; what it did not foresee is logged, and it begins again."""
        while True:
            try:
                await loop()
            except EngineUnavailable as error:
                log.warning("streams wait for an engine", error=error.detail)
            except Exception:
                log.exception("a loop of the streams failed", loop=loop.__name__)
            await asyncio.sleep(RECONNECT_S)

    async def close(self) -> None:
        """Tell every client to come back, spread over some seconds, and end the streams."""
        self.is_closing = True
        for stream in self._streams():
            # Jitter, so that not all come back at once.
            delay_ms = random.randint(RETRY_MIN_MS, RETRY_MAX_MS)  # noqa: S311
            stream.write(frames.retry(delay_ms))
            stream.end()
        for channel in self._channels.values():
            for waiter in channel.waiters:
                waiter.set()

    def _streams(self) -> list[Stream]:
        return [stream for channel in self._channels.values() for stream in channel.streams]

    @asynccontextmanager
    async def joined(self, ident: str, stream: Stream) -> AsyncIterator[None]:
        """Let a stream have what happens to an object while the block runs."""
        channel = self._channels.setdefault(ident, Channel(ident))
        channel.streams.add(stream)
        self._front.metrics.sse_connections.inc()
        try:
            yield
        finally:
            self._front.metrics.sse_connections.dec()
            channel.streams.discard(stream)
            self._drop_idle(channel)

    @asynccontextmanager
    async def awaited(self, ident: str) -> AsyncIterator[asyncio.Event]:
        """Give an event that is set whenever something may have happened to an object."""
        channel = self._channels.setdefault(ident, Channel(ident))
        waiter = asyncio.Event()
        channel.waiters.add(waiter)
        try:
            yield waiter
        finally:
            channel.waiters.discard(waiter)
            self._drop_idle(channel)

    def _drop_idle(self, channel: Channel) -> None:
        if channel.is_idle:
            self._channels.pop(channel.ident, None)

    async def catch_up(self, ident: str, stream: Stream) -> None:
        """Send what is stored beyond the stream's position, and from then on what comes.

        Raises:
            EngineUnavailable: the database does not answer.
        """
        channel = self._channels[ident]
        while not stream.is_ended:
            rings = channel.rings
            lines, is_whole = await lines_beyond({ident: stream.position})
            await self._send(stream, lines)
            # Nothing is awaited between this look and the stream's turning live.
            if is_whole and channel.rings == rings:
                if not any(other.is_live for other in channel.streams):
                    channel.position = stream.position
                stream.is_live = True
                return

    async def _send(self, stream: Stream, lines: list[TimelineLine]) -> None:
        shown, ends = frames.through_end(lines)
        for number, frame in frames.frames_of(shown, ends=ends):
            async with step(SSE_WRITE):
                stream.write(frame)
            stream.position = number
        if ends:
            stream.end()

    async def _listen(self) -> None:
        """Hear what happens; what happened while nobody heard is looked for first."""
        async with self._front.broker.subscribe() as events:
            self._ring(list(self._channels))
            async for envelope in events:
                self._hear(envelope)

    def _hear(self, envelope: Envelope) -> None:
        try:
            event = Event.from_bytes(envelope.body)
        except Invalid:
            log.warning("an event that is none", topic=envelope.topic)
            return
        channel = self._channels.get(event.subject.get("id", ""))
        if channel is None:
            return
        if event.type.endswith(".progress"):
            # The latest replaces the one before, if that has not been sent yet.
            channel.progress = frames.encode("progress", event.data)
        self._ring([channel.ident])

    def _ring(self, idents: Iterable[str]) -> None:
        for ident in idents:
            self._channels[ident].rings += 1
            self._dirty[ident] = None
            self._news.set()

    async def _feed(self) -> None:
        """Read and send what is new; while one read runs, the next ones gather."""
        while True:
            await self._news.wait()
            self._news.clear()
            batch = list(self._dirty)[:BATCH]
            for ident in batch:
                del self._dirty[ident]
            if self._dirty:
                self._news.set()
            channels = [self._channels[ident] for ident in batch if ident in self._channels]
            try:
                await self._refresh(channels)
            except (EngineUnavailable, FailpointReached) as error:
                log.warning("streams wait", error=error.detail)
                await asyncio.sleep(RECONNECT_S)
                self._ring(ident for ident in batch if ident in self._channels)
            # A short pause gathers what comes close together and bounds the number of queries.
            await asyncio.sleep(GATHER_S)

    async def _refresh(self, channels: list[Channel]) -> None:
        for channel in channels:
            for waiter in channel.waiters:
                waiter.set()
        live = {
            channel.ident: channel
            for channel in channels
            if any(stream.is_live for stream in channel.streams)
        }
        if not live:
            return
        found: dict[str, list[TimelineLine]] = {ident: [] for ident in live}
        lines, is_whole = await lines_beyond(
            {ident: channel.position for ident, channel in live.items()}
        )
        for line in lines:
            found[line.object_id].append(line)
        for ident, channel in live.items():
            await self._distribute(channel, found[ident])
        if not is_whole:
            self._ring(ident for ident in live if ident in self._channels)

    async def _distribute(self, channel: Channel, lines: list[TimelineLine]) -> None:
        """Write to all live streams of an object what they have not had."""
        shown, ends = frames.through_end(lines)
        for number, frame in frames.frames_of(shown, ends=ends):
            async with step(SSE_WRITE):
                for stream in tuple(channel.streams):
                    if stream.is_live and stream.position < number:
                        stream.write(frame)
                        stream.position = number
            channel.position = max(channel.position, number)
        progress, channel.progress = channel.progress, b""
        for stream in tuple(channel.streams):
            if ends and stream.is_live:
                stream.end()
            elif progress and stream.is_live and not stream.backlog_bytes:
                stream.write(progress)

    async def _compare(self) -> None:
        """Look at each ping for objects that moved without our hearing of it."""
        while True:
            await asyncio.sleep(self.ping_s)
            idents = list(self._channels)
            for start in range(0, len(idents), BATCH):
                newest = await last_numbers(idents[start : start + BATCH])
                self._ring(
                    ident
                    for ident, number in newest.items()
                    if ident in self._channels and number > self._channels[ident].position
                )

    async def _recheck(self) -> None:
        """End the streams of whoever may not be here any more."""
        while True:
            await asyncio.sleep(RECHECK_S)
            streams = self._streams()
            valid = await still_valid(self._front, {stream.caller for stream in streams})
            for stream in streams:
                if stream.caller not in valid:
                    stream.end()


HUB: web.AppKey[Hub] = web.AppKey("hub", Hub)


async def prepare(request: web.Request, ping_s: float) -> EventSourceResponse:
    """Answer with the head of a stream and its reconnection time."""
    response = EventSourceResponse(ping_interval=ping_s, sep="\n")
    response.headers["Cache-Control"] = "no-store"
    await response.prepare(request)
    async with step(SSE_WRITE):
        await response.write(frames.retry(frames.RETRY_MS))
    return response


async def finish(response: EventSourceResponse) -> None:
    """End a stream whose client may be gone."""
    with suppress(ConnectionResetError, RuntimeError):
        await response.write_eof()

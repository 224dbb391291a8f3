"""Event streams: one subscription per process, each event encoded once, written to many.

The database is the truth. An event only rings; the rows that follow are read for all objects that
rang, in one query, and written to every connection that has not had them. At every ping the
numbers of all streamed objects are compared with the database, so that an event that was lost
delays and never hides. A connection that does not read is cut at a bound of bytes; its client
comes back with the number of what it had last.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import islice

from aiohttp import web

from limner.core.errors import EngineUnavailable, FailpointReached, Invalid
from limner.core.failpoints import step
from limner.core.logs import get_logger
from limner.core.message import Envelope, Event
from limner.http import frames
from limner.http.channels import (
    AT_ONCE,
    CHECKS_AT_ONCE,
    KINDS,
    PROGRESS,
    Account,
    Channel,
    Pace,
    Reader,
    distribute,
    missing,
    to_all,
)
from limner.http.ports import Front
from limner.http.revocation import Revocation
from limner.http.seats import Seats
from limner.http.stream import SSE_WRITE, Stream
from limner.storage.sql.connection import Connection
from limner.storage.sql.lines import (
    Line,
    Place,
    Wish,
    by_object,
    last_numbers,
    lines_beyond,
    lines_of,
    newest_of,
    settled_id,
)

PING_S = 15.0
BATCH = 200
DIRTY_LIMIT = 20_000
REPLAY_LINES = 200
REPLAYS_AT_ONCE = 8
RETRY_MIN_MS = 1000
RETRY_MAX_MS = 5000
RECONNECT_S = 1.0
GATHER_S = 0.02

log = get_logger("sse")


class Hub:
    """All streams of a process; ``running`` keeps them fed until its block ends."""

    def __init__(self, front: Front, ping_s: float = PING_S) -> None:
        self._front = front
        self.ping_s = ping_s
        self.seats = Seats()
        self._revocation = Revocation(front, self.seats)
        self._channels: dict[str, Channel] = {}
        self._accounts: dict[str, Account] = {}
        self._dirty: dict[str, str] = {}
        self._moving: dict[str, Event] = {}
        self._news = asyncio.Event()
        self._pace, self._look_pace = Pace(AT_ONCE), Pace(CHECKS_AT_ONCE)
        self._replays = asyncio.Semaphore(REPLAYS_AT_ONCE)
        self.is_closing = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Feed the streams while the block runs."""
        loops = (self._listen, self._feed, self._ping, self._compare, self._revocation.run)
        tasks = [
            asyncio.create_task(self._kept(loop), name=f"sse_{loop.__name__}") for loop in loops
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
        for stream in self.seats.streams():
            # Jitter, so that not all come back at once.
            delay_ms = random.randint(RETRY_MIN_MS, RETRY_MAX_MS)  # noqa: S311
            stream.write(frames.retry(delay_ms))
            stream.end()
        for channel in self._channels.values():
            channel.wake()

    @property
    def _database(self) -> Connection:
        return self._front.database.read()

    @contextmanager
    def joined(self, ident: str, stream: Stream) -> Iterator[None]:
        """Let a stream have what happens to an object while the block runs."""
        channel = self._channels.setdefault(ident, Channel(ident))
        channel.streams.add(stream)
        self._revocation.doubt(stream)
        try:
            with self._front.metrics.sse_connections.track_inprogress():
                yield
        finally:
            channel.streams.discard(stream)
            self._revocation.trust(stream)
            self._drop_idle(channel)

    @contextmanager
    def joined_account(self, ident: str, reader: Reader) -> Iterator[None]:
        """Let a stream have what happens to everything an account owns while the block runs."""
        account = self._accounts.setdefault(ident, Account(ident))
        account.readers.add(reader)
        self._revocation.doubt(reader.stream)
        try:
            with self._front.metrics.sse_connections.track_inprogress():
                yield
        finally:
            account.readers.discard(reader)
            self._revocation.trust(reader.stream)
            if not account.readers and self._accounts.get(ident) is account:
                del self._accounts[ident]

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
        if channel.is_idle and self._channels.get(channel.ident) is channel:
            del self._channels[channel.ident]

    async def catch_up(self, ident: str, stream: Stream) -> None:
        """Send what is stored beyond the stream's position, and from then on what comes.

        Raises:
            EngineUnavailable: the database does not answer.
        """
        channel = self._channels[ident]
        while not stream.is_ended:
            rings = channel.rings
            lines, is_whole = await lines_beyond(self._database, [Wish(ident, stream.position)])
            await self._send(stream, lines)
            if not is_whole:
                await stream.taken()
            # Nothing is awaited between this look and the stream's turning live.
            elif channel.rings == rings:
                channel.turn_live(stream)
                return

    @staticmethod
    async def _send(stream: Stream, lines: list[Line]) -> None:
        told, ends = frames.frames_of(lines)
        for number, frame in told:
            async with step(SSE_WRITE):
                stream.write(frame)
            stream.position = number
        if ends:
            stream.end()

    async def replay(self, ident: str, reader: Reader, place: Place) -> None:
        """Send an account's lines from a place on to the newest.

        Raises:
            EngineUnavailable: the database does not answer.
        """
        after, stream = place.after, reader.stream
        async with self._replays:
            while not stream.is_ended:
                lines = await lines_of(self._database, ident, after, REPLAY_LINES)
                for line in lines:
                    async with step(SSE_WRITE):
                        reader.replay(line, place.settled)
                    after = line.id
                if len(lines) < REPLAY_LINES:
                    break
                await stream.taken()
        reader.settle(place.settled)

    async def begin(self, ident: str, reader: Reader) -> None:
        """Let a stream have what comes, and what came since its past was read."""
        reader.stream.is_live = True
        # If the database does not answer now, the next ping finds the same.
        with suppress(EngineUnavailable):
            await self._look_at({ident: [reader]})

    async def _listen(self) -> None:
        """Hear what happens; what happened while nobody heard is looked for first."""
        async with self._front.broker.subscribe() as events:
            self._ring(self._channels)
            await self._look_at_all()
            async for envelope in events:
                await self._hear(envelope)

    async def _hear(self, envelope: Envelope) -> None:
        try:
            event = Event.from_bytes(envelope.body)
        except Invalid:
            log.warning("an event that is none", topic=envelope.topic)
            return
        subject, owner, name = event.subject, event.user_id or "", event.type
        ident, kind = subject.get("id", ""), KINDS.get(subject.get("kind", ""))
        account = self._accounts.get(owner)
        if kind is not None and not kind.is_stored:
            if account is not None:
                await account.tell(event, self._pace, as_progress=False)
            self._revocation.hear(event)
        elif ident in self._channels or (account is not None and kind is not None):
            if name.endswith(PROGRESS):
                # The latest replaces the one before, if that has not been sent yet.
                self._moving[ident] = event
                self._news.set()
            else:
                self._ring((ident,), "" if account is None else owner)

    def _ring(self, idents: Iterable[str], owner: str = "") -> None:
        """Have objects looked at, for their own streams and for those of ``owner``, if one."""
        for ident in idents:
            channel = self._channels.get(ident)
            if channel is not None:
                channel.rings += 1
            elif len(self._dirty) >= DIRTY_LIMIT:
                # The next comparison finds it.
                continue
            self._dirty[ident] = owner or self._dirty.get(ident, "")
            self._news.set()

    def _ring_again(self, batch: dict[str, str]) -> None:
        for ident, owner in batch.items():
            self._ring((ident,), owner)

    async def _feed(self) -> None:
        """Read and send what is new; while one read runs, the next ones gather."""
        while True:
            await self._news.wait()
            self._news.clear()
            moving, self._moving = self._moving, {}
            oldest = list(islice(self._dirty, BATCH))
            batch = {ident: self._dirty.pop(ident) for ident in oldest}
            try:
                await self._refresh(batch)
            except (EngineUnavailable, FailpointReached) as error:
                log.warning("streams wait", error=error.detail)
                await asyncio.sleep(RECONNECT_S)
                self._ring_again(batch)
            for ident, event in moving.items():
                await self._tell(ident, event)
            if self._dirty:
                self._news.set()
            # A short pause gathers what comes close together and bounds the number of queries.
            await asyncio.sleep(0 if self._dirty else GATHER_S)

    async def _refresh(self, batch: dict[str, str]) -> None:
        """Read what the streams of these objects and accounts lack, and write it to them."""
        wishes, targets = dict[Wish, None](), dict[str, tuple[Channel | None, list[Reader]]]()
        for ident, owner in batch.items():
            channel, account = self._channels.get(ident), self._accounts.get(owner)
            if channel is not None:
                channel.wake()
                if channel.is_live:
                    wishes[Wish(ident, channel.position)] = None
                else:
                    channel = None
            readers = account.live if account is not None else []
            for reader in readers:
                wishes[reader.wish(ident)] = None
            # Who turns live while we read was not asked for: some lines before ours may be missing.
            targets[ident] = channel, readers
        wanted = list(wishes)
        for start in range(0, len(wanted), BATCH):
            lines, is_whole = await lines_beyond(self._database, wanted[start : start + BATCH])
            for ident, its_lines in by_object(lines).items():
                channel, readers = targets[ident]
                if channel is not None:
                    await channel.distribute(its_lines, self._pace)
                if readers:
                    await distribute(readers, its_lines, self._pace)
            if not is_whole:
                self._ring_again(batch)

    async def _tell(self, ident: str, event: Event) -> None:
        channel, account = self._channels.get(ident), self._accounts.get(event.user_id or "")
        if channel is not None:
            await channel.tell(event)
        if account is not None:
            await account.tell(event, self._pace, as_progress=True)

    async def _ping(self) -> None:
        """Write one frame to all, so that nobody between us and them gives up a quiet stream."""
        while True:
            await asyncio.sleep(self.ping_s)
            await to_all(self.seats.streams(), frames.PING)

    async def _compare(self) -> None:
        """Look at each ping for objects that moved without our hearing of it."""
        while True:
            await asyncio.sleep(self.ping_s)
            idents = list(self._channels)
            for start in range(0, len(idents), BATCH):
                newest = await last_numbers(self._database, idents[start : start + BATCH])
                self._ring([one for one, number in newest.items() if self._lags(one, number)])
            await self._look_at_all()

    def _lags(self, ident: str, number: int) -> bool:
        channel = self._channels.get(ident)
        return channel is not None and number > channel.position

    async def _look_at_all(self) -> None:
        accounts = list(self._accounts.values())
        for start in range(0, len(accounts), BATCH):
            some = accounts[start : start + BATCH]
            live = {account.ident: readers for account in some if (readers := account.live)}
            if live:
                await self._look_at(live)

    async def _look_at(self, live: Mapping[str, list[Reader]]) -> None:
        """Find what streams of accounts lack, whether or not it was heard of."""
        # Read before the lines: up to there, they show everything there will ever be.
        settled = await settled_id(self._database)
        behind = min(reader.settled for readers in live.values() for reader in readers)
        newest = await newest_of(self._database, list(live), behind, settled)
        for owner, readers in live.items():
            its_newest = newest.get(owner, [])
            self._ring(await missing(readers, its_newest, settled, self._look_pace), owner)


HUB: web.AppKey[Hub] = web.AppKey("hub", Hub)

"""What streams are about, an object or everything an account owns, and who listens to it."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from limner.core.failpoints import step
from limner.core.message import Event
from limner.http import frames
from limner.http.frames import Frame
from limner.http.stream import SSE_WRITE, Stream
from limner.storage.sql.lines import Line, Newest, Wish

T = TypeVar("T")

AT_ONCE = 500
"""After so many writes everybody else has a turn: that is some milliseconds."""
CHECKS_AT_ONCE = 10_000
"""The same for looks at what was sent, which are cheaper."""
KNOWN_LIMIT = 10_000
PROGRESS = ".progress"


@dataclass(frozen=True, slots=True)
class Kind:
    """What an account's stream carries of a kind of object; ``is_stored``: it has a timeline."""

    scope: str
    is_stored: bool = True


KINDS = {
    "task": Kind("tasks:read"),
    "job": Kind("generate:read"),
    "notification": Kind("account:read", is_stored=False),
    "session": Kind("account:read", is_stored=False),
    "user": Kind("account:read", is_stored=False),
}


def turns(listeners: Iterable[T]) -> list[tuple[T, ...]]:
    """Cut listeners into turns of ``AT_ONCE``; between them the rest of the process has its own."""
    everybody = tuple(listeners)
    if len(everybody) <= AT_ONCE:
        return [everybody]
    return [everybody[start : start + AT_ONCE] for start in range(0, len(everybody), AT_ONCE)]


class Pace:
    """Gives everybody else a turn after ``limit`` pieces of work, whoever has done them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._done = 0

    async def add(self, count: int) -> None:
        """Count what was done in one go."""
        self._done += count
        if self._done >= self._limit:
            self._done = 0
            await asyncio.sleep(0)


async def to_all(streams: Iterable[Stream], frame: Frame) -> None:
    """Write to many streams."""
    for turn in turns(streams):
        for stream in turn:
            stream.write(frame)
        await asyncio.sleep(0)


@dataclass(eq=False)
class Channel:
    """One streamed object: who listens, and what all its live streams were sent.

    ``rings`` counts what a stream that catches up must not have missed: news, and each move of
    ``position``, which may go past what that stream has read.
    """

    ident: str
    position: int = 0
    streams: set[Stream] = field(default_factory=set)
    waiters: set[asyncio.Event] = field(default_factory=set)
    rings: int = 0

    @property
    def is_idle(self) -> bool:
        """Whether nobody listens."""
        return not self.streams and not self.waiters

    @property
    def is_live(self) -> bool:
        """Whether there is a stream that waits for news."""
        for stream in self.streams:  # noqa: SIM110 - a generator would cost more than the look
            if stream.is_live:
                return True
        return False

    def wake(self) -> None:
        """Wake who waits for the object's end."""
        for waiter in self.waiters:
            waiter.set()

    async def distribute(self, lines: Sequence[Line], pace: Pace) -> None:
        """Write to all live streams what they have not had; the terminal event ends them."""
        # Who reads now may not find these lines, and their own event may still be on its way.
        # Who begins to read after this finds them, and may turn live between two turns.
        self.rings += 1
        told, ends = frames.frames_of(lines)
        for number, frame in told:
            async with step(SSE_WRITE):
                for turn in turns(self.streams):
                    for stream in turn:
                        if stream.is_live and stream.position < number:
                            stream.write(frame)
                            stream.position = number
                    await pace.add(len(turn))
            self.position = max(self.position, number)
        if ends:
            for stream in tuple(self.streams):
                # One that has turned live meanwhile may know that the object has moved on.
                if stream.is_live and stream.position <= told[-1][0]:
                    stream.end()

    def turn_live(self, stream: Stream) -> None:
        """Let a stream that has had everything wait for news."""
        if not self.is_live:
            self.position = stream.position
            # Others that catch up may have read before this one did.
            self.rings += 1
        stream.is_live = True

    async def tell(self, event: Event) -> None:
        """Write progress, which is not stored: to whoever has taken everything else."""
        frame = frames.encode("progress", event.data)
        ready = [one for one in self.streams if one.is_live and not one.backlog_bytes]
        await to_all(ready, frame)


@dataclass(eq=False, slots=True)
class Reader:
    """A stream of everything an account owns, and what it was sent.

    Everything up to the row ``settled`` was sent, and of each object in ``known`` everything up
    to (number, row): the row's own id alone would not tell, see ``lines``.
    """

    stream: Stream
    settled: int
    known: dict[str, tuple[int, int]] = field(default_factory=dict)

    def may_see(self, kind: str) -> bool:
        """Whether the caller's scopes allow events of a kind."""
        known = KINDS.get(kind)
        return known is not None and known.scope in self.stream.caller.scopes

    def lacks(self, newest: Newest | Line) -> bool:
        """Whether an object has lines that were not sent, given its newest."""
        known = self.known.get(newest.object_id)
        return newest.n > known[0] if known is not None else newest.id > self.settled

    def wish(self, object_id: str) -> Wish:
        """Ask for the lines of an object that were not sent."""
        known = self.known.get(object_id)
        if known is not None:
            return Wish(object_id, known[0])
        return Wish(object_id, None, self.settled)

    def note(self, newest: Newest | Line) -> None:
        """Remember up to where an object was told; one who would need too much is cut."""
        if self.lacks(newest):
            self.known[newest.object_id] = (newest.n, newest.id)
        if len(self.known) > KNOWN_LIMIT:
            self.stream.cut()

    def replay(self, line: Line, settled: int) -> None:
        """Send a line of the past; they come by their rows, and none up to ``settled`` is late."""
        if self.may_see(line.kind):
            self.stream.write(frames.shared_frame_of(line, self.settled))
        if line.id <= settled:
            self.settled = line.id
        else:
            self.note(line)

    def settle(self, row: int) -> None:
        """Take note that everything up to ``row`` was sent, and forget what that makes needless."""
        if row <= self.settled:
            return
        self.settled = row
        self.known = {one: last for one, last in self.known.items() if last[1] > row}
        self.stream.write(frames.position(row))


@dataclass(eq=False)
class Account:
    """Everything an account owns: who listens to it."""

    ident: str
    readers: set[Reader] = field(default_factory=set)

    @property
    def live(self) -> list[Reader]:
        """Those that have had their replay."""
        return [reader for reader in self.readers if reader.stream.is_live]

    async def tell(self, event: Event, pace: Pace, *, as_progress: bool) -> None:
        """Write what is not stored: progress, or something that has no timeline."""
        kind = event.subject.get("kind", "")
        data = frames.named(event.data, kind, event.subject.get("id", ""))
        frame = frames.encode("progress" if as_progress else event.type, data)
        for turn in turns(self.live):
            for reader in turn:
                if reader.may_see(kind) and not (as_progress and reader.stream.backlog_bytes):
                    reader.stream.write(frame)
            await pace.add(len(turn))


async def distribute(readers: Sequence[Reader], lines: Sequence[Line], pace: Pace) -> None:
    """Write to readers the lines of an object that they lack, ascending."""
    for line in lines:
        made: dict[int, Frame] = {}
        async with step(SSE_WRITE):
            for turn in turns(readers):
                for reader in turn:
                    if not reader.lacks(line):
                        continue
                    if reader.may_see(line.kind):
                        frame = made.get(reader.settled)
                        if frame is None:
                            frame = frames.shared_frame_of(line, reader.settled)
                            made[reader.settled] = frame
                        reader.stream.write(frame)
                    reader.note(line)
                await pace.add(len(turn))


async def missing(
    readers: Sequence[Reader], newest: Sequence[Newest], settled: int, pace: Pace
) -> Iterable[str]:
    """Give the objects of which some reader lacks lines; who lacks no settled line is settled.

    ``newest`` must have been read after ``settled`` and for it, and tell of all that is behind any
    reader. Young lines that are on their way do not keep a reader from settling: on a busy account
    there always are some.
    """
    lacking = dict[str, None]()
    for reader in readers:
        lacked = [one for one in newest if reader.lacks(one)]
        lacking.update((one.object_id, None) for one in lacked)
        if not any(one.old is not None and reader.lacks(one.old) for one in lacked):
            reader.settle(settled)
        await pace.add(len(newest) + len(reader.known) + 1)
    return lacking

"""Streams side by side: who turns live while others are fed, who settles, and everybody's turns."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from limner.core.clock import HeldClock
from limner.core.ids import uuid7
from limner.core.message import Event
from limner.http import channels, sse
from limner.http.auth.callers import Caller
from limner.http.channels import Account, Channel, Pace, Reader, distribute, missing
from limner.http.frames import Frame
from limner.http.sse import Hub
from limner.http.stream import Stream
from limner.storage.sql.connection import Connection
from limner.storage.sql.lines import Line, Newest, Wish
from tests.fakes.front import PATIENCE_S, Stage, staged, until

TASK = "task_1"
AT_ONCE = 10


class Recorder(Stream):
    """A stream without a connection: keeps the ids of what it was sent."""

    def __init__(self, position: int = 0, on_write: Callable[[], None] | None = None) -> None:
        self.caller = Caller(scopes=frozenset({"tasks:read"}))
        self.position = position
        self.is_live = self.is_ended = False
        self.got: list[str] = []
        self.on_write = on_write

    @property
    def backlog_bytes(self) -> int:
        return 0

    def write(self, frame: Frame) -> None:
        self.got.append(frame.plain.split(b"\n")[0].decode().removeprefix("id: "))
        if self.on_write is not None:
            self.on_write()

    def end(self) -> None:
        self.is_ended = True


class Reads:
    """Reads that see what is stored when they begin, and answer when they are let."""

    def __init__(self, *numbers: int) -> None:
        self.stored = [line(number) for number in numbers]
        self.held: list[asyncio.Event] = []
        self.holds = True

    async def __call__(self, _: Connection, wishes: Sequence[Wish]) -> tuple[list[Line], bool]:
        seen = [one for one in self.stored if one.n > min(wish.n or 0 for wish in wishes)]
        if self.holds:
            let = asyncio.Event()
            self.held.append(let)
            await let.wait()
        return seen, True


def line(number: int, kind: str = "status", ident: str = TASK) -> Line:
    return Line(number, "task", ident, number, "2026-11-22T12:00:00Z", kind, "new", "", "{}")


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    made = Reads(1, 2, 3, 4, 5)
    monkeypatch.setattr(sse, "lines_beyond", made)
    return made


@pytest.fixture
def hub(stage: Stage, reads: Reads) -> Hub:
    """A hub that is fed by hand."""
    return Hub(stage.front)


def joined(hub: Hub, stack: ExitStack, count: int) -> tuple[Channel, list[Recorder]]:
    """Join streams that have had everything; they are in the order in which they are written to."""
    made = [Recorder(5) for _ in range(count)]
    for one in made:
        stack.enter_context(hub.joined(TASK, one))
    channel = hub._channels[TASK]
    return channel, [one for one in channel.streams if isinstance(one, Recorder)]


async def test_a_stream_that_catches_up_is_not_passed_by_lines_that_others_are_fed(
    hub: Hub, reads: Reads
) -> None:
    with ExitStack() as stack:
        channel, [late, fed] = joined(hub, stack, 2)
        channel.turn_live(fed)
        catching = asyncio.create_task(hub.catch_up(TASK, late))
        await until(lambda: len(reads.held) == 1)
        # Committed; their events are still on their way, and something else has rung before.
        reads.stored += [line(6), line(7, "done")]
        feeding = asyncio.create_task(hub._refresh({TASK: ""}))
        await until(lambda: len(reads.held) == 2)
        reads.held[1].set()
        await feeding
        assert (fed.got, fed.is_ended) == (["6", "7"], True)
        reads.holds = False
        reads.held[0].set()
        async with asyncio.timeout(PATIENCE_S):
            await catching
        await hub._refresh({TASK: ""})
        assert (late.got, late.is_ended) == (["6", "7"], True)


async def test_of_two_that_catch_up_the_one_that_read_earlier_misses_nothing(
    hub: Hub, reads: Reads
) -> None:
    with ExitStack() as stack:
        _, [late, early] = joined(hub, stack, 2)
        catching = [asyncio.create_task(hub.catch_up(TASK, late))]
        await until(lambda: len(reads.held) == 1)
        reads.stored += [line(6), line(7)]
        catching.append(asyncio.create_task(hub.catch_up(TASK, early)))
        await until(lambda: len(reads.held) == 2)
        reads.holds = False
        reads.held[1].set()
        await until(lambda: early.is_live)
        reads.held[0].set()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*catching)
        await hub._refresh({TASK: ""})
        assert (early.got, late.got) == (["6", "7"], ["6", "7"])


async def test_a_stream_that_turns_live_between_two_turns_misses_nothing(
    hub: Hub, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "AT_ONCE", 1)
    monkeypatch.setattr(hub, "_pace", Pace(1))
    with ExitStack() as stack:
        channel, [late, *others] = joined(hub, stack, 5)
        for one in others:
            channel.turn_live(one)
        catching = asyncio.create_task(hub.catch_up(TASK, late))
        await until(lambda: len(reads.held) == 1)
        reads.stored += [line(6), line(7), line(8)]
        reads.holds = False
        # Its own turn with the first line is over when its read answers.
        others[0].on_write = reads.held[0].set
        await hub._refresh({TASK: ""})
        async with asyncio.timeout(PATIENCE_S):
            await catching
        await hub._refresh({TASK: ""})
        for one in (late, *others):
            assert one.got == ["6", "7", "8"]


async def test_an_end_that_was_overtaken_does_not_end_who_knows_more(
    hub: Hub, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "AT_ONCE", 1)
    with ExitStack() as stack:
        channel, [late, *others] = joined(hub, stack, 10)
        for one in others:
            channel.turn_live(one)
        reads.holds = False
        reads.stored += [line(6, "done"), line(7)]
        started: list[asyncio.Task[None]] = []

        def start() -> None:
            started.append(asyncio.create_task(hub.catch_up(TASK, late)))

        others[0].on_write = start
        await channel.distribute([line(6, "done")], Pace(1))
        await asyncio.gather(*started)
        assert all(one.is_ended for one in others)
        assert (late.got, late.is_live, late.is_ended) == (["6", "7"], True, False)


def slices(work: Coroutine[Any, Any, Any], count: Callable[[], int]) -> list[int]:
    """Give how much is done in each go: between two of these, everybody else has a turn."""
    found, before = list[int](), count()
    while True:
        try:
            work.send(None)
        except StopIteration:
            return [*found, count() - before]
        found.append(count() - before)
        before = count()


def readers_of(count: int) -> list[Reader]:
    made = [Reader(Recorder(), 0) for _ in range(count)]
    for reader in made:
        reader.stream.is_live = True
    return made


def written(streams: Iterable[Stream]) -> Callable[[], int]:
    recorders = [one for one in streams if isinstance(one, Recorder)]
    return lambda: sum(len(one.got) for one in recorders)


@pytest.mark.parametrize(("count", "lines"), [(95, 7), (3, 200)])
@pytest.mark.parametrize("whose", ["account", "object"])
def test_while_many_are_written_to_everybody_else_has_turns(
    monkeypatch: pytest.MonkeyPatch, whose: str, count: int, lines: int
) -> None:
    monkeypatch.setattr(channels, "AT_ONCE", AT_ONCE)
    readers, told = readers_of(count), [line(number) for number in range(1, lines + 1)]
    streams = [reader.stream for reader in readers]
    if whose == "account":
        work = distribute(readers, told, Pace(AT_ONCE))
    else:
        work = Channel(TASK, streams=set(streams)).distribute(told, Pace(AT_ONCE))
    found = slices(work, written(streams))
    assert sum(found) == count * lines
    assert max(found) < 2 * AT_ONCE


@pytest.mark.parametrize("as_progress", [True, False])
def test_while_many_are_told_what_is_not_stored_everybody_else_has_turns(
    monkeypatch: pytest.MonkeyPatch, clock: HeldClock, as_progress: bool
) -> None:
    monkeypatch.setattr(channels, "AT_ONCE", AT_ONCE)
    readers = readers_of(95)
    account = Account("user_1", set(readers))
    subject = {"kind": "task", "id": TASK}
    event = Event(id=uuid7().hex, type="task.x", at=clock.now(), subject=subject, data={})
    work = account.tell(event, Pace(AT_ONCE), as_progress=as_progress)
    found = slices(work, written(reader.stream for reader in readers))
    assert sum(found) == 95
    assert max(found) < 2 * AT_ONCE


def test_while_is_found_what_many_lack_everybody_else_has_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks, lacks = [0], Reader.lacks

    def count(self: Reader, newest: Newest | Line) -> bool:
        looks[0] += 1
        return lacks(self, newest)

    monkeypatch.setattr(Reader, "lacks", count)
    newest = [Newest(f"task_{number}", 1, number) for number in range(1, 21)]
    found = slices(missing(readers_of(95), newest, 0, Pace(50)), lambda: looks[0])
    assert sum(found) == 95 * 20
    assert max(found) < 50 + 20


async def test_young_lines_on_their_way_do_not_keep_a_reader_from_settling() -> None:
    [reader] = readers_of(1)
    reader.note(line(10, ident="task_a"))
    reader.note(line(30, ident="task_c"))
    newest = [
        Newest("task_a", 25, 25, Newest("task_a", 10, 10)),
        Newest("task_b", 26, 26),
        Newest("task_c", 30, 30, Newest("task_c", 15, 15)),
    ]
    assert list(await missing([reader], newest, 20, Pace(1))) == ["task_a", "task_b"]
    assert (reader.settled, reader.known) == (20, {"task_c": (30, 30)})
    # What it lacks it still asks for.
    assert reader.wish("task_a") == Wish("task_a", None, 20)
    assert [reader.lacks(one) for one in newest] == [True, True, False]


@pytest.mark.parametrize("known", [None, 10])
async def test_a_settled_line_that_was_not_sent_keeps_a_reader_where_it_is(
    known: int | None,
) -> None:
    [reader] = readers_of(1)
    if known is not None:
        reader.note(line(known))
    before = reader.settled, dict(reader.known)
    # It was committed late: its id is below others that were sent long ago.
    newest = [Newest(TASK, 25, 25, Newest(TASK, 11, 11)), Newest("task_2", 26, 26)]
    assert list(await missing([reader], newest, 20, Pace(1))) == [TASK, "task_2"]
    assert (reader.settled, reader.known) == before

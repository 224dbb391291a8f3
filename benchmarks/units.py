"""Units of work per second: one guarded move, its timeline line, one message taken, one sent.

The ceiling on SQLite is what the same run committed, statement by statement, on a bare sqlite3
connection; on MariaDB it is the same statements in transactions of their own by bare aiomysql.
"""

import asyncio
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import servers, tape, transactions
from benchmarks.child import Measured, call
from benchmarks.result import Figure, Result, column, ratios
from limner.actors.status.messages import Check
from limner.core.brokers.embedded import EmbeddedBroker
from limner.core.clock import SystemClock
from limner.core.message import Envelope
from limner.core.unit import Commit
from limner.storage.sql.accounts import OWNER_ID
from limner.storage.sql.database import Database
from limner.storage.sql.schema import migrate
from limner.storage.sql.tasks import Task
from limner.storage.sql.unit import SqlUnits
from tests.engines.mariadb import MariaDbServer

TASKS = 50
STATES = ("running", "unknown")
"""A task may go from each to the other, so that it can be moved as often as one likes."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure; ``at_once`` are how many units wait for their commit together."""

    units: int = 2000
    at_once: tuple[int, ...] = (1, 4, 16, 50)
    on_mariadb: tuple[int, ...] = (1, 50)
    group: int = 16
    rounds: int = 3


FULL = Size()
QUICK = Size(units=20, at_once=(1, 2), on_mariadb=(1, 2), group=4, rounds=1)


class KeepingBroker(EmbeddedBroker):
    """Stands for a broker that loses nothing; nothing is published in this benchmark."""

    durable = True


class Bench:
    """Tasks that are moved to and fro, each by the message that the move before has sent."""

    def __init__(self, database: Database) -> None:
        self._clock = database.clock
        # On a server, messages go over a broker that keeps them, and units are merged.
        kind = EmbeddedBroker if database.dialect == "sqlite" else KeepingBroker
        self._units = SqlUnits(database, kind(self._clock), self._clock, self._take)
        self._tasks: dict[str, Task] = {}
        self._waiting: deque[Envelope] = deque()

    async def _take(self, envelopes: list[Envelope]) -> None:
        self._waiting += [each for each in envelopes if each.kind == "command"]

    @property
    def group(self) -> float:
        """The mean number of units in a commit."""
        return self._units.committer.units / self._units.committer.groups

    async def prepare(self) -> None:
        """Store the tasks and a message for each."""
        work = self._units.open("benchmark")
        for n in range(TASKS):
            task = Task(
                id=f"task_{n:03}",
                state=STATES[0],
                user_id=OWNER_ID,
                comment_id=f"comment_{n:03}",
                source_id="source",
                prompt="a red circle",
            )
            self._tasks[task.id] = task
            work.add(task)
            work.send(Check(task_id=task.id))
        await self._units.commit(work)

    async def handle(self, count: int, at_once: int) -> None:
        """Handle ``count`` messages, ``at_once`` at the same time.

        Raises:
            RuntimeError: a unit was not committed.
        """
        left = iter(range(count))

        async def one_by_one() -> None:
            for _ in left:
                await self._handle(self._waiting.popleft())

        await asyncio.gather(*(one_by_one() for _ in range(at_once)))

    async def _handle(self, envelope: Envelope) -> None:
        task = self._tasks[Check.from_bytes(envelope.body).task_id]
        before, after = STATES if task.state == STATES[0] else STATES[::-1]
        work = self._units.open("benchmark", envelope)
        work.follow(task.trace_id)
        work.move(task, expected=before, to=after)
        work.send(Check(task_id=task.id))
        task.state = after
        if await self._units.commit(work) is not Commit.DONE:
            raise RuntimeError("a unit was not committed")


@asynccontextmanager
async def _bench(database_url: str) -> AsyncIterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="limner-bench-") as folder:
        database = Database(database_url or f"sqlite://{folder}/limner.db", SystemClock())
        await database.open()
        try:
            await migrate(database)
            bench = Bench(database)
            await bench.prepare()
            yield bench
        finally:
            await database.close()


async def commit(units: int, at_once: int, database_url: str = "") -> Measured:
    """Commit ``units`` units."""
    async with _bench(database_url) as bench:
        cpu_s, started = time.process_time(), time.perf_counter()
        await bench.handle(units, at_once)
        seconds = time.perf_counter() - started
        cpu_ms = (time.process_time() - cpu_s) / units * 1000
        return {"seconds": seconds, "cpu_ms": cpu_ms, "group": bench.group}


async def record(units: int, folder: str) -> Measured:
    """Commit the same units once more, untimed, and keep what the writer did."""
    async with _bench("") as bench, tape.recording(Path(folder)) as made:
        await bench.handle(units, 1)
    return {"statements": made.statements / units, "hops": made.hops / units}


async def bare(units: int, at_once: int, database_url: str) -> Measured:
    """Commit as many transactions with the statements of a unit by bare aiomysql."""
    async with _bench(database_url):
        pass
    return await transactions.commit(database_url, units, at_once, TASKS)


async def run(size: Size = FULL) -> Result:
    """Measure units and bare transactions in turn, on SQLite, then on MariaDB."""
    figures = await _on_sqlite(size)
    notes = [tape.CEILING]
    try:
        async with servers.mariadb_running() as mariadb:
            figures += await _on_mariadb(size, mariadb)
        notes.append(transactions.CEILING)
    except servers.EnginesMissing as reason:
        notes.append(f"MariaDB was left out: {reason}")
    return Result(
        "units",
        "units of work per second: a message taken, a guarded move, its line, a message sent",
        tuple(figures),
        {**asdict(size), "tasks": TASKS},
        tuple(notes),
    )


async def _on_sqlite(size: Size) -> list[Figure]:
    limner: dict[int, list[Measured]] = {at_once: [] for at_once in size.at_once}
    alone: list[Measured] = []
    grouped: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="limner-bench-") as scratch:
        kept = await call(record, units=size.units, folder=scratch)
        for _ in range(size.rounds):
            for at_once, taken in limner.items():
                taken.append(await call(commit, units=size.units, at_once=at_once))
            alone.append(await call(tape.replay, folder=scratch))
            grouped.append(await call(tape.replay, folder=scratch, group=size.group))
    ceiling = column(alone, "seconds")
    figures = [
        Figure("statements", "/unit", (kept["statements"],)),
        Figure("thread hops of the writer", "/unit", (kept["hops"],)),
        Figure("ceiling", "units/s", _rates(size.units, ceiling)),
        Figure(
            f"ceiling, {size.group} units to a commit",
            "units/s",
            _rates(size.units, column(grouped, "seconds")),
        ),
    ]
    for at_once, taken in limner.items():
        figures += _rows(f"{at_once} at once", size.units, taken, ceiling)
    return figures


async def _on_mariadb(size: Size, mariadb: MariaDbServer) -> list[Figure]:
    limner: dict[int, list[Measured]] = {at_once: [] for at_once in size.on_mariadb}
    ceilings: dict[int, list[Measured]] = {at_once: [] for at_once in size.on_mariadb}
    for _ in range(size.rounds):
        for at_once, taken in limner.items():
            for function, rows in ((commit, taken), (bare, ceilings[at_once])):
                url = await asyncio.to_thread(mariadb.fresh_database)
                given: dict[str, Any] = {"at_once": at_once, "database_url": url}
                rows.append(await call(function, units=size.units, **given))
                await asyncio.to_thread(mariadb.drop_database, url)
    figures = []
    for at_once, taken in limner.items():
        ceiling = column(ceilings[at_once], "seconds")
        name = f"MariaDB, {at_once} at once"
        figures += _rows(name, size.units, taken, ceiling)
        figures += [
            Figure(f"{name}: bare transactions", "units/s", _rates(size.units, ceiling)),
            Figure(f"{name}: bare, processor", "ms/unit", column(ceilings[at_once], "cpu_ms")),
        ]
    return figures


def _rows(name: str, units: int, taken: list[Measured], ceiling: tuple[float, ...]) -> list[Figure]:
    seconds = column(taken, "seconds")
    return [
        Figure(f"{name}: units", "units/s", _rates(units, seconds)),
        Figure(f"{name}: processor", "ms/unit", column(taken, "cpu_ms")),
        Figure(f"{name}: units to a commit", "mean", column(taken, "group")),
        Figure(f"{name}: of the ceiling", "×", ratios(ceiling, seconds)),
    ]


def _rates(units: int, seconds: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(units / each for each in seconds)

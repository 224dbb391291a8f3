"""A worker: Limner's own loop, units, outbox and broker around handlers that do next to nothing."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks import memory
from benchmarks.child import Measured, gate
from benchmarks.count import Count
from limner.core.actor import Actor, ActorLoop
from limner.core.broker import Broker
from limner.core.brokers.embedded import EmbeddedBroker
from limner.core.clock import SystemClock
from limner.core.message import Message
from limner.core.metrics import Metrics
from limner.core.unit import UnitOfWork
from limner.storage.sql.accounts import OWNER_ID
from limner.storage.sql.database import Database
from limner.storage.sql.outbox import Outbox
from limner.storage.sql.tasks import Task
from limner.storage.sql.unit import SqlUnits

ACTOR = "bench"
CONCURRENCY = 100
TIMEOUT_S = 300.0
ATTEMPTS = 4
SETTLE_S = 10.0
LOOK_S = 0.02
STATES = ("pending", "extracted", "submitted", "running", "succeeded", "emailed")
"""The way of a task: five moves."""

MOVES = len(STATES) - 1


class Nothing(Message):
    """A message that asks for nothing."""

    topic: ClassVar[str] = "bench.nothing"

    n: int


class Move(Message):
    """Ask for a task to go on from ``STATES[stage]``."""

    topic: ClassVar[str] = "bench.move"

    task_id: str
    stage: int


class Unfinished(RuntimeError):
    """What was measured did not do all of its work, so its figures mean nothing."""


@dataclass
class Worker:
    """The parts of a process that runs actors."""

    database: Database
    broker: Broker
    outbox: Outbox
    units: SqlUnits
    metrics: Metrics


@asynccontextmanager
async def opened(database_url: str, broker_url: str = "") -> AsyncIterator[Worker]:
    """Open everything for the time of a block; without ``broker_url`` the embedded broker."""
    clock, metrics = SystemClock(), Metrics("benchmark")
    database = Database(database_url, clock)
    await database.open()
    broker = _broker(broker_url, clock)
    outbox = Outbox(database, broker, clock, metrics)
    try:
        units = SqlUnits(database, broker, clock, outbox.offer)
        yield Worker(database, broker, outbox, units, metrics)
    finally:
        await outbox.drain()
        await broker.aclose()
        await database.close()


def _broker(url: str, clock: SystemClock) -> Broker:
    if not url:
        return EmbeddedBroker(clock)
    from limner.core.brokers.rabbit import RabbitBroker

    return RabbitBroker(url, clock)


class Idle:
    """Does nothing with a message but count it."""

    def __init__(self, count: Count) -> None:
        self._count = count

    async def handle(self, message: Nothing, work: UnitOfWork) -> None:
        """Count."""
        del message, work
        self._count.begin()
        self._count.one()


class Mover:
    """Moves a task one state on and sends the message for the next move."""

    def __init__(self, count: Count) -> None:
        self._count = count
        self._like = new_task("", "")

    async def handle(self, message: Move, work: UnitOfWork) -> None:
        """Move; the last move of a task counts.

        The row is not read first, as the ceiling reads none; that costs what a model costs.
        """
        self._count.begin()
        task, stage = copy(self._like), message.stage
        task.id, task.state = message.task_id, STATES[stage]
        work.follow(work.trace_id)
        work.move(task, expected=STATES[stage], to=STATES[stage + 1])
        if stage + 1 < MOVES:
            work.send(Move(task_id=task.id, stage=stage + 1))
        else:
            self._count.one()


def new_task(ident: str, comment_id: str) -> Task:
    """Give a task at the beginning of its way."""
    return Task(
        id=ident,
        state=STATES[0],
        user_id=OWNER_ID,
        comment_id=comment_id,
        source_id="source",
        prompt="a red circle",
    )


async def consume(
    database_url: str,
    broker_url: str,
    kind: str,
    wanted: int,
    waiting: int = 0,
    count_path: str = "",
    slot: int = 0,
) -> Measured:
    """Handle ``kind`` (``jobs`` or ``chain5``) until ``wanted`` are done, then what is in hand.

    Of what waits in an embedded outbox, ``waiting`` messages are in memory before the start; the
    relay brings the rest.
    """
    count = Count(wanted, count_path, slot)
    async with opened(database_url, broker_url) as worker:
        await worker.broker.start([ACTOR])
        actor: Actor[Any] = (
            Actor(ACTOR, Nothing, Idle(count))
            if kind == "jobs"
            else Actor(ACTOR, Move, Mover(count))
        )
        if not broker_url:
            await _recover(worker, waiting)
        await gate()
        await _loops(worker, actor, count)
        told = count.told()
        committer = worker.units.committer
        return {
            **told,
            "resident_mib": memory.resident_mib(),
            "peak_mib": memory.peak_mib(),
            "group": committer.units / max(1, committer.groups),
        }


async def _recover(worker: Worker, waiting: int) -> None:
    """Take what waits in the outbox into memory, as a process does that starts."""
    await worker.outbox.recover()
    taken = 0
    while taken < waiting:
        some = await worker.outbox.relay_once()
        if not some:
            raise Unfinished(f"{taken} messages wait in the outbox, not {waiting}")
        taken += some


async def _loops(worker: Worker, actor: Actor[Any], count: Count) -> None:
    """Run what a worker runs beside its inbox: the relay; then wait for what is being published."""
    ready = actor.with_defaults(concurrency=CONCURRENCY, timeout_s=TIMEOUT_S, max_attempts=ATTEMPTS)
    clock = worker.database.clock
    inbox = ActorLoop(ready, worker.broker, worker.units, clock, worker.metrics)
    async with asyncio.TaskGroup() as group:
        group.create_task(inbox.run(count.stop))
        group.create_task(worker.outbox.relay(count.stop))
        group.create_task(count.watch())
    await worker.outbox.drain()


async def check(database_url: str, broker_url: str, kind: str, wanted: int) -> Measured:
    """Look into a place whether ``wanted`` were done and nothing waits any more.

    Raises:
        Unfinished: they were not, or a message is lost or left over.
    """
    async with opened(database_url, broker_url) as worker:
        await worker.broker.start([ACTOR])
        rows = await worker.database.read().query(
            "SELECT (SELECT COUNT(*) FROM outbox) AS kept, (SELECT COUNT(*) FROM inbox) AS seen, "
            "(SELECT COUNT(*) FROM dead_letters) AS dead, "
            "(SELECT COUNT(*) FROM tasks WHERE state = 'emailed') AS moved, "
            "(SELECT COUNT(*) FROM timeline) AS line_count"
        )
        found = {name: int(value) for name, value in rows[0].items()}
        waiting = found["kept"] + (await _waiting(worker) if broker_url else 0)
    if found["dead"]:
        raise Unfinished(f"{found['dead']} dead letters")
    if waiting:
        raise Unfinished(f"{waiting} messages still wait")
    if kind == "jobs" and broker_url and found["seen"] != wanted:
        raise Unfinished(f"{found['seen']} of {wanted} messages were committed")
    if kind == "chain5" and (found["moved"], found["line_count"]) != (wanted, wanted * (MOVES + 2)):
        raise Unfinished(f"of {wanted} tasks: {found}")
    return found


async def _waiting(worker: Worker) -> int:
    """Give how many messages the queue holds; its own count follows a little later."""
    until = time.perf_counter() + SETTLE_S
    while True:
        ready = (await worker.broker.depth(ACTOR)).ready
        if not ready or time.perf_counter() > until:
            return ready
        await asyncio.sleep(LOOK_S)

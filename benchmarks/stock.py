"""What waits before a measurement begins: tables, tasks and messages, put there by a child."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from benchmarks.worker import ACTOR, Move, Nothing, Worker, new_task, opened
from limner.core.broker import Outcome
from limner.core.ids import new_id
from limner.core.message import Message, new_trace_id, seal
from limner.storage.sql.schema import migrate
from limner.storage.sql.tasks import Task

T = TypeVar("T")

AT_ONCE = 500


class NotStored(RuntimeError):
    """A message could not be put where it should wait."""


async def fill(database_url: str, broker_url: str, kind: str, wanted: int) -> None:
    """Make the tables, and what ``wanted`` jobs or chains begin with.

    Raises:
        NotStored: the broker did not take a message.
    """
    async with opened(database_url, broker_url) as worker:
        await migrate(worker.database)
        if broker_url:
            await worker.broker.start([ACTOR])
        for part in parts(range(wanted), AT_ONCE):
            messages: list[Message] = []
            if kind == "jobs":
                messages += [Nothing(n=n) for n in part]
            else:
                tasks = [new_task(new_id("task"), new_id("comment")) for _ in part]
                await _store(worker, tasks)
                messages += [Move(task_id=task.id, stage=0) for task in tasks]
            await _send(worker, messages)


def parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut ``items`` into lists of ``size``."""
    left = iter(items)
    while part := list(islice(left, size)):
        yield part


async def _store(worker: Worker, tasks: list[Task]) -> None:
    work = worker.units.open(ACTOR)
    work.add(*tasks)
    await worker.units.commit(work)


async def _send(worker: Worker, messages: list[Message]) -> None:
    """Publish; with the embedded broker, store rows for the process that is started next."""
    if not worker.broker.durable:
        work = worker.units.open(ACTOR)
        for message in messages:
            work.send(message)
        await worker.units.commit(work)
        return
    now = worker.database.clock.now()
    sealed = [seal(message, trace_id=new_trace_id(), now=now) for message in messages]
    outcomes = await worker.broker.publish(sealed)
    if any(outcome is not Outcome.CONFIRMED for outcome in outcomes):
        raise NotStored("RabbitMQ did not take all messages")

"""An actor on a stage of its own: broker, database and metrics, and a handler told what to do."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from limner.core.actor import Actor, ActorLoop
from limner.core.brokers.embedded import EmbeddedBroker
from limner.core.clock import HeldClock
from limner.core.ids import new_id
from limner.core.message import Envelope, Message
from limner.core.metrics import Metrics
from limner.core.unit import Commit, UnitOfWork
from limner.storage.sql.comments import Comment
from limner.storage.sql.messaging import OutboxRow
from limner.storage.sql.outbox import Outbox
from limner.storage.sql.unit import SqlUnits

LIMIT_S = 10.0


class Say(Message):
    topic: ClassVar[str] = "echo.say"

    text: str = Field(max_length=20)
    n: int = 0


class Shout(Message):
    topic: ClassVar[str] = "echo.shout"

    text: str


Work = Callable[[Any, UnitOfWork], Awaitable[None]]


class Echo:
    """Does what the test says, and remembers what it heard."""

    def __init__(self, work: Work | None = None) -> None:
        self.heard: list[Any] = []
        self._work = work

    async def handle(self, message: Message, work: UnitOfWork) -> None:
        self.heard.append(message)
        work.add(comment())
        if self._work is not None:
            await self._work(message, work)


class Regretful(Echo):
    """An echo that has something to put right when it is given up."""

    def __init__(self, work: Work, regret: Work) -> None:
        super().__init__(work)
        self._regret = regret
        self.reasons: list[str] = []

    async def abandon(self, message: Message, reason: str, work: UnitOfWork) -> None:
        self.reasons.append(reason)
        await self._regret(message, work)


def comment(**values: Any) -> Comment:
    given = {"external_id": new_id("x"), "source_id": "source_1", "text": "t", "state": "new"}
    return Comment(id=new_id("comment"), **{**given, **values})


def raising(error: BaseException) -> Work:
    async def work(_: Any, __: UnitOfWork) -> None:
        raise error

    return work


class Stage:
    """One actor with its broker, database and metrics."""

    def __init__(
        self,
        broker: EmbeddedBroker,
        units: SqlUnits,
        outbox: Outbox,
        clock: HeldClock,
        metrics: Metrics,
    ) -> None:
        self.broker, self.units, self.outbox = broker, units, outbox
        self.clock, self.metrics = clock, metrics

    def loop(self, handler: Any, **options: Any) -> ActorLoop:
        given = {"concurrency": 2, "timeout_s": 5.0, "max_attempts": 3, **options}
        actor: Actor[Say] = Actor(name="echo", inbox=Say, handler=handler, **given)
        return ActorLoop(actor, self.broker, self.units, self.clock, self.metrics)

    async def send(self, *messages: Message) -> list[Envelope]:
        work = self.units.open("test")
        for message in messages:
            work.send(message)
        assert await self.units.commit(work) is Commit.DONE
        return [envelope for envelope, _ in work.commands]

    async def stored(self, envelope: Envelope) -> Envelope:
        """Store a message whose body no class of ours would make."""
        work = self.units.open("test")
        work.send_stored(envelope.topic, envelope.body)
        await self.units.commit(work)
        return replace(work.commands[0][0], attempt=envelope.attempt)

    async def settle(self, handler: Any, attempt: int = 1, **options: Any) -> Envelope:
        """Send one message and take it, as its given attempt, to its fate."""
        (envelope,) = await self.send(Say(text="hi"))
        envelope = replace(envelope, attempt=attempt)
        await OutboxRow.filter(id=envelope.outbox_id).update(attempt=attempt)
        await self.loop(handler, **options).settle(envelope)
        return envelope

    def counted(self) -> dict[str, float]:
        """Outcomes of the actor's messages."""
        return {
            sample.labels["outcome"]: sample.value
            for metric in self.metrics.jobs_finished.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        }

    @asynccontextmanager
    async def running(self, loop: ActorLoop) -> AsyncIterator[asyncio.Event]:
        """Run the loop while the block does; gives the event that stops it."""
        stop = asyncio.Event()
        task = asyncio.create_task(loop.run(stop))
        try:
            yield stop
        finally:
            stop.set()
            await asyncio.wait_for(task, LIMIT_S)


async def handled_all() -> bool:
    return await OutboxRow.all().count() == 0

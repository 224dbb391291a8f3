"""What surrounds every handler, and in which order."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import structlog

from limner.core.brokers.embedded import EmbeddedBroker
from limner.core.clock import HeldClock
from limner.core.errors import (
    NotFound,
)
from limner.core.metrics import Metrics
from limner.core.middleware import (
    DEFAULT_MIDDLEWARE,
    DONE,
    Fate,
    Handle,
    Job,
    recovery,
    time_limit,
)
from limner.core.unit import UnitOfWork
from limner.storage.sql.comments import Comment
from limner.storage.sql.messaging import DeadLetter, OutboxRow
from limner.storage.sql.outbox import Outbox
from limner.storage.sql.unit import SqlUnits
from tests.fakes.actors import (
    LIMIT_S,
    Echo,
    Say,
    Stage,
    raising,
)


@pytest.fixture
async def stage(
    broker: EmbeddedBroker,
    units: SqlUnits,
    outbox: Outbox,
    clock: HeldClock,
    metrics: Metrics,
) -> Stage:
    await broker.start(["echo"])
    return Stage(broker, units, outbox, clock, metrics)


# Middleware and the actor itself


async def test_middleware_surrounds_the_handler_outermost_first(stage: Stage) -> None:
    order: list[str] = []

    def noting(name: str) -> Callable[[Handle], Handle]:
        def layer(following: Handle) -> Handle:
            async def call(job: Job) -> Fate:
                order.append(f"{name} in")
                fate = await following(job)
                order.append(f"{name} out")
                return fate

            return call

        return layer

    async def say(_: Any, __: UnitOfWork) -> None:
        order.append("handler")

    await stage.settle(Echo(say), middleware=(noting("a"), noting("b"), noting("c")))
    assert order == ["a in", "b in", "c in", "handler", "c out", "b out", "a out"]


async def test_by_default_a_time_limit_is_recovered_from_and_both_are_logged(stage: Stage) -> None:
    assert [layer.__name__ for layer in DEFAULT_MIDDLEWARE] == ["recovery", "logging", "time_limit"]
    bound: list[dict[str, Any]] = []

    async def hang(_: Any, __: UnitOfWork) -> None:
        bound.append(structlog.contextvars.get_contextvars())
        await asyncio.Event().wait()

    with structlog.testing.capture_logs() as logs:
        # As each message is: in a task, and so a context, of its own.
        envelope = await asyncio.create_task(stage.settle(Echo(hang), timeout_s=0.02))
    (failed,) = (line for line in logs if line["event"] == "failed")
    assert failed["error"] == "no end within 0.02 s"
    assert failed["duration_s"] >= 0.02
    assert bound == [{"actor": "echo", "trace_id": envelope.trace_id, "attempt": 1}]
    assert structlog.contextvars.get_contextvars() == {}


async def test_an_actor_may_bring_its_own_middleware(stage: Stage) -> None:
    def lenient(following: Handle) -> Handle:
        async def call(job: Job) -> Fate:
            try:
                return await following(job)
            except NotFound:
                return DONE

        return call

    await stage.settle(Echo(raising(NotFound("gone"))), middleware=(recovery, lenient, time_limit))
    assert await DeadLetter.all().count() == 0
    assert await Comment.all().count() == 1


async def test_without_recovery_an_error_ends_the_loop_and_the_message_comes_again(
    stage: Stage,
) -> None:
    await stage.send(Say(text="hi"))
    loop = stage.loop(Echo(raising(ZeroDivisionError())), middleware=())
    with pytest.raises(ExceptionGroup):
        await asyncio.wait_for(loop.run(asyncio.Event()), LIMIT_S)
    assert (await stage.broker.depth("echo")).ready == 1
    assert await OutboxRow.all().count() == 1

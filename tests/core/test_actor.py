"""The loop of an actor: concurrency, engines out of reach, its end; and the actor itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from limner.core import failpoints, patience
from limner.core.actor import Actor, Loop
from limner.core.broker import Delivery
from limner.core.brokers.embedded import EmbeddedBroker
from limner.core.clock import HeldClock
from limner.core.errors import (
    EngineUnavailable,
    FailpointReached,
)
from limner.core.message import Envelope
from limner.core.metrics import Metrics
from limner.core.unit import Commit, UnitOfWork
from limner.storage.sql.comments import Comment
from limner.storage.sql.messaging import DeadLetter, InboxRow, OutboxRow
from limner.storage.sql.outbox import Outbox
from limner.storage.sql.unit import SqlUnits
from tests.contracts.engines import eventually
from tests.fakes.actors import (
    LIMIT_S,
    Echo,
    Say,
    Shout,
    Stage,
    handled_all,
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


@pytest.fixture
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "ENGINE_PAUSE_S", 0.001)


@pytest.mark.usefixtures("short_pause")
async def test_a_message_is_held_while_an_engine_is_away_and_no_attempt_is_counted(
    stage: Stage,
) -> None:
    failures = 3

    async def away(_: Any, __: UnitOfWork) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise EngineUnavailable("store: connection refused")

    echo = Echo(away)
    await stage.send(Say(text="hi"))
    async with stage.running(stage.loop(echo, max_attempts=1)):
        await eventually(handled_all)
    assert len(echo.heard) == 4
    assert await Comment.all().count() == 1
    assert await DeadLetter.all().count() == 0


@pytest.mark.usefixtures("short_pause")
async def test_an_engine_that_stays_away_ends_the_loop_and_gives_the_message_back(
    stage: Stage,
) -> None:
    async def away(_: Any, __: UnitOfWork) -> None:
        stage.clock.advance(25)
        raise EngineUnavailable("store: connection refused")

    echo = Echo(away)
    await stage.send(Say(text="hi"))
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(stage.loop(echo).run(asyncio.Event()), LIMIT_S)
    assert caught.group_contains(EngineUnavailable)
    assert len(echo.heard) == 3
    depth = await stage.broker.depth("echo")
    assert (depth.ready, depth.in_hand) == (1, 0)
    assert (await OutboxRow.get()).attempt == 1


@pytest.mark.usefixtures("short_pause")
async def test_an_engine_that_is_away_at_the_commit_leaves_the_message(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: UnitOfWork) -> Commit:
        stage.clock.advance(25)
        raise EngineUnavailable("database: gone")

    monkeypatch.setattr(stage.units, "commit", away)
    work = stage.units.open("echo")
    with pytest.raises(EngineUnavailable):
        await stage.loop(Echo()).settle(Envelope("m", "echo.say", Say(text="hi").to_bytes()))
    assert work.early is None
    assert stage.counted() == {}


@pytest.mark.parametrize(("early", "runs"), [(False, 1), (True, 3)])
@pytest.mark.usefixtures("short_pause")
async def test_a_commit_waits_for_its_engine_without_a_new_run_unless_it_read_its_own_writes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, early: bool, runs: int
) -> None:
    commit, refusals = stage.units.commit, 2

    async def away(work: UnitOfWork) -> Commit:
        nonlocal refusals
        if refusals:
            refusals -= 1
            await stage.units.discard(work)
            raise EngineUnavailable("database: gone")
        return await commit(work)

    async def act(_: Any, work: UnitOfWork) -> None:
        if early:
            async with work.transaction():
                pass

    echo = Echo(act)
    await stage.send(Say(text="hi"))
    monkeypatch.setattr(stage.units, "commit", away)
    async with stage.running(stage.loop(echo)):
        await eventually(handled_all)
    assert len(echo.heard) == runs
    assert await Comment.all().count() == 1


async def test_what_is_in_hand_is_finished_when_the_broker_goes_away(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go, lost = asyncio.Event(), asyncio.Event(), asyncio.Event()
    consume = stage.broker.consume

    @asynccontextmanager
    async def losing(actor: str, prefetch: int) -> AsyncIterator[AsyncIterator[Delivery]]:
        async with consume(actor, prefetch) as deliveries:

            async def some() -> AsyncIterator[Delivery]:
                yield await anext(deliveries)
                await begun.wait()
                lost.set()
                raise EngineUnavailable("broker: connection reset")

            yield some()

    async def wait(_: Any, __: UnitOfWork) -> None:
        begun.set()
        await go.wait()

    monkeypatch.setattr(stage.broker, "consume", losing)
    await stage.send(Say(text="1"))
    running = asyncio.create_task(stage.loop(Echo(wait)).run(asyncio.Event()))
    await asyncio.wait_for(lost.wait(), LIMIT_S)
    assert not running.done()
    go.set()
    with pytest.raises(EngineUnavailable):
        await asyncio.wait_for(running, LIMIT_S)
    assert await Comment.all().count() == 1


async def test_a_cancelled_loop_gives_back_what_is_in_hand(stage: Stage) -> None:
    begun = asyncio.Event()

    async def hang(_: Any, work: UnitOfWork) -> None:
        async with work.transaction():
            begun.set()
            await asyncio.Event().wait()

    sent = await stage.send(Say(text="1"), Say(text="2"))
    running = asyncio.create_task(stage.loop(Echo(hang), concurrency=1).run(asyncio.Event()))
    await asyncio.wait_for(begun.wait(), LIMIT_S)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    depth = await stage.broker.depth("echo")
    assert (depth.ready, depth.in_hand) == (2, 0)
    async with stage.broker.consume("echo", 2) as deliveries:
        assert [(await anext(deliveries)).envelope for _ in sent] == sent
    assert await OutboxRow.all().count() == 2
    assert await Comment.all().count() == 0


async def test_an_acknowledgement_that_failed_brings_the_message_again_and_once(
    stage: Stage,
) -> None:
    echo = Echo()
    await stage.send(Say(text="hi"))
    failpoints.arm("broker.ack")
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(stage.loop(echo).run(asyncio.Event()), LIMIT_S)
    assert caught.group_contains(FailpointReached)
    assert (await stage.broker.depth("echo")).ready == 1
    async with stage.running(stage.loop(echo)):

        async def handled_twice() -> bool:
            return len(echo.heard) == 2

        await eventually(handled_twice)
    assert await Comment.all().count() == 1


async def test_no_more_messages_than_the_concurrency_are_handled_at_once(stage: Stage) -> None:
    at_once, peak, go = 0, 0, asyncio.Event()

    async def count(_: Any, __: UnitOfWork) -> None:
        nonlocal at_once, peak
        at_once += 1
        peak = max(peak, at_once)
        if at_once == 3:
            go.set()
        await go.wait()
        await asyncio.sleep(0.005)
        at_once -= 1

    await stage.send(*(Say(text="hi", n=n) for n in range(9)))
    async with stage.running(stage.loop(Echo(count), concurrency=3)):
        await eventually(handled_all)
    assert peak == 3


async def test_stopping_finishes_what_is_in_hand_and_takes_nothing_more(stage: Stage) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def wait(_: Any, __: UnitOfWork) -> None:
        begun.set()
        await go.wait()

    await stage.send(Say(text="1"), Say(text="2"))
    echo = Echo(wait)
    async with stage.running(stage.loop(echo, concurrency=1)) as stop:
        await asyncio.wait_for(begun.wait(), LIMIT_S)
        stop.set()
        await asyncio.sleep(0.01)
        go.set()
    assert [one.text for one in echo.heard] == ["1"]
    assert await Comment.all().count() == 1
    assert (await stage.broker.depth("echo")).ready == 1


async def test_nothing_is_taken_while_the_database_is_away(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> None:
        raise EngineUnavailable("database: gone")

    await stage.send(Say(text="hi"))
    echo = Echo()
    with monkeypatch.context() as patched:
        patched.setattr(stage.units, "check", away)
        with pytest.raises(EngineUnavailable):
            await stage.loop(echo).run(asyncio.Event())
    assert (await stage.broker.depth("echo")).ready == 1
    async with stage.running(stage.loop(echo)):
        await eventually(handled_all)
    assert len(echo.heard) == 1


async def test_a_loop_that_stops_leaves_to_others_what_it_has_not_begun(stage: Stage) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def wait(_: Any, __: UnitOfWork) -> None:
        begun.set()
        await go.wait()

    await stage.send(Say(text="1"))
    async with stage.running(stage.loop(Echo(wait), concurrency=2)) as stop:
        await asyncio.wait_for(begun.wait(), LIMIT_S)
        stop.set()
        await asyncio.sleep(0)
        await stage.send(Say(text="2"))
        async with stage.broker.consume("echo", 1) as others:
            taken = await asyncio.wait_for(anext(others), LIMIT_S)
            assert taken.envelope.body == Say(text="2").to_bytes()
        go.set()


async def test_a_message_that_comes_while_stopping_is_given_back(stage: Stage) -> None:
    echo, stop = Echo(), asyncio.Event()
    await stage.send(Say(text="hi"))
    stop.set()
    await asyncio.wait_for(stage.loop(echo).run(stop), LIMIT_S)
    assert echo.heard == []
    assert (await stage.broker.depth("echo")).ready == 1
    await asyncio.wait_for(stage.loop(echo).run(stop), LIMIT_S)


async def test_an_idle_loop_stops_at_once(stage: Stage) -> None:
    async with stage.running(stage.loop(Echo())):
        await asyncio.sleep(0)
    assert (await stage.broker.depth("echo")).in_hand == 0


async def test_a_foreign_message_is_handled_by_its_inbox_row(stage: Stage) -> None:
    echo = Echo()
    foreign = Envelope("order-1", "echo.say", Say(text="hi").to_bytes(), app_id="shop")
    for _ in range(2):
        await stage.broker.publish([foreign])
    async with stage.running(stage.loop(echo)):

        async def noted() -> bool:
            return await InboxRow.filter(consumer="echo", message_id="order-1").exists()

        await eventually(noted)
    assert await Comment.all().count() == 1


def test_settings_fill_in_what_an_actor_leaves_open() -> None:
    bare: Actor[Say] = Actor(name="echo")
    full = bare.with_defaults(concurrency=4, timeout_s=300, max_attempts=4)
    assert (full.concurrency, full.timeout_s, full.max_attempts) == (4, 300, 4)
    own: Actor[Say] = Actor(name="echo", concurrency=1, timeout_s=2, max_attempts=3)
    assert own.with_defaults(concurrency=4, timeout_s=300, max_attempts=4) == own


def test_an_actor_lists_its_handlers_by_topic() -> None:
    quiet, loud = Echo(), Echo()
    actor: Actor[Say] = Actor(name="echo", inbox=Say, handler=quiet, others={Shout: loud})
    assert actor.handlers == {"echo.say": (Say, quiet), "echo.shout": (Shout, loud)}
    assert Actor(name="idle").handlers == {}


def test_a_loop_has_a_name_and_something_to_run() -> None:
    async def run(_: asyncio.Event) -> None:
        return

    assert Loop("claims", run).name == "claims"

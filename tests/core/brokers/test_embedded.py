"""What the embedded broker does beyond its port: it holds each message once and knows its age."""

import asyncio

import pytest

from limner.core import failpoints
from limner.core.broker import Outcome
from limner.core.brokers.embedded import EmbeddedBroker
from limner.core.clock import HeldClock
from limner.core.errors import FailpointReached
from limner.core.message import Envelope
from tests.contracts.engines import START


def command(ident: str = "m1", outbox_id: str = "", clock: HeldClock | None = None) -> Envelope:
    sent_at = START if clock is None else clock.now()
    return Envelope(ident, "echo.say", b"{}", outbox_id=outbox_id, sent_at=sent_at)


@pytest.fixture
async def started(broker: EmbeddedBroker) -> EmbeddedBroker:
    await broker.start(["echo"])
    return broker


async def ready(broker: EmbeddedBroker) -> int:
    return (await broker.depth("echo")).ready


async def test_it_is_not_durable_on_its_own(started: EmbeddedBroker) -> None:
    assert not started.durable


async def test_a_message_that_is_held_is_confirmed_and_not_taken_twice(
    started: EmbeddedBroker,
) -> None:
    row = command(outbox_id="row1")
    for _ in range(3):
        assert await started.publish([row]) == [Outcome.CONFIRMED]
    assert await ready(started) == 1
    async with started.consume("echo", 1) as deliveries:
        delivery = await anext(deliveries)
        await started.publish([row])
        assert await ready(started) == 0
        await delivery.ack()
        await started.publish([row])
        assert await ready(started) == 1


async def test_a_released_message_is_still_held(started: EmbeddedBroker) -> None:
    await started.publish([command()])
    async with started.consume("echo", 1) as deliveries:
        await (await anext(deliveries)).release()
        await started.publish([command()])
    assert await ready(started) == 1


async def test_rows_and_attempts_are_told_apart(started: EmbeddedBroker) -> None:
    first = command(outbox_id="row1")
    await started.publish([first, command(outbox_id="row2"), first.next_attempt(), first])
    assert await ready(started) == 3


async def test_the_oldest_message_tells_the_age_of_its_queue(
    started: EmbeddedBroker, clock: HeldClock
) -> None:
    assert (await started.depth("echo")).oldest_age_s is None
    assert (await started.depth("unknown")).oldest_age_s is None
    await started.publish([command("m1", clock=clock)])
    clock.advance(4)
    await started.publish([command("m2", clock=clock)])
    clock.advance(3)
    assert (await started.depth("echo")).oldest_age_s == 7


async def test_an_unknown_queue_is_made_by_its_consumer(broker: EmbeddedBroker) -> None:
    async with broker.consume("echo", 1) as deliveries:
        await broker.publish([command()])
        assert (await anext(deliveries)).envelope == command()


async def test_deliveries_and_events_can_be_iterated(started: EmbeddedBroker) -> None:
    await started.publish([command("m1"), command("m2")])
    seen: list[str] = []
    async with started.consume("echo", 5) as deliveries:
        async for delivery in deliveries:
            seen.append(delivery.envelope.message_id)
            if len(seen) == 2:
                break
    async with started.subscribe() as events:
        await started.publish([Envelope("e1", "task.done", b"{}", kind="event")])
        async for event in events:
            seen.append(event.message_id)
            break
    assert seen == ["m1", "m2", "e1"]


async def test_a_cancelled_acknowledgement_is_whole_or_not_at_all(started: EmbeddedBroker) -> None:
    await started.publish([command()])
    async with started.consume("echo", 1) as deliveries:
        delivery = await anext(deliveries)
        failpoints.arm("broker.ack:sleep")
        acking = asyncio.create_task(delivery.ack())
        await asyncio.sleep(0)
        acking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await acking
        failpoints.arm(None)
        assert (await started.depth("echo")).in_hand == 1
        await delivery.release()
        depth = await started.depth("echo")
        assert (depth.ready, depth.in_hand) == (1, 0)


async def test_failpoints_surround_publish_and_acknowledgement(started: EmbeddedBroker) -> None:
    failpoints.arm("broker.publish")
    with pytest.raises(FailpointReached):
        await started.publish([command()])
    assert await ready(started) == 0
    failpoints.arm("broker.publish:execute-then-raise")
    with pytest.raises(FailpointReached):
        await started.publish([command()])
    assert await ready(started) == 1
    async with started.consume("echo", 1) as deliveries:
        failpoints.arm("broker.ack")
        delivery = await anext(deliveries)
        with pytest.raises(FailpointReached):
            await delivery.ack()
        assert (await started.depth("echo")).in_hand == 1
        failpoints.arm("broker.ack:execute-then-raise")
        with pytest.raises(FailpointReached):
            await delivery.ack()
        assert (await started.depth("echo")).in_hand == 0


async def test_a_closed_broker_has_no_queues(started: EmbeddedBroker) -> None:
    await started.publish([command()])
    await started.aclose()
    assert await started.publish([command()]) == [Outcome.UNROUTABLE]

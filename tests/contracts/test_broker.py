"""What every broker keeps to; run over each engine in ``brokers.BROKERS``."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from limner.core.broker import Broker, Outcome
from limner.core.message import Envelope
from tests.contracts.brokers import (
    BROKERS,
    LIMIT_S,
    BrokerUnderTest,
    coming,
    command,
    event,
    is_empty,
    nothing_comes,
)
from tests.contracts.engines import Engine, each, eventually, prepare


@pytest.fixture(params=each(BROKERS))
async def under_test(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[BrokerUnderTest]:
    engine: Engine[BrokerUnderTest] = request.param
    prepare(engine, request)
    async with engine.open(tmp_path) as opened:
        yield opened


@pytest.fixture
def broker(under_test: BrokerUnderTest) -> Broker:
    return under_test.broker


async def test_commands_come_whole_and_in_order(broker: Broker) -> None:
    sent = [command(n, attempt=n + 1, trace_id="ab" * 16, app_id="other") for n in range(10)]
    assert await broker.publish(sent) == [Outcome.CONFIRMED] * 10
    async with broker.consume("echo", 10) as deliveries:
        got = [await coming(deliveries) for _ in sent]
        assert [one.envelope for one in got] == sent
        for one in got:
            await one.ack()


async def test_a_command_goes_to_the_actor_its_topic_begins_with(broker: Broker) -> None:
    await broker.publish([command(1, "other.do"), command(2, "echo.say")])
    async with broker.consume("echo", 5) as deliveries, broker.consume("other", 5) as others:
        assert (await coming(deliveries)).envelope.topic == "echo.say"
        assert (await coming(others)).envelope.topic == "other.do"
        assert await nothing_comes(deliveries)
        assert await nothing_comes(others)


async def test_a_consumer_that_waits_gets_what_is_published_later(broker: Broker) -> None:
    async with broker.consume("echo", 1) as deliveries:
        waiting = asyncio.create_task(coming(deliveries))
        await asyncio.sleep(0)
        sent = command()
        await broker.publish([sent])
        assert (await waiting).envelope == sent


async def test_no_more_than_prefetch_are_in_hand(broker: Broker) -> None:
    await broker.publish([command(n) for n in range(4)])
    async with broker.consume("echo", 2) as deliveries:
        first, second = await coming(deliveries), await coming(deliveries)
        assert await nothing_comes(deliveries)
        await second.ack()
        third = await coming(deliveries)
        assert third.envelope.body == b'{"n": 2}'
        assert await nothing_comes(deliveries)
        await first.ack()
        await third.ack()
        await (await coming(deliveries)).ack()


async def test_what_was_acknowledged_does_not_come_again(broker: Broker) -> None:
    await broker.publish([command(1), command(2)])
    async with broker.consume("echo", 2) as deliveries:
        for _ in range(2):
            await (await coming(deliveries)).ack()
    await eventually(lambda: is_empty(broker))
    async with broker.consume("echo", 2) as deliveries:
        assert await nothing_comes(deliveries)


async def test_what_was_released_comes_again(broker: Broker) -> None:
    sent = command()
    await broker.publish([sent])
    async with broker.consume("echo", 1) as deliveries:
        await (await coming(deliveries)).release()
        again = await coming(deliveries)
        assert again.envelope == sent
        await again.ack()
    await eventually(lambda: is_empty(broker))


async def test_a_delivery_is_settled_once(broker: Broker) -> None:
    await broker.publish([command(1), command(2)])
    async with broker.consume("echo", 2) as deliveries:
        first, second = await coming(deliveries), await coming(deliveries)
        await first.ack()
        await first.release()
        await second.release()
        await second.ack()
        again = await coming(deliveries)
        assert again.envelope == second.envelope
        assert await nothing_comes(deliveries)
        await again.ack()


async def test_a_command_for_nobody_is_unroutable_and_the_others_go_out(broker: Broker) -> None:
    sent = [command(1), command(2, "nobody.hears"), command(3)]
    assert await broker.publish(sent) == [
        Outcome.CONFIRMED,
        Outcome.UNROUTABLE,
        Outcome.CONFIRMED,
    ]
    assert await broker.publish([]) == []


async def test_a_full_queue_says_busy_until_there_is_room(under_test: BrokerUnderTest) -> None:
    broker, limit = under_test.broker, under_test.queue_limit
    sent = [command(n) for n in range(limit + under_test.overshoot + 2)]
    outcomes: list[Outcome] = []
    for one in sent:
        outcomes += await broker.publish([one])
    taken = outcomes.count(Outcome.CONFIRMED)
    assert limit <= taken <= limit + under_test.overshoot
    assert outcomes == [Outcome.CONFIRMED] * taken + [Outcome.BUSY] * (len(sent) - taken)
    both = [command(98), command(0, "other.do")]
    assert await broker.publish(both) == [Outcome.BUSY, Outcome.CONFIRMED]
    async with broker.consume("echo", 3) as deliveries:
        for n in range(taken):
            delivery = await coming(deliveries)
            assert delivery.envelope == sent[n]
            await delivery.ack()

        async def takes_more() -> bool:
            return await broker.publish([command(99)]) == [Outcome.CONFIRMED]

        await eventually(takes_more)
        assert (await coming(deliveries)).envelope.body == b'{"n": 99}'


async def test_a_repeated_command_is_confirmed_and_comes_at_least_once(broker: Broker) -> None:
    sent = command()
    assert await broker.publish([sent, sent]) == [Outcome.CONFIRMED] * 2
    assert await broker.publish([sent]) == [Outcome.CONFIRMED]
    async with broker.consume("echo", 1) as deliveries:
        one = await coming(deliveries)
        assert one.envelope == sent
        await one.ack()


async def test_the_next_attempt_is_another_message(broker: Broker) -> None:
    sent = command()
    await broker.publish([sent, sent.next_attempt()])
    async with broker.consume("echo", 2) as deliveries:
        got = [(await coming(deliveries)).envelope.attempt for _ in range(2)]
    assert got == [1, 2]


async def test_every_subscriber_hears_every_event_in_order(broker: Broker) -> None:
    async with broker.subscribe() as first, broker.subscribe() as second:
        sent = [event(n) for n in range(20)]
        assert await broker.publish(sent) == [Outcome.CONFIRMED] * 20
        for events in (first, second):
            got = [await asyncio.wait_for(anext(events), LIMIT_S) for _ in sent]
            assert got == sent


async def test_a_subscriber_hears_nothing_from_before_and_no_commands(broker: Broker) -> None:
    await broker.publish([event(1)])
    async with broker.subscribe() as events:
        later = event(2)
        await broker.publish([command(3), later])
        assert await asyncio.wait_for(anext(events), LIMIT_S) == later
        assert await nothing_comes(events)


async def test_an_event_that_nobody_hears_is_confirmed(broker: Broker) -> None:
    async with broker.subscribe():
        pass
    assert await broker.publish([event()]) == [Outcome.CONFIRMED]
    assert await is_empty(broker)


async def test_a_slow_subscriber_loses_the_oldest_and_hears_the_newest(
    under_test: BrokerUnderTest,
) -> None:
    broker, limit = under_test.broker, under_test.event_limit
    async with broker.subscribe() as slow:
        sent = [event(n) for n in range(limit + 7)]
        await broker.publish(sent)
        got: list[Envelope] = []
        while not got or got[-1] != sent[-1]:
            got.append(await asyncio.wait_for(anext(slow), LIMIT_S))
        assert len(got) <= limit
        assert got == sent[-len(got) :]


async def test_waiting_for_an_event_can_be_cut_short_and_taken_up_again(broker: Broker) -> None:
    async with broker.subscribe() as events:
        for n in range(3):
            assert await nothing_comes(events)
            sent = event(n)
            await broker.publish([sent])
            assert await asyncio.wait_for(anext(events), LIMIT_S) == sent


async def test_depth_counts_what_is_ready_and_what_is_in_hand(broker: Broker) -> None:
    await broker.publish([command(n) for n in range(3)])

    async def depth_is(ready: int, in_hand: int) -> bool:
        depth = await broker.depth("echo")
        return (depth.ready, depth.in_hand) == (ready, in_hand)

    await eventually(lambda: depth_is(3, 0))
    async with broker.consume("echo", 1) as deliveries:
        delivery = await coming(deliveries)
        await eventually(lambda: depth_is(2, 1))
        await delivery.ack()
        await eventually(lambda: depth_is(2, 0))
    assert await is_empty(broker, "other")


async def test_starting_again_keeps_what_is_there_and_declares_what_is_new(broker: Broker) -> None:
    sent, late = command(), command(0, "late.comer")
    await broker.publish([sent])
    await broker.start(["echo", "other", "late"])
    assert await broker.publish([late]) == [Outcome.CONFIRMED]
    async with broker.consume("echo", 1) as deliveries, broker.consume("late", 1) as others:
        assert (await coming(deliveries)).envelope == sent
        assert (await coming(others)).envelope == late


async def test_nothing_that_lives_is_among_the_dead(broker: Broker) -> None:
    sent = command()
    async with broker.dead() as dead, broker.consume("echo", 1) as deliveries:
        await broker.publish([sent, command(1, "nobody.hears"), event(2)])
        await (await coming(deliveries)).release()
        assert (await coming(deliveries)).envelope == sent
        assert await nothing_comes(dead)


async def test_one_who_waits_for_the_dead_learns_that_the_block_has_ended(broker: Broker) -> None:
    async with broker.dead() as dead:
        waiting = asyncio.ensure_future(anext(dead, None))
        await asyncio.sleep(0)
    assert await asyncio.wait_for(waiting, LIMIT_S) is None


async def test_many_publish_at_the_same_time_and_each_gets_its_own_outcomes(
    broker: Broker,
) -> None:
    async def publish(n: int) -> list[Outcome]:
        return await broker.publish(
            [command(n, "nobody.hears" if n % 3 == 0 else "other.do"), event(n)]
        )

    told = await asyncio.gather(*(publish(n) for n in range(30)))
    for n, outcomes in enumerate(told):
        first = Outcome.UNROUTABLE if n % 3 == 0 else Outcome.CONFIRMED
        assert outcomes == [first, Outcome.CONFIRMED]


async def test_a_large_body_comes_whole(broker: Broker) -> None:
    sent = replace(command(), body=bytes(range(256)) * 4096)
    await broker.publish([sent])
    async with broker.consume("echo", 1) as deliveries:
        assert (await coming(deliveries)).envelope.body == sent.body


async def test_a_broker_that_works_says_so_and_closes_twice(broker: Broker) -> None:
    await broker.check()
    await broker.aclose()
    await broker.aclose()

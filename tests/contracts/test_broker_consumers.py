"""What every broker keeps to when consumers share a queue, and when one ends."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from limner.core.broker import Broker
from tests.contracts.brokers import (
    BROKERS,
    LIMIT_S,
    BrokerUnderTest,
    coming,
    command,
    nothing_comes,
)
from tests.contracts.engines import Engine, each, prepare


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


async def test_concurrent_consumers_share_the_work_and_each_message_comes_once(
    broker: Broker,
) -> None:
    sent = [command(n) for n in range(30)]
    got: list[str] = []
    done = asyncio.Event()

    async def work(prefetch: int) -> None:
        async with broker.consume("echo", prefetch) as deliveries:
            async for delivery in deliveries:
                got.append(delivery.envelope.message_id)
                await asyncio.sleep(0)
                await delivery.ack()
                if len(got) == len(sent):
                    done.set()

    workers = [asyncio.create_task(work(prefetch)) for prefetch in (1, 2, 5)]
    await broker.publish(sent)
    await asyncio.wait_for(done.wait(), LIMIT_S)
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert sorted(got) == sorted(one.message_id for one in sent)


async def test_a_consumer_with_full_hands_does_not_keep_work_from_another(broker: Broker) -> None:
    async with broker.consume("echo", 1) as busy, broker.consume("echo", 1) as idle:
        await broker.publish([command(1)])
        held = await coming(busy)
        waiting = asyncio.ensure_future(anext(busy))
        free = asyncio.create_task(coming(idle))
        for _ in range(5):
            await asyncio.sleep(0)
        await broker.publish([command(2)])
        assert (await free).envelope.body == b'{"n": 2}'
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await held.ack()


async def test_a_cancelled_wait_loses_no_message_and_can_be_repeated(broker: Broker) -> None:
    async with broker.consume("echo", 5) as deliveries:
        got: list[int] = []
        for n in range(20):
            waiting = asyncio.ensure_future(anext(deliveries))
            await asyncio.sleep(0)
            await broker.publish([command(n)])
            waiting.cancel()
            await asyncio.wait({waiting})
            one = await coming(deliveries) if waiting.cancelled() else waiting.result()
            got.append(int(one.envelope.body[6:-1]))
            await one.ack()
        assert got == list(range(20))


async def test_what_is_in_hand_when_the_consumer_closes_comes_again_in_order(
    broker: Broker,
) -> None:
    sent = [command(n) for n in range(5)]
    await broker.publish(sent)
    async with broker.consume("echo", 3) as deliveries:
        for _ in range(3):
            await coming(deliveries)
    async with broker.consume("echo", 5) as deliveries:
        got = [await coming(deliveries) for _ in sent]
    assert sorted(one.envelope.body for one in got) == [one.body for one in sent]


async def test_an_error_in_the_consumers_block_gives_back_what_is_in_hand(broker: Broker) -> None:
    sent = command()
    await broker.publish([sent])

    async def fail() -> None:
        async with broker.consume("echo", 1) as deliveries:
            await coming(deliveries)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with broker.consume("echo", 1) as deliveries:
        assert (await coming(deliveries)).envelope == sent


async def test_one_who_waits_learns_that_the_consumer_was_closed(broker: Broker) -> None:
    async with broker.consume("echo", 1) as deliveries:
        waiting = asyncio.ensure_future(anext(deliveries, None))
        await asyncio.sleep(0)
    assert await asyncio.wait_for(waiting, LIMIT_S) is None


async def test_what_is_settled_after_the_consumer_closed_changes_nothing(broker: Broker) -> None:
    sent = [command(1), command(2)]
    await broker.publish(sent)
    async with broker.consume("echo", 2) as deliveries:
        first, second = await coming(deliveries), await coming(deliveries)
    await first.ack()
    await second.release()
    async with broker.consume("echo", 3) as deliveries:
        again = [await coming(deliveries) for _ in sent]
        assert await nothing_comes(deliveries)
    assert sorted(one.envelope.body for one in again) == [one.body for one in sent]


async def test_a_consumer_that_is_cancelled_while_it_begins_keeps_no_message(
    broker: Broker,
) -> None:
    sent = [command(n) for n in range(10)]
    await broker.publish(sent)

    async def work() -> None:
        async with broker.consume("echo", 5) as deliveries:
            async for _ in deliveries:
                pass

    for pauses in range(12):
        worker = asyncio.create_task(work())
        for _ in range(pauses):
            await asyncio.sleep(0.001)
        worker.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(worker, LIMIT_S)
    async with broker.consume("echo", 10) as deliveries:
        got = [(await coming(deliveries)).envelope for _ in sent]
    assert sorted(one.body for one in got) == [one.body for one in sent]


async def test_a_consumer_that_ceases_keeps_what_is_in_hand_and_leaves_the_rest_to_others(
    broker: Broker,
) -> None:
    await broker.publish([command(n) for n in range(4)])
    async with broker.consume("echo", 4) as leaving, broker.consume("echo", 4) as staying:
        mine = await coming(leaving)
        await leaving.cease()
        with pytest.raises(StopAsyncIteration):
            await anext(leaving)
        await broker.publish([command(4)])
        others = [await coming(staying) for _ in range(4)]
        assert sorted(one.envelope.body for one in [mine, *others]) == [
            b'{"n": %d}' % n for n in range(5)
        ]
        for one in (mine, *others):
            await one.ack()
        await leaving.cease()
    async with broker.consume("echo", 5) as deliveries:
        assert await nothing_comes(deliveries)


async def test_one_who_waits_learns_that_the_consumer_ceases(broker: Broker) -> None:
    async with broker.consume("echo", 1) as deliveries:
        waiting = asyncio.ensure_future(anext(deliveries))
        await asyncio.sleep(0)
        await deliveries.cease()
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(waiting, LIMIT_S)

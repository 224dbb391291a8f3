"""What the outbox keeps to, over each database: nothing committed is lost, nobody publishes twice.

Relays of several processes stand side by side here; with an embedded broker a row lives until its
message was handled, with a durable one until the broker has confirmed it.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from limner.core import failpoints
from limner.core.errors import EngineUnavailable, FailpointReached
from limner.core.message import Envelope
from limner.core.unit import Commit
from limner.storage.sql.messaging import OutboxRow
from limner.storage.sql.outbox import CLAIM_ROWS, CLAIM_S, TICK_S, Outbox
from limner.storage.sql.statements import PUBLISH_GRACE_S
from tests.contracts.engines import START, eventually
from tests.contracts.units import (
    QUEUE_LIMIT,
    Say,
    Sql,
    World,
    durable_process,
    embedded_process,
    message,
    outbox_row,
)
from tests.fakes.broker import DurableBroker


@pytest.fixture
async def durable(sql: Sql) -> AsyncIterator[World]:
    opened = durable_process(sql)
    await opened.broker.start(["echo"])
    yield opened
    await opened.settle()


def fake(world: World) -> DurableBroker:
    assert isinstance(world.broker, DurableBroker)
    return world.broker


def outcomes(world: World) -> dict[str, float]:
    """What was counted as published, by topic."""
    counter = world.outbox._metrics.messages_published
    return {
        sample.labels["key"]: sample.value
        for metric in counter.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    }


async def bodies(world: World, count: int) -> list[bytes]:
    async with world.broker.consume("echo", count) as deliveries:
        return [(await asyncio.wait_for(anext(deliveries), 10)).envelope.body for _ in range(count)]


async def test_a_confirmed_row_leaves_the_outbox_of_a_durable_broker(durable: World) -> None:
    await durable.send("one")
    assert await durable.outbox.depth() == 0
    assert len(durable.published) == 1
    assert outcomes(durable) == {"echo.say": 1.0}


async def test_a_row_lives_until_it_was_handled_with_an_embedded_broker(world: World) -> None:
    envelope = await world.send("one")
    assert await world.outbox.depth() == 1
    assert await world.units.commit(world.receive(envelope)) is Commit.DONE
    assert await world.outbox.depth() == 0


async def test_offering_nothing_publishes_nothing(durable: World) -> None:
    await durable.outbox.offer([])
    assert durable.published == []


async def test_an_unroutable_message_keeps_its_row_and_goes_out_when_there_is_a_queue(
    sql: Sql,
) -> None:
    world = durable_process(sql)
    await world.send("one")
    assert await world.outbox.depth() == 1
    assert outcomes(world) == {}
    await world.broker.start(["echo"])
    await sql.pass_time(PUBLISH_GRACE_S)
    assert await world.outbox.relay_once() == 1
    await world.settle()
    assert await world.outbox.depth() == 0
    assert await bodies(world, 1) == [Say(text="one").to_bytes()]


async def test_a_commit_stands_although_the_broker_is_away(durable: World) -> None:
    fake(durable).away = True
    await durable.send("one")
    assert (durable.published, await durable.outbox.depth()) == ([], 1)
    await durable.sql.pass_time(PUBLISH_GRACE_S)
    with pytest.raises(EngineUnavailable):
        await durable.outbox.relay_once()
    fake(durable).away = False
    assert await durable.outbox.relay_once() == 0
    await durable.sql.pass_time(CLAIM_S)
    assert await durable.outbox.relay_once() == 1
    await durable.settle()
    assert await durable.outbox.depth() == 0


async def test_a_confirm_that_was_lost_publishes_again_and_the_consumer_handles_once(
    durable: World,
) -> None:
    fake(durable).answer_lost = True
    envelope = await durable.send("one")
    assert await durable.outbox.depth() == 1
    fake(durable).answer_lost = False
    assert await durable.units.commit(durable.receive(envelope)) is Commit.DONE
    await durable.sql.pass_time(PUBLISH_GRACE_S)
    assert await durable.outbox.relay_once() == 1
    assert [one.message_id for one in durable.published] == [envelope.message_id] * 2
    again = durable.published[1]
    assert await durable.units.commit(durable.receive(again)) is Commit.REPEATED


async def test_a_failpoint_while_publishing_leaves_the_row_to_the_relay(world: World) -> None:
    failpoints.arm("broker.publish")
    await world.send("one")
    failpoints.arm(None)
    assert (await world.broker.depth("echo")).ready == 0
    await world.sql.pass_time(PUBLISH_GRACE_S)
    assert await world.outbox.relay_once() == 1
    assert (await world.broker.depth("echo")).ready == 1


async def test_before_the_grace_has_passed_only_the_writer_publishes(durable: World) -> None:
    fake(durable).away = True
    await durable.send("one")
    other = durable_process(durable.sql)
    await other.broker.start(["echo"])
    await durable.sql.pass_time(PUBLISH_GRACE_S - 0.001)
    assert await other.outbox.relay_once() == 0
    await durable.sql.pass_time(0.001)
    assert await other.outbox.relay_once() == 1
    await other.settle()
    assert len(other.published) == 1


async def test_delayed_messages_come_when_they_are_due_in_the_order_of_their_times(
    world: World,
) -> None:
    for after_s in (30.0, 10.0, 20.0):
        await world.send(f"after {after_s:g}", after_s=after_s)
    await world.sql.pass_time(9.999)
    assert await world.outbox.relay_once() == 0
    await world.sql.pass_time(0.001)
    assert await world.outbox.relay_once() == 1
    await world.sql.pass_time(20)
    assert await world.outbox.relay_once() == 2
    assert await bodies(world, 3) == [Say(text=f"after {s}").to_bytes() for s in (10, 20, 30)]


async def test_messages_due_at_once_come_in_the_order_of_their_making(world: World) -> None:
    sent = [await world.send(str(n), after_s=10) for n in range(5)]
    await world.sql.pass_time(10)
    claimed = await world.outbox.claim()
    assert [one.body for one in claimed] == [one.body for one in sent]


async def test_a_claim_moves_the_row_on_and_brings_the_whole_message(world: World) -> None:
    stored = message(7, attempt=3, trace_id="ab" * 16, app_id="shop", message_id="m-1")
    await outbox_row(world, stored)
    (claimed,) = await world.outbox.claim()
    assert claimed == stored
    row = await OutboxRow.get(id=stored.outbox_id)
    assert row.publish_after == START + timedelta(seconds=CLAIM_S)
    assert await world.outbox.claim() == []


async def test_a_claim_takes_no_more_than_its_limit(world: World) -> None:
    for n in range(5):
        await outbox_row(world, message(n))
    assert len(await world.outbox.claim(limit=2)) == 2
    assert len(await world.outbox.claim(limit=2)) == 2
    assert len(await world.outbox.claim(limit=2)) == 1


async def test_relays_side_by_side_never_publish_the_same_row(sql: Sql) -> None:
    worlds = [durable_process(sql) for _ in range(4)]
    for n in range(60):
        await outbox_row(worlds[0], message(n))

    async def work(outbox: Outbox) -> list[Envelope]:
        mine: list[Envelope] = []
        while got := await outbox.claim(limit=7):
            mine += got
        return mine

    shares = await asyncio.gather(*(work(world.outbox) for world in worlds))
    ids = [one.message_id for share in shares for one in share]
    assert len(ids) == len(set(ids)) == 60


async def test_a_claim_that_failed_half_way_claims_nothing(world: World) -> None:
    await outbox_row(world, message())
    failpoints.arm("outbox.claim:execute-then-raise")
    with pytest.raises(FailpointReached):
        await world.outbox.relay_once()
    failpoints.arm(None)
    assert await world.outbox.relay_once() == 0
    await world.sql.pass_time(CLAIM_S)
    assert await world.outbox.relay_once() == 1


async def test_what_is_in_memory_is_not_taken_in_twice(world: World) -> None:
    await world.send("one")
    for _ in range(3):
        await world.sql.pass_time(CLAIM_S)
        await world.outbox.relay_once()
    assert (await world.broker.depth("echo")).ready == 1


async def test_a_full_queue_leaves_rows_that_come_later(world: World) -> None:
    for n in range(QUEUE_LIMIT + 5):
        await world.send(str(n))
    assert (await world.broker.depth("echo")).ready == QUEUE_LIMIT
    async with world.broker.consume("echo", QUEUE_LIMIT) as deliveries:
        for _ in range(QUEUE_LIMIT):
            delivery = await anext(deliveries)
            await world.units.commit(world.receive(delivery.envelope))
            await delivery.ack()
        await world.sql.pass_time(PUBLISH_GRACE_S)
        assert await world.outbox.relay_once() == 5
        late = [await anext(deliveries) for _ in range(5)]
    assert [one.envelope.body for one in late] == [
        Say(text=str(n)).to_bytes() for n in range(QUEUE_LIMIT, QUEUE_LIMIT + 5)
    ]


async def test_what_the_relay_found_no_room_for_goes_out_as_soon_as_there_is_some(
    world: World,
) -> None:
    for n in range(QUEUE_LIMIT + 5):
        await world.send(str(n))
    await world.sql.pass_time(PUBLISH_GRACE_S)
    assert await world.outbox.relay_once() == QUEUE_LIMIT
    async with world.broker.consume("echo", QUEUE_LIMIT) as deliveries:
        delivery = await anext(deliveries)
        await world.units.commit(world.receive(delivery.envelope))
        await delivery.ack()
        await world.sql.pass_time(TICK_S)
        assert await world.outbox.relay_once() == 1


async def test_a_fresh_process_recovers_what_was_in_memory_at_once_and_delays_stay(
    world: World,
) -> None:
    await world.send("one")
    await world.send("later", after_s=60)
    fresh = embedded_process(world.sql)
    await fresh.broker.start(["echo"])
    assert await fresh.outbox.relay_once() == 0
    await fresh.outbox.recover()
    assert await fresh.outbox.relay_once() == 1
    assert await bodies(fresh, 1) == [Say(text="one").to_bytes()]
    await fresh.sql.pass_time(60)
    assert await fresh.outbox.relay_once() == 2


async def test_a_relay_publishes_all_that_is_due_and_ends_when_told_to(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limner.storage.sql.outbox.TICK_S", 0.01)
    monkeypatch.setattr("limner.storage.sql.outbox.CLAIM_ROWS", 3)
    stop = asyncio.Event()
    relaying = asyncio.create_task(world.outbox.relay(stop))

    async def has(count: int) -> bool:
        return (await world.broker.depth("echo")).ready == count

    for n in range(7):
        await outbox_row(world, message(n))
    await eventually(lambda: has(7))
    await outbox_row(world, message(8))
    await eventually(lambda: has(8))
    stop.set()
    await asyncio.wait_for(relaying, 10)


async def test_full_batches_follow_each_other_without_a_pause(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limner.storage.sql.outbox.TICK_S", 3600.0)
    stop, batches = asyncio.Event(), [CLAIM_ROWS, CLAIM_ROWS, 3]

    async def relay_once() -> int:
        count = batches.pop(0)
        if not batches:
            stop.set()
        return count

    monkeypatch.setattr(world.outbox, "relay_once", relay_once)
    await asyncio.wait_for(world.outbox.relay(stop), 10)
    assert batches == []


async def test_a_relay_whose_rows_another_took_first_publishes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await outbox_row(world, message())

    async def nothing(limit: int = CLAIM_ROWS) -> list[Envelope]:
        return []

    monkeypatch.setattr(world.outbox, "claim", nothing)
    assert await world.outbox.relay_once() == 0

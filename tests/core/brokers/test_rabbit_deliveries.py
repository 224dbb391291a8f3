"""Acknowledgements go out in batches: the frames are counted here."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from pamqp import commands as spec
from pamqp import frame as frames

from limner.core import failpoints
from limner.core.brokers.rabbit_deliveries import RabbitDeliveries, RabbitEvents
from limner.core.brokers.rabbit_lane import Arrival, Lane
from limner.core.errors import EngineUnavailable, FailpointReached
from limner.core.message import Envelope
from tests.contracts.engines import eventually

Frame = tuple[str, int, bool]


@dataclass
class Written:
    """A lane that remembers what was written, and in how many writes."""

    number: int = 3
    writes: list[bytes] = field(default_factory=list)

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    @property
    def frames(self) -> list[Frame]:
        """Kind, number and whether it stands for all up to it."""
        data, found = b"".join(self.writes), []
        while data:
            size_bytes, channel, frame = frames.unmarshal(data)
            assert channel == self.number
            method = cast("spec.Basic.Ack", frame)
            found.append((method.name, method.delivery_tag or 0, bool(method.multiple)))
            data = data[size_bytes:]
        return found


def read(arrival: Arrival) -> Envelope:
    return Envelope(str(arrival.tag), "echo.say", arrival.body)


async def taken(count: int, prefetch: int = 100) -> tuple[RabbitDeliveries, Written, list[Any]]:
    """Give a consumer that has taken ``count`` messages."""
    deliveries, lane = RabbitDeliveries(prefetch, read), Written()
    deliveries.attach(cast("Lane", lane))
    for tag in range(1, count + 1):
        deliveries.arrive(Arrival(tag, "", "echo.say", b"", b"{}", 2))
    return deliveries, lane, [await anext(deliveries) for _ in range(count)]


async def written(lane: Written) -> list[Frame]:
    async def something() -> bool:
        return bool(lane.writes)

    await eventually(something)
    return lane.frames


async def test_what_is_finished_together_goes_out_as_one_frame() -> None:
    _, lane, hands = await taken(40)
    for hand in hands:
        await hand.ack()
    assert lane.writes == []
    assert await written(lane) == [("Basic.Ack", 40, True)]


async def test_what_is_finished_beyond_an_unfinished_one_is_acknowledged_alone() -> None:
    deliveries, lane, hands = await taken(6)
    for n in (5, 0, 3, 1):
        await hands[n].ack()
    deliveries.flush()
    assert lane.frames == [
        ("Basic.Ack", 2, True), ("Basic.Ack", 4, False), ("Basic.Ack", 6, False)
    ]  # fmt: skip
    assert len(lane.writes) == 1
    for n in (2, 4):
        await hands[n].ack()
    deliveries.flush()
    assert lane.frames[3:] == [("Basic.Ack", 5, True)]
    assert deliveries.in_hand == 0


async def test_a_message_that_came_and_was_not_taken_is_not_acknowledged_with_others() -> None:
    deliveries, lane, (first, second) = await taken(2)
    deliveries.arrive(Arrival(3, "", "echo.say", b"", b"{}", 2))
    await second.ack()
    await first.ack()
    deliveries.flush()
    assert lane.frames == [("Basic.Ack", 2, True)]
    assert (deliveries.waiting, deliveries.in_hand) == (1, 0)


async def test_half_of_the_prefetch_does_not_wait() -> None:
    deliveries, lane, hands = await taken(10, prefetch=10)
    for hand in hands[:4]:
        await hand.ack()
    assert lane.writes == []
    await hands[4].ack()
    assert lane.frames == [("Basic.Ack", 5, True)]
    deliveries.close()


async def test_a_consumer_with_one_hand_acknowledges_at_once() -> None:
    _, lane, (hand,) = await taken(1, prefetch=1)
    await hand.ack()
    assert lane.frames == [("Basic.Ack", 1, False)]


async def test_a_released_message_goes_back_at_once_and_is_never_acknowledged() -> None:
    deliveries, lane, hands = await taken(3)
    await hands[1].release()
    assert lane.frames == [("Basic.Nack", 2, False)]
    for hand in hands:
        await hand.ack()
        await hand.release()
    deliveries.flush()
    assert lane.frames[1:] == [("Basic.Ack", 3, True)]


async def test_a_consumer_that_closes_acknowledges_first_and_gives_back_the_rest() -> None:
    deliveries, lane, hands = await taken(4)
    await hands[0].ack()
    await hands[2].ack()
    deliveries.close()
    assert lane.frames == [
        ("Basic.Ack", 1, False), ("Basic.Ack", 3, False), ("Basic.Nack", 4, True)
    ]  # fmt: skip
    for hand in hands:
        await hand.ack()
        await hand.release()
    assert len(lane.frames) == 3
    assert deliveries._flushing is None


async def test_after_a_loss_nothing_is_written_and_all_who_wait_are_told() -> None:
    deliveries, lane, hands = await taken(3)
    await hands[0].ack()
    waiting = [asyncio.ensure_future(anext(deliveries)) for _ in range(2)]
    await asyncio.sleep(0)
    deliveries.lose("cable")
    for one in waiting:
        with pytest.raises(EngineUnavailable, match="cable"):
            await one
    for hand in hands:
        await hand.ack()
        await hand.release()
    deliveries.close()
    assert lane.writes == []
    assert (deliveries.waiting, deliveries.in_hand) == (0, 0)


@pytest.mark.parametrize("point", ["broker.ack.before", "broker.ack.after"])
async def test_the_failpoints_of_acknowledging_are_passed(point: str) -> None:
    deliveries, _, (hand,) = await taken(1)
    failpoints.arm(f"{point}:1:raise")
    with pytest.raises(FailpointReached):
        await hand.ack()
    assert deliveries.in_hand == (1 if point.endswith("before") else 0)
    deliveries.close()


async def test_events_end_with_the_block_and_tell_of_a_loss() -> None:
    events = RabbitEvents(2, read)
    waiting = asyncio.ensure_future(anext(events, None))
    await asyncio.sleep(0)
    events.close()
    assert await waiting is None
    lost = RabbitEvents(2, read)
    for tag in range(1, 4):
        lost.arrive(Arrival(tag, "", "task.failed", b"", b"{}", 2))
    assert (await anext(lost)).message_id == "2"
    assert aiter(lost) is lost
    lost.lose("cable")
    with pytest.raises(EngineUnavailable, match="cable"):
        await anext(lost)


async def test_a_loss_after_the_end_is_no_news() -> None:
    deliveries, lane, _ = await taken(2)
    events = RabbitEvents(2, read)
    for taker in (deliveries, events, RabbitDeliveries(1, read)):
        taker.close()
        taker.lose("cable")
        assert await anext(taker, None) is None
    assert lane.frames == [("Basic.Nack", 2, True)]


async def test_what_comes_after_the_end_goes_back_with_its_channel() -> None:
    deliveries = RabbitDeliveries(1, read)
    deliveries.arrive(Arrival(1, "", "echo.say", b"", b"{}", 2))
    deliveries.close()
    assert (deliveries.waiting, deliveries.in_hand) == (0, 0)

"""Confirms are counted off, whatever order and form they come in."""

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pamqp import commands as spec
from pamqp.header import ContentHeader

from limner.core.broker import Outcome
from limner.core.brokers.rabbit_lane import Arrival, Lane
from limner.core.brokers.rabbit_publisher import WINDOW, Publisher
from limner.core.errors import EngineUnavailable
from limner.core.message import Envelope
from tests.contracts.engines import eventually
from tests.core.brokers.vhost import command

OK, BUSY, UNROUTABLE = Outcome.CONFIRMED, Outcome.BUSY, Outcome.UNROUTABLE


@dataclass
class Silent:
    """A lane that takes everything and answers nothing."""

    number: int = 1
    is_lost: bool = False
    writes: list[bytes] = field(default_factory=list)
    connection: Any = field(
        default_factory=lambda: SimpleNamespace(connection_tune=SimpleNamespace(frame_max=4096))
    )

    def watch(self, tell: Any) -> None:
        self.tell = tell

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    async def drain(self) -> None:
        await asyncio.sleep(0)


def attached() -> tuple[Publisher, Silent]:
    publisher, lane = Publisher(), Silent()
    publisher.attach(cast("Lane", lane))
    return publisher, lane


async def begun(publisher: Publisher, *envelopes: Envelope) -> "asyncio.Task[list[Outcome]]":
    task = asyncio.create_task(publisher.publish(envelopes))
    await asyncio.sleep(0)
    return task


def returned(envelope: Envelope) -> Arrival:
    properties = spec.Basic.Properties(
        message_id=envelope.message_id, headers={"attempt": envelope.attempt}
    )
    header = ContentHeader(0, 2, properties).marshal()
    return Arrival(0, "limner.commands", envelope.topic, header, b"{}", 2)


async def test_each_call_gets_the_outcomes_of_its_own_messages() -> None:
    publisher, lane = attached()
    first = await begun(publisher, command(1), command(2))
    second = await begun(publisher, command(3))
    publisher.confirm(3, multiple=False, taken=True)
    assert await second == [OK]
    assert not first.done()
    publisher.confirm(2, multiple=False, taken=False)
    publisher.confirm(1, multiple=False, taken=True)
    assert await first == [OK, BUSY]
    assert len(lane.writes) == 2


async def test_one_frame_may_answer_for_all_up_to_a_number() -> None:
    publisher, _ = attached()
    first = await begun(publisher, *(command(n) for n in range(4)))
    publisher.confirm(2, multiple=False, taken=False)
    publisher.confirm(3, multiple=True, taken=True)
    assert not first.done()
    publisher.confirm(9, multiple=True, taken=False)
    assert await first == [OK, BUSY, OK, BUSY]
    publisher.confirm(9, multiple=False, taken=False)


async def test_a_returned_message_is_found_among_its_likes() -> None:
    publisher, _ = attached()
    one, other = command(1), command(2)
    task = await begun(publisher, one, one.next_attempt(), one, other)
    publisher.returned(returned(command(3)))
    publisher.returned(returned(one.next_attempt()))
    publisher.returned(returned(one))
    publisher.confirm(4, multiple=True, taken=True)
    assert await task == [UNROUTABLE, UNROUTABLE, OK, OK]


async def test_no_more_than_the_window_is_in_flight() -> None:
    publisher, _ = attached()
    task = await begun(publisher, *(command(n) for n in range(WINDOW + 10)))

    async def window_is_full() -> bool:
        return len(publisher._unconfirmed) == WINDOW

    await eventually(window_is_full)
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(publisher._unconfirmed) == WINDOW
    publisher.confirm(5, multiple=True, taken=True)

    async def goes_on() -> bool:
        return max(publisher._unconfirmed) == WINDOW + 5

    await eventually(goes_on)
    publisher.confirm(WINDOW + 5, multiple=True, taken=True)

    async def all_are_sent() -> bool:
        return max(publisher._unconfirmed, default=0) == WINDOW + 10

    await eventually(all_are_sent)
    publisher.confirm(WINDOW + 10, multiple=True, taken=True)
    assert await task == [OK] * (WINDOW + 10)


@pytest.mark.parametrize("count", [1, WINDOW + 10])
async def test_a_loss_is_told_to_all_who_wait(count: int) -> None:
    publisher, lane = attached()
    task = await begun(publisher, *(command(n) for n in range(count)))
    await asyncio.sleep(0)
    lane.is_lost = True
    lane.tell("cable")
    with pytest.raises(EngineUnavailable, match="cable"):
        await task
    assert publisher.is_lost
    with pytest.raises(EngineUnavailable, match="cable"):
        await publisher.publish([command()])


async def test_one_who_gives_up_waiting_disturbs_nobody() -> None:
    publisher, _ = attached()
    given_up = await begun(publisher, command(1))
    other = await begun(publisher, command(2))
    given_up.cancel()
    await asyncio.wait({given_up})
    publisher.confirm(2, multiple=True, taken=True)
    assert await other == [OK]
    assert given_up.cancelled()


async def test_nothing_to_publish_needs_no_lane() -> None:
    assert await Publisher().publish([]) == []
    with pytest.raises(EngineUnavailable, match="never opened"):
        await Publisher().publish([command()])

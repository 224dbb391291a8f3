"""The drain: what a broker gave up comes again once, then it is a row; nothing is dropped."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from limner.actors.ports import Ports
from limner.actors.sweeper import drain as drain_module
from limner.actors.sweeper.drain import PUT_BACK_S, Drain
from limner.core.broker import DELIVERY_LIMIT
from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable
from limner.core.message import Envelope
from limner.core.unit import Commit, UnitOfWork
from limner.storage.sql.messaging import PUT_BACK, DeadLetter, InboxRow, OutboxRow
from limner.storage.sql.outbox import Outbox
from limner.storage.sql.unit import SqlUnits
from tests.contracts.engines import eventually
from tests.fakes.broker import DurableBroker
from tests.fakes.ports import open_ports

LIMIT_S = 10.0


class Flaky(SqlUnits):
    """Units whose database is away for the first ``outages`` commits."""

    outages = 0

    async def commit(self, work: UnitOfWork) -> Commit:
        if self.outages:
            self.outages -= 1
            raise EngineUnavailable("database: gone")
        return await super().commit(work)


@pytest.fixture
async def broker(clock: HeldClock) -> AsyncIterator[DurableBroker]:
    opened = DurableBroker(clock)
    await opened.start(["echo"])
    yield opened
    await opened.aclose()


@pytest.fixture
async def ports(
    tmp_path: Path, migrated_file: Path, clock: HeldClock, broker: DurableBroker
) -> AsyncIterator[Ports]:
    async with open_ports(tmp_path, clock=clock, migrated=migrated_file) as opened:
        outbox = Outbox(opened.database, broker, clock, opened.metrics)
        units = Flaky(opened.database, broker, clock, outbox.offer)
        yield replace(opened, broker=broker, outbox=outbox, units=units)
        await outbox.drain()


def given_up(ident: str = "m1", attempt: int = 1, reason: str = DELIVERY_LIMIT) -> Envelope:
    return Envelope(
        ident, "echo.say", b'{"text": "x"}', app_id="shop", attempt=attempt, trace_id="ab" * 16,
        fault=(reason, "why"),
    )  # fmt: skip


async def letters() -> list[tuple[str, str, int]]:
    rows = await DeadLetter.all().order_by("message_id")
    return [(row.message_id, row.reason, row.attempt) for row in rows]


async def test_a_message_is_put_back_once_as_its_next_attempt_after_a_rest(
    ports: Ports, broker: DurableBroker, clock: HeldClock
) -> None:
    drain = Drain(ports)
    await drain.settle(given_up())
    (row,) = await OutboxRow.all()
    assert (row.message_id, row.app_id, row.attempt) == ("m1", "shop", 2)
    assert (row.topic, row.trace_id) == ("echo.say", "ab" * 16)
    assert await ports.outbox.relay_once() == 0
    clock.advance(PUT_BACK_S)
    assert await ports.outbox.relay_once() == 1
    (back,) = broker.published
    assert (back.message_id, back.attempt, back.fault) == ("m1", 2, None)
    assert await letters() == []


async def test_the_second_time_it_is_a_dead_letter_whatever_its_attempt(ports: Ports) -> None:
    drain = Drain(ports)
    await drain.settle(given_up())
    await drain.settle(given_up(attempt=4))
    assert await letters() == [("m1", DELIVERY_LIMIT, 4)]
    (letter,) = await DeadLetter.all()
    assert (letter.consumer, letter.detail) == ("echo", "why")
    assert await OutboxRow.all().count() == 1


async def test_each_message_has_a_second_chance_of_its_own(ports: Ports) -> None:
    drain = Drain(ports)
    for one in (given_up(), given_up("m2"), replace(given_up(), app_id="other")):
        await drain.settle(one)
    assert await OutboxRow.all().count() == 3
    assert await InboxRow.filter(consumer=PUT_BACK).count() == 3
    assert await letters() == []


async def test_a_dead_message_that_comes_twice_is_settled_once(ports: Ports) -> None:
    drain = Drain(ports)
    for _ in range(2):
        await drain.settle(given_up())
        await drain.settle(given_up("m2", reason="rejected"))
    # Only the first of the repeats met no mark; the other repeats an attempt that is settled.
    assert await OutboxRow.all().count() == 1
    assert await letters() == [("m2", "rejected", 1)]


async def test_a_message_that_was_handled_after_all_is_not_put_back(ports: Ports) -> None:
    one = given_up()
    await ports.units.commit(ports.units.open("echo", replace(one, fault=None)))
    await Drain(ports).settle(one)
    assert await OutboxRow.all().count() == 0
    assert await letters() == []


@pytest.mark.parametrize("reason", ["unroutable", "rejected", "expired", "no_message_id"])
async def test_all_else_is_a_dead_letter_at_once(ports: Ports, reason: str) -> None:
    await Drain(ports).settle(given_up(reason=reason))
    assert await letters() == [("m1", reason, 1)]
    assert await OutboxRow.all().count() == 0


async def test_what_names_no_actor_and_no_reason_is_kept_too(ports: Ports) -> None:
    await Drain(ports).settle(replace(given_up(), topic="", fault=None))
    (letter,) = await DeadLetter.all()
    assert (letter.consumer, letter.reason) == ("unknown", "unroutable")


async def test_it_acknowledges_after_the_commit_and_goes_on_until_it_is_stopped(
    ports: Ports, broker: DurableBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain_module, "ENGINE_PAUSE_S", 0.01)
    assert isinstance(ports.units, Flaky)
    ports.units.outages = 3
    stop = asyncio.Event()
    running = asyncio.create_task(Drain(ports).run(stop))
    for n in range(3):
        broker.give_up(given_up(f"m{n}"), "expired")

    async def all_are_rows() -> bool:
        return len(await letters()) == 3

    await eventually(all_are_rows)
    stop.set()
    await asyncio.wait_for(running, LIMIT_S)
    assert (len(broker._dead.ready), broker._dead.in_hand) == (0, 0)


async def test_where_the_database_stays_away_the_message_goes_back(
    ports: Ports, broker: DurableBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain_module, "ENGINE_HOLD_S", 0.0)
    assert isinstance(ports.units, Flaky)
    ports.units.outages = 1
    broker.give_up(given_up(), "expired")
    with pytest.raises(EngineUnavailable):
        await asyncio.wait_for(Drain(ports).run(asyncio.Event()), LIMIT_S)
    assert (len(broker._dead.ready), broker._dead.in_hand) == (1, 0)
    assert await letters() == []


async def test_an_embedded_broker_gives_nothing_up(
    tmp_path: Path, migrated_file: Path, clock: HeldClock
) -> None:
    stop = asyncio.Event()
    async with open_ports(tmp_path, clock=clock, migrated=migrated_file) as opened:
        running = asyncio.create_task(Drain(opened).run(stop))
        await asyncio.sleep(0)
        stop.set()
        await asyncio.wait_for(running, LIMIT_S)

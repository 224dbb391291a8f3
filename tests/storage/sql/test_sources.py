from datetime import timedelta
from typing import Any

from limner.core.clock import HeldClock
from limner.core.ids import new_id
from limner.core.message import Message
from limner.core.unit import Commit
from limner.storage.sql.schedules import Schedule
from limner.storage.sql.sources import Source, create_source, delete_source, update_source
from limner.storage.sql.unit import SqlUnits


class Ask(Message):
    topic = "asker.ask"

    source_id: str


async def created(units: SqlUnits, **fields: Any) -> Source:
    values: dict[str, Any] = {"options": {"url": "u", "headers": {"A": "1"}}, "interval_s": 100}
    source = Source(id=new_id("source"), state="active", name="a", connector="http")
    source.update_from_dict(values | fields)
    work = units.open("test")
    create_source(work, source, Ask(source_id=source.id))
    assert await units.commit(work) is Commit.DONE
    return await found(source)


async def found(source: Source) -> Source:
    fresh = await Source.found(source.id)
    assert fresh is not None
    return fresh


async def changed(units: SqlUnits, source: Source, **changes: Any) -> Commit:
    work = units.open("test")
    update_source(work, source, **changes)
    return await units.commit(work)


async def schedule(source: Source) -> Schedule:
    return await Schedule.get(subject_id=source.id)


async def test_a_new_source_has_a_schedule_that_asks_after_one_interval(
    units: SqlUnits, clock: HeldClock
) -> None:
    source = await created(units)
    row = await schedule(source)
    assert (row.topic, bytes(row.body)) == ("asker.ask", Ask(source_id=source.id).to_bytes())
    assert (row.interval_s, row.jitter_s, row.enabled, row.cron) == (100, 10.0, True, "")
    first_s = (row.fire_at - clock.now()).total_seconds()
    assert 100 <= first_s <= 110


async def test_sources_that_are_made_together_are_polled_at_different_times(
    units: SqlUnits,
) -> None:
    rows = [await schedule(await created(units)) for _ in range(5)]
    assert len({row.fire_at for row in rows}) == 5


async def test_a_new_interval_counts_from_now(units: SqlUnits, clock: HeldClock) -> None:
    source = await created(units, interval_s=86_400)
    clock.advance(50)
    assert await changed(units, source, interval_s=10) is Commit.DONE
    row = await schedule(source)
    assert (row.interval_s, row.jitter_s) == (10, 1.0)
    assert timedelta(seconds=10) <= row.fire_at - clock.now() <= timedelta(seconds=11)
    assert (await found(source)).interval_s == 10


async def test_a_change_of_the_name_leaves_schedule_and_cursor_alone(units: SqlUnits) -> None:
    source = await created(units, cursor="c7", broken=True, poll_id="poll_1")
    before = await schedule(source)
    assert await changed(units, source, name="b", state="active") is Commit.DONE
    assert (await schedule(source)).fire_at == before.fire_at
    after = await found(source)
    assert (after.name, after.cursor, after.broken, after.poll_id) == ("b", "c7", True, "poll_1")


async def test_a_paused_source_is_not_asked_for_until_it_is_resumed(
    units: SqlUnits, clock: HeldClock
) -> None:
    source = await created(units)
    assert await changed(units, source, state="paused", name="b") is Commit.DONE
    assert not (await schedule(source)).enabled
    source = await found(source)
    assert (source.state, source.name) == ("paused", "b")
    clock.advance(1000)
    assert await changed(units, source, state="active") is Commit.DONE
    row = await schedule(source)
    assert row.enabled
    assert row.fire_at > clock.now()


async def test_another_feed_begins_at_the_beginning(units: SqlUnits) -> None:
    for changes in (
        {"connector": "demo"},
        {"external_id": "x"},
        {"options": {"url": "v", "headers": {"A": "1"}}},
        {"options": {"url": "v"}, "state": "paused"},
    ):
        source = await created(units, cursor="c7", broken=True, poll_id="poll_1")
        assert await changed(units, source, **changes) is Commit.DONE
        after = await found(source)
        assert (after.cursor, after.broken, after.poll_id) == ("", False, ""), changes
        assert after.lease_until is None


async def test_another_credential_makes_no_other_feed(units: SqlUnits) -> None:
    source = await created(units, cursor="c7", broken=True)
    options = {"url": "u", "headers": {"A": "2"}, "xsec_token": "t", "resume": True}
    assert await changed(units, source, options=options) is Commit.DONE
    after = await found(source)
    assert (after.cursor, after.broken, after.options) == ("c7", True, options)


async def test_a_deleted_source_has_no_schedule_and_takes_no_changes(units: SqlUnits) -> None:
    source = await created(units, poll_id="poll_1")
    work = units.open("test")
    delete_source(work, source)
    assert await units.commit(work) is Commit.DONE
    assert not await Schedule.exists(subject_id=source.id)
    after = await found(source)
    assert (after.state, after.poll_id) == ("deleted", "")
    assert await changed(units, source, name="b") is Commit.STALE
    assert (await found(source)).name == "a"


async def test_a_change_that_came_too_late_does_not_touch_the_schedule(units: SqlUnits) -> None:
    source = await created(units)
    assert await changed(units, source, state="paused") is Commit.DONE
    assert await changed(units, source, interval_s=7) is Commit.STALE
    assert (await schedule(source)).interval_s == 100

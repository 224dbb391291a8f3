"""Standing schedules: made once, changed with their cron line, kept otherwise."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from limner.core.unit import Units
from limner.storage.sql.schedules import Schedule, ensure_schedule
from limner.storage.sql.unit import SqlUnits

AT = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)


async def ensure(units: Units, cron: str = "0 3 * * *", fire_at: datetime = AT) -> None:
    await ensure_schedule(units, "clean", cron, "sweeper.clean", b"{}", fire_at)


async def test_a_standing_schedule_is_made_once(units: SqlUnits) -> None:
    await ensure(units)
    await ensure(units, fire_at=AT + timedelta(days=1))
    (row,) = await Schedule.all()
    assert (row.name, row.cron, row.fire_at, row.enabled) == ("clean", "0 3 * * *", AT, True)
    assert (row.topic, bytes(row.body)) == ("sweeper.clean", b"{}")


async def test_another_cron_line_replaces_it(units: SqlUnits) -> None:
    await ensure(units)
    (before,) = await Schedule.all()
    await ensure(units, cron="0 4 * * *", fire_at=AT + timedelta(hours=1))
    (row,) = await Schedule.all()
    assert (row.id, row.cron) == (before.id, "0 4 * * *")
    assert row.fire_at == AT + timedelta(hours=1)


async def test_processes_that_start_at_once_make_one(units: SqlUnits) -> None:
    await asyncio.gather(*(ensure(units) for _ in range(5)))
    assert await Schedule.all().count() == 1


async def test_a_process_that_comes_second_leaves_it_to_the_first(
    units: SqlUnits, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ensure(units)

    async def not_seen(**_: object) -> None:
        return None

    await Schedule.filter(name="clean").update(name="renamed meanwhile")
    monkeypatch.setattr(Schedule, "get_or_none", not_seen)
    await ensure(units)
    (row,) = await Schedule.all()
    assert row.name == "renamed meanwhile"

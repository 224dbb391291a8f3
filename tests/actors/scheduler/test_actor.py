"""The scheduler: each time fires once, whatever clocks, restarts and second schedulers do."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limner.actors.ports import Ports
from limner.actors.scheduler import actor as scheduler_module
from limner.actors.scheduler.actor import STANDING, Scheduler, build, missed_times, next_fire
from limner.actors.sweeper.messages import Clean
from limner.core import failpoints
from limner.core.clock import HeldClock
from limner.core.errors import FailpointReached
from limner.core.ids import new_id
from limner.storage.sql.schedules import Schedule, ScheduleRun
from tests.contracts.engines import eventually
from tests.fakes.ports import open_ports
from tests.fakes.stage import Stage

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HOUR_S = 3600.0


@pytest.fixture
async def ports(tmp_path: Path, migrated_file: Path, clock: HeldClock) -> AsyncIterator[Ports]:
    async with open_ports(tmp_path, clock=clock, migrated=migrated_file) as opened:
        yield opened


@pytest.fixture
def scheduler(ports: Ports) -> Scheduler:
    return Scheduler(ports)


async def schedule(ports: Ports, name: str = "clean", **fields: Any) -> Schedule:
    row = Schedule(
        **{
            "id": new_id("schedule"),
            "name": name,
            "interval_s": 120,
            "topic": Clean.topic,
            "body": Clean().to_bytes(),
            "fire_at": NOON,
            "created_at": NOON,
            **fields,
        }
    )
    await Stage(ports).keep(row)
    return row


async def fire_at(row: Schedule) -> datetime:
    return (await Schedule.get(id=row.id)).fire_at


async def sent(ports: Ports) -> list[str]:
    return [each.topic for each in await Stage(ports).waiting()]


def missed(ports: Ports) -> float:
    return ports.metrics.registry.get_sample_value("limner_schedule_missed_total") or 0.0


async def test_what_is_due_sends_its_command_and_moves_on(
    scheduler: Scheduler, ports: Ports
) -> None:
    row = await schedule(ports)
    await schedule(ports, "later", fire_at=NOON + timedelta(microseconds=1))
    await schedule(ports, "off", enabled=False)
    assert await scheduler.fire_due() == 1
    (waiting,) = await Stage(ports).waiting()
    assert (waiting.topic, waiting.body) == ("sweeper.clean", "{}")
    assert await fire_at(row) == NOON + timedelta(seconds=120)
    (run,) = await ScheduleRun.all()
    assert (run.schedule_id, run.fire_at, run.started_at) == (row.id, NOON, NOON)
    assert await scheduler.fire_due() == 0


async def test_an_interval_fires_once_in_each(
    scheduler: Scheduler, ports: Ports, clock: HeldClock
) -> None:
    await schedule(ports)
    fired = 0
    for _ in range(20):
        fired += await scheduler.fire_due()
        clock.advance(60)
    assert fired == 10
    assert len(await sent(ports)) == 10
    assert missed(ports) == 0


async def test_a_cron_line_fires_at_its_minutes(
    scheduler: Scheduler, ports: Ports, clock: HeldClock
) -> None:
    row = await schedule(ports, cron="*/15 12 * * *", interval_s=0, fire_at=NOON)
    for _ in range(120):
        await scheduler.fire_due()
        clock.advance(60)
    runs = await ScheduleRun.all().order_by("fire_at")
    assert [f"{run.fire_at:%H:%M}" for run in runs] == ["12:00", "12:15", "12:30", "12:45"]
    assert f"{await fire_at(row):%d %H:%M}" == "23 12:00"


@given(
    interval_s=st.integers(5, 86_400),
    late_s=st.floats(0, 100_000),
    share=st.floats(0, 0.5),
)
def test_the_next_time_lies_within_the_jitter_and_never_in_the_past(
    interval_s: int, late_s: float, share: float
) -> None:
    jitter_s = interval_s * share
    now = NOON + timedelta(seconds=late_s)
    fire = next_fire("", interval_s, jitter_s, now, NOON)
    base = NOON if late_s < interval_s else now
    least = base + timedelta(seconds=interval_s - jitter_s)
    most = base + timedelta(seconds=interval_s + jitter_s)
    assert fire >= now + timedelta(seconds=1)
    assert least - timedelta(seconds=1) <= fire <= max(most, now + timedelta(seconds=1))


def test_jitter_spreads_the_times() -> None:
    times = {next_fire("", 120, 12, NOON, NOON) for _ in range(20)}
    assert len(times) == 20


def test_the_first_time_lies_one_interval_from_now() -> None:
    assert next_fire("", 120, 0, NOON, None) == NOON + timedelta(seconds=120)


def test_cron_times_are_utc_and_after_now() -> None:
    elsewhere = NOON.astimezone(tz=None)
    assert next_fire("0 12 * * *", 0, 0, elsewhere, None) == NOON + timedelta(days=1)
    assert next_fire("30 12 * * *", 0, 0, elsewhere, None) == NOON + timedelta(minutes=30)


@pytest.mark.parametrize(
    ("cron", "interval_s", "late_s", "count"),
    [
        ("", 120, 0, 0),
        ("", 120, 119, 0),
        ("", 120, 120, 1),
        ("", 120, 3600, 30),
        ("", 5, 1_000_000, 1000),
        ("", 0, 3600, 0),
        ("*/5 * * * *", 0, 299, 0),
        ("*/5 * * * *", 0, 300, 1),
        ("*/5 * * * *", 0, 3600, 12),
        ("* * * * *", 0, 1_000_000, 1000),
    ],
)
def test_times_that_passed_meanwhile_are_counted(
    cron: str, interval_s: int, late_s: int, count: int
) -> None:
    assert missed_times(cron, interval_s, NOON, NOON + timedelta(seconds=late_s)) == count


async def test_two_schedulers_at_once_fire_a_time_once(ports: Ports, clock: HeldClock) -> None:
    row = await schedule(ports)
    clock.advance(HOUR_S)
    fired = await asyncio.gather(*(Scheduler(ports).fire_due() for _ in range(4)))
    assert sum(fired) == 1
    assert await ScheduleRun.all().count() == 1
    assert await sent(ports) == [Clean.topic]
    assert await fire_at(row) == clock.now() + timedelta(seconds=120)
    assert missed(ports) == 30


@pytest.mark.parametrize("cron", ["", "*/2 * * * *"], ids=["interval", "cron"])
async def test_a_clock_that_jumps_ahead_makes_up_for_what_it_missed_by_one_run(
    scheduler: Scheduler, ports: Ports, clock: HeldClock, cron: str
) -> None:
    row = await schedule(ports, cron=cron)
    assert await scheduler.fire_due() == 1
    clock.advance(HOUR_S)
    assert await scheduler.fire_due() == 1
    assert await scheduler.fire_due() == 0
    assert missed(ports) == 29
    assert await ScheduleRun.all().count() == 2
    assert await fire_at(row) == clock.now() + timedelta(seconds=120)


async def test_a_clock_that_jumps_back_repeats_nothing(
    scheduler: Scheduler, ports: Ports, clock: HeldClock
) -> None:
    await schedule(ports, cron="0 * * * *", interval_s=0)
    for _ in range(3):
        await scheduler.fire_due()
        clock.advance(HOUR_S)
    clock.advance(-1.5 * HOUR_S)
    for _ in range(4):
        await scheduler.fire_due()
        clock.advance(HOUR_S / 2)
    runs = await ScheduleRun.all().order_by("fire_at")
    assert [f"{run.fire_at:%H:%M}" for run in runs] == ["12:00", "13:00", "14:00", "15:00"]
    assert len(await sent(ports)) == 4


async def test_a_time_that_was_fired_before_is_passed_over(
    scheduler: Scheduler, ports: Ports, clock: HeldClock
) -> None:
    row = await schedule(ports)
    assert await scheduler.fire_due() == 1
    await Schedule.filter(id=row.id).update(fire_at=NOON)
    clock.advance(10)
    assert await scheduler.fire_due() == 0
    assert await sent(ports) == [Clean.topic]
    assert await fire_at(row) == NOON + timedelta(seconds=120)


@pytest.mark.parametrize("action", ["raise", "execute-then-raise"])
async def test_a_scheduler_that_dies_at_a_time_fires_it_once_all_the_same(
    ports: Ports, action: str
) -> None:
    await schedule(ports)
    failpoints.arm(f"schedule.fire:{action}")
    with pytest.raises(FailpointReached):
        await Scheduler(ports).fire_due()
    failpoints.arm(None)
    await Scheduler(ports).fire_due()
    assert await sent(ports) == [Clean.topic]
    assert await ScheduleRun.all().count() == 1


async def test_the_loop_makes_the_standing_schedules_and_fires_until_it_is_stopped(
    ports: Ports, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler_module, "TICK_S", 0.01)
    (loop,) = build(ports).loops
    stop = asyncio.Event()
    running = asyncio.ensure_future(loop.run(stop))

    async def made() -> bool:
        return await Schedule.all().count() == len(STANDING)

    await eventually(made)
    rows = {row.name: row for row in await Schedule.all()}
    assert {name: row.topic for name, row in rows.items()} == {
        "clean": "sweeper.clean",
        "retain": "sweeper.retain",
        "rotate_keys": "sweeper.rotate_keys",
    }
    assert rows["clean"].fire_at == datetime(2026, 11, 23, 3, 23, tzinfo=UTC)
    clock.advance(timedelta(days=1).total_seconds())

    async def both_fired() -> bool:
        return len(await sent(ports)) == 2

    await eventually(both_fired)
    stop.set()
    async with asyncio.timeout(10):
        await running
    assert sorted(await sent(ports)) == ["sweeper.clean", "sweeper.retain"]


async def test_a_restart_keeps_the_times_and_makes_up_for_the_night_by_one_run(
    ports: Ports, clock: HeldClock
) -> None:
    stop = asyncio.Event()
    stop.set()
    await Scheduler(ports).run(stop)
    before = {row.name: row.fire_at for row in await Schedule.all()}
    clock.advance(timedelta(days=3).total_seconds())
    await Scheduler(ports).run(stop)
    assert {row.name: row.fire_at for row in await Schedule.all()} == before
    assert await Scheduler(ports).fire_due() == 2
    assert sorted(await sent(ports)) == ["sweeper.clean", "sweeper.retain"]
    assert missed(ports) == 4

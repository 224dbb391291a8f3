"""The scheduler: sends the command of each internal schedule when its time has come, once.

A fire time is a row (schedule, time) with a unique key, written in the unit that moves the
schedule on; two schedulers, a restart or a jump of the clock cannot fire it twice. Times missed
while nothing ran are counted and made up for by one run.
"""

import asyncio
import random
from datetime import UTC, datetime, timedelta

from cronsim import CronSim

from limner.actors.ports import Ports
from limner.actors.sweeper.messages import Clean, Retain, RotateKeys
from limner.core.actor import Actor, Loop
from limner.core.errors import Conflict, Stale
from limner.core.failpoints import declare, step
from limner.core.ids import derived_id
from limner.core.logs import get_logger
from limner.core.message import Message
from limner.core.unit import Commit, Step
from limner.storage.sql.connection import Connection
from limner.storage.sql.schedules import Schedule, ScheduleRun, ensure_schedule

log = get_logger("scheduler")

FIRE = declare("schedule.fire")
TICK_S = 0.5
DUE_LIMIT = 100

STANDING: tuple[tuple[str, str, type[Message]], ...] = (
    ("clean", "23 3 * * *", Clean),
    ("retain", "41 3 * * *", Retain),
    ("rotate_keys", "7 4 * * 0", RotateKeys),
)


class Scheduler:
    """Fires what is due."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def run(self, stop: asyncio.Event) -> None:
        """Fire until ``stop``; the standing schedules are made first."""
        for name, cron, message in STANDING:
            fire_at = next_fire(cron, 0, 0, self._ports.clock.now(), None)
            await ensure_schedule(
                self._ports.units, name, cron, message.topic, message().to_bytes(), fire_at
            )
        while not stop.is_set():
            await self.fire_due()
            try:
                await asyncio.wait_for(stop.wait(), TICK_S)
            except TimeoutError:
                continue

    async def fire_due(self) -> int:
        """Fire each due schedule once and give how many fired."""
        now = self._ports.clock.now()
        due = (
            await Schedule.filter(enabled=True, fire_at__lte=now)
            .order_by("fire_at")
            .limit(DUE_LIMIT)
        )
        fired = 0
        for schedule in due:
            async with step(FIRE):
                fired += await self._fire(schedule, now)
        return fired

    async def _fire(self, schedule: Schedule, now: datetime) -> int:
        after = next_fire(
            schedule.cron, schedule.interval_s, schedule.jitter_s, now, schedule.fire_at
        )
        work = self._ports.units.open("scheduler")
        work.step(_move_on(schedule, after))
        work.add(
            ScheduleRun(
                id=derived_id("run", schedule.id, schedule.fire_at.isoformat()),
                schedule_id=schedule.id,
                fire_at=schedule.fire_at,
                started_at=now,
            )
        )
        work.send_stored(schedule.topic, bytes(schedule.body))
        try:
            commit = await self._ports.units.commit(work)
        except Conflict:
            # This time was fired before the clock went back: pass over it, send nothing.
            work = self._ports.units.open("scheduler")
            work.step(_move_on(schedule, after))
            await self._ports.units.commit(work)
            return 0
        if commit is not Commit.DONE:
            return 0  # another scheduler was first, and has counted what was missed
        missed = missed_times(schedule.cron, schedule.interval_s, schedule.fire_at, now)
        if missed:
            self._ports.metrics.schedule_missed.inc(missed)
            log.warning("fire times were missed", schedule=schedule.name, missed=missed)
        return 1


def _move_on(schedule: Schedule, after: datetime) -> Step:
    async def write(connection: Connection) -> None:
        moved = await connection.execute(
            "UPDATE schedules SET fire_at = ? WHERE id = ? AND fire_at = ?",
            [after, schedule.id, schedule.fire_at],
        )
        if not moved:
            raise Stale("another scheduler was first")

    return write


def next_fire(
    cron: str, interval_s: int, jitter_s: float, now: datetime, last: datetime | None
) -> datetime:
    """Give the next time after ``now``: by cron (UTC), or an interval later, ± jitter seconds."""
    if cron:
        fire: datetime = next(CronSim(cron, now.astimezone(UTC)))
        return fire
    base = last if last is not None and last + timedelta(seconds=interval_s) > now else now
    jitter = random.uniform(-jitter_s, jitter_s)  # noqa: S311 - spreads load, no secret
    return max(base + timedelta(seconds=interval_s + jitter), now + timedelta(seconds=1))


def missed_times(cron: str, interval_s: int, due: datetime, now: datetime) -> int:
    """Give how many further fire times have passed since ``due``; at most 1,000 are counted."""
    if not cron:
        late_s = (now - due).total_seconds()
        return min(1000, int(late_s // interval_s)) if interval_s else 0
    times = CronSim(cron, due.astimezone(UTC))
    for missed in range(1000):
        if next(times) > now:
            return missed
    return 1000


def build(ports: Ports) -> Actor[Message]:
    """The scheduler needs the clock and the database."""
    return Actor(name="scheduler", loops=(Loop("scheduler", Scheduler(ports).run),))

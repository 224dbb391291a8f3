"""The order in which jobs are claimed, and the place that a waiting client is told."""

from datetime import timedelta

from limner.core.clock import HeldClock
from limner.core.ids import new_id
from limner.storage.sql.database import Database
from limner.storage.sql.jobs import PRIORITY_S, QUEUED, Job, claim_weight, queue_position
from limner.storage.sql.unit import SqlUnits


async def queued(units: SqlUnits, clock: HeldClock, priority: int = 0) -> Job:
    job = Job(id=new_id("job"), state=QUEUED, prompt="a ring", priority=priority)
    work = units.open("test")
    work.add(job)
    await units.commit(work)
    clock.advance(1)
    return await Job.get(id=job.id)


async def test_places_follow_the_order_of_claims(
    database: Database, units: SqlUnits, clock: HeldClock
) -> None:
    first, second = await queued(units, clock), await queued(units, clock)
    paying = await queued(units, clock, priority=1)
    late = await queued(units, clock)
    order = sorted(
        (first, second, paying, late),
        key=lambda job: claim_weight(job, clock.now()),
        reverse=True,
    )
    assert [job.id for job in order] == [paying.id, first.id, second.id, late.id]
    assert [await queue_position(job) for job in order] == [1, 2, 3, 4]


async def test_who_has_waited_long_enough_goes_before_who_pays(
    database: Database, units: SqlUnits, clock: HeldClock
) -> None:
    patient = await queued(units, clock)
    clock.advance(PRIORITY_S + 1)
    paying = await queued(units, clock, priority=1)
    assert await queue_position(patient) == 1
    assert await queue_position(paying) == 2
    later = clock.now() + timedelta(hours=1)
    assert claim_weight(patient, later) > claim_weight(paying, later)

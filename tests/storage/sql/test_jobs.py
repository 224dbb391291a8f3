"""The order in which jobs are claimed, and the place that a waiting client is told."""

from datetime import timedelta

import pytest

from limner.core.clock import HeldClock
from limner.core.ids import new_id
from limner.storage.sql import jobs
from limner.storage.sql.claims import claim_jobs
from limner.storage.sql.database import Database
from limner.storage.sql.jobs import (
    PRIORITY_S,
    QUEUED,
    Job,
    claim_weight,
    create_job,
    queue_position,
)
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
    assert [await queue_position(database, job) for job in order] == [1, 2, 3, 4]


async def test_who_has_waited_long_enough_goes_before_who_pays(
    database: Database, units: SqlUnits, clock: HeldClock
) -> None:
    patient = await queued(units, clock)
    clock.advance(PRIORITY_S + 1)
    paying = await queued(units, clock, priority=1)
    assert await queue_position(database, patient) == 1
    assert await queue_position(database, paying) == 2
    later = clock.now() + timedelta(hours=1)
    assert claim_weight(patient, later) > claim_weight(paying, later)


async def test_of_jobs_made_at_the_same_moment_the_smaller_id_is_first_in_line_and_in_the_claim(
    database: Database, units: SqlUnits, clock: HeldClock
) -> None:
    work = units.open("test")
    rows = [Job(id=f"job_{n}", state=QUEUED, prompt="a ring") for n in (3, 1, 2)]
    work.add(*rows, Job(id="job_4", state=QUEUED, prompt="a ring", priority=1))
    await units.commit(work)
    places = {job.id: await queue_position(database, job) for job in await Job.all()}
    assert places == {"job_4": 1, "job_1": 2, "job_2": 3, "job_3": 4}
    seen: list[str] = []

    def choose(candidates: list[Job]) -> list[Job]:
        ordered = sorted(candidates, key=lambda job: claim_weight(job, clock.now()), reverse=True)
        seen.extend(job.id for job in ordered)
        return []

    await claim_jobs(database, choose, lease_s=15, worker_id="test:1")
    assert [places[ident] for ident in seen] == [1, 2, 3, 4]


async def test_equal_weights_of_two_priorities_are_told_as_they_are_claimed(
    database: Database, units: SqlUnits, clock: HeldClock
) -> None:
    patient = await queued(units, clock)
    clock.advance(PRIORITY_S - 1)
    paying = await queued(units, clock, priority=1)
    assert claim_weight(patient, clock.now()) == claim_weight(paying, clock.now())
    assert await queue_position(database, paying) == 1
    assert await queue_position(database, patient) == 2


async def test_a_job_that_is_not_stored_yet_is_told_the_place_it_will_have(
    database: Database, units: SqlUnits, clock: HeldClock
) -> None:
    work = units.open("test")
    fresh = create_job(work, {"prompt": "a ring"}, user_id="user_1")
    assert await queue_position(database, fresh) == 1
    await queued(units, clock)
    await queued(units, clock)
    work = units.open("test")
    fresh = create_job(work, {"prompt": "a ring"}, user_id="user_1")
    place = await queue_position(database, fresh)
    await units.commit(work)
    assert await queue_position(database, await Job.get(id=fresh.id)) == place == 3


async def test_a_place_far_behind_is_counted_only_so_far(
    database: Database, units: SqlUnits, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "COUNTED", 3)
    for _ in range(3):
        await queued(units, clock)
    assert await queue_position(database, await queued(units, clock)) == 4
    assert await queue_position(database, await queued(units, clock)) == 4


@pytest.mark.parametrize("mine", [0, 1, 5])
async def test_the_place_among_many_priorities_is_the_one_in_the_claim(
    database: Database, units: SqlUnits, clock: HeldClock, mine: int
) -> None:
    waiting = []
    for priority in (0, 5, 1, 0, 2, mine, 0, 5, -1):
        clock.advance(PRIORITY_S - 0.5)
        waiting.append(await queued(units, clock, priority))
    order = sorted(waiting, key=lambda job: claim_weight(job, clock.now()), reverse=True)
    assert [await queue_position(database, job) for job in order] == list(range(1, 10))

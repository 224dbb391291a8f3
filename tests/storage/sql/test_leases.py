"""Leases: renewed while a call runs, lost when somebody else holds them, void at a start."""

import asyncio
from datetime import timedelta

import pytest

from limner.core import failpoints
from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable, LeaseLost, Stale
from limner.core.ids import new_id
from limner.storage.sql.database import Database
from limner.storage.sql.jobs import Job
from limner.storage.sql.leases import Leases
from limner.storage.sql.tasks import Task
from limner.storage.sql.unit import SqlUnits
from tests.contracts.engines import eventually

LEASE_S = 15.0


@pytest.fixture
def leases(database: Database) -> Leases:
    return Leases(database, LEASE_S, 0.01)


@pytest.fixture
async def held(units: SqlUnits) -> Job:
    """A job that is being worked on, with its token in ``job.token``."""
    job = Job(id=new_id("job"), state="queued", prompt="a fox")
    work = units.open("test")
    work.add(job)
    await units.commit(work)
    await begin(units, job)
    return job


async def begin(units: SqlUnits, job: Job) -> int:
    return await units.open("test").begin(
        job, expected=("queued", "running"), to="running", lease_s=LEASE_S
    )


async def lease_of(job: Job) -> object:
    return (await Job.get(id=job.id)).lease_until


async def test_a_renewed_lease_lasts_from_now(leases: Leases, held: Job, clock: HeldClock) -> None:
    version = (await Job.get(id=held.id)).version
    clock.advance(10)
    await leases.renew(held, held.token)
    row = await Job.get(id=held.id)
    assert row.lease_until == clock.now() + timedelta(seconds=LEASE_S)
    assert (row.version, row.token) == (version, 1)


async def test_a_token_that_is_not_the_newest_renews_nothing(
    leases: Leases, held: Job, units: SqlUnits, clock: HeldClock
) -> None:
    clock.advance(LEASE_S)
    assert await begin(units, held) == 2
    before = await lease_of(held)
    with pytest.raises(LeaseLost, match="somebody else's"):
        await leases.renew(held, 1)
    assert await lease_of(held) == before


async def test_what_is_finished_is_not_held_any_more(
    leases: Leases, held: Job, units: SqlUnits
) -> None:
    work = units.open("test")
    work.move(held, expected="running", to="succeeded", token=held.token)
    await units.commit(work)
    with pytest.raises(LeaseLost):
        await leases.renew(held, held.token)
    assert await lease_of(held) is None


async def test_nobody_takes_what_is_under_a_live_lease(
    held: Job, units: SqlUnits, clock: HeldClock
) -> None:
    clock.advance(LEASE_S - 0.001)
    with pytest.raises(Stale):
        await begin(units, held)
    clock.advance(0.001)
    assert await begin(units, held) == 2


async def test_a_lease_is_kept_as_long_as_the_block_runs(
    leases: Leases, held: Job, clock: HeldClock
) -> None:
    async with leases.keep(held, held.token):
        for _ in range(3):
            clock.advance(10)

            async def renewed() -> bool:
                return await lease_of(held) == clock.now() + timedelta(seconds=LEASE_S)

            await eventually(renewed)
    clock.advance(LEASE_S)
    assert await leases.expired(Job, ("running",)) == [held.id]


async def test_a_block_ends_when_its_lease_is_lost(
    leases: Leases, held: Job, units: SqlUnits, clock: HeldClock
) -> None:
    clock.advance(LEASE_S)

    async def work() -> None:
        async with leases.keep(held, 1):
            assert await begin(units, held) == 2
            await asyncio.Event().wait()

    async with asyncio.timeout(10):
        with pytest.raises(LeaseLost):
            await work()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_cancelled_block_stays_cancelled(leases: Leases, held: Job) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        async with leases.keep(held, held.token):
            begun.set()
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await begun.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working


async def test_a_database_that_is_away_for_a_moment_ends_nothing(
    leases: Leases, held: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    renew = Leases.renew

    async def flaky(self: Leases, row: Job, token: int) -> None:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise EngineUnavailable("gone for a moment")
        await renew(self, row, token)

    monkeypatch.setattr(Leases, "renew", flaky)

    async def beaten() -> bool:
        return calls > 4

    async with leases.keep(held, held.token):
        await eventually(beaten)


@pytest.mark.parametrize("hangs", [True, False])
async def test_a_worker_that_cannot_renew_in_time_stops(
    database: Database, held: Job, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    async def gone(*_: object) -> None:
        if hangs:
            await asyncio.Event().wait()
        raise EngineUnavailable("gone")

    monkeypatch.setattr(Leases, "renew", gone)
    leases = Leases(database, 0.05, 0.01)
    with pytest.raises(LeaseLost, match="could not renew"):
        async with asyncio.timeout(10), leases.keep(held, held.token):
            await asyncio.Event().wait()


async def test_a_bug_in_the_heartbeat_stops_the_work(leases: Leases, held: Job) -> None:
    failpoints.arm("lease.renew:raise")
    with pytest.raises(LeaseLost, match="failpoint"):
        async with asyncio.timeout(10), leases.keep(held, held.token):
            await asyncio.Event().wait()


async def test_what_the_block_raises_comes_out_as_it_is(leases: Leases, held: Job) -> None:
    with pytest.raises(ValueError, match="no answer"):
        async with leases.keep(held, held.token):
            raise ValueError("no answer")


async def test_only_ended_leases_in_the_states_asked_for_are_expired(
    leases: Leases, units: SqlUnits, clock: HeldClock
) -> None:
    jobs = [Job(id=new_id("job"), state="queued", prompt=f"{n}") for n in range(4)]
    work = units.open("test")
    work.add(*jobs)
    await units.commit(work)
    for job in jobs[:3]:
        await begin(units, job)
        clock.advance(1)
    work = units.open("test")
    work.move(jobs[1], expected="running", to="failed", token=1)
    await units.commit(work)
    clock.advance(LEASE_S - 2)
    assert await leases.expired(Job, ("running",)) == [jobs[0].id]
    clock.advance(10)
    assert await leases.expired(Job, ("running",)) == [jobs[0].id, jobs[2].id]
    assert await leases.expired(Job, ("running", "queued")) == [jobs[0].id, jobs[2].id]
    assert await leases.expired(Job, ("queued",)) == []
    assert await leases.expired(Task, ("extracted",)) == []


async def test_at_a_start_all_leases_are_void(leases: Leases, held: Job, clock: HeldClock) -> None:
    assert await leases.expired(Job, ("running",)) == []
    await leases.void_all((Task, Job))
    assert await leases.expired(Job, ("running",)) == [held.id]
    assert await lease_of(held) == clock.now()

"""Batches and their leases: a worker that is slow, overtaken, stopped or out of room."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from limner.actors.generator.batches import Batches
from limner.actors.ports import Ports
from limner.actors.sweeper.actor import Sweeper
from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable
from limner.storage.objects.local import LocalObjects
from limner.storage.sql.jobs import Job
from limner.storage.sql.leases import Leases
from limner.storage.sql.timeline import lines_after
from tests.actors.generator.queueing import paint_all, queue, state
from tests.contracts.engines import eventually
from tests.fakes.painter import FakePainter, Held
from tests.fakes.ports import open_ports


@pytest.fixture
async def ports(tmp_path: Path, migrated_file: Path, clock: HeldClock) -> AsyncIterator[Ports]:
    async with open_ports(tmp_path, clock=clock, migrated=migrated_file) as opened:
        yield opened


@pytest.fixture
def painter() -> FakePainter:
    return FakePainter()


@pytest.fixture
def batches(ports: Ports, painter: FakePainter) -> Batches:
    return Batches(ports, painter)


async def test_workers_that_claim_at_the_same_time_never_take_the_same_job(
    ports: Ports, painter: FakePainter
) -> None:
    jobs = [await queue(ports, f"job {n}", count=4) for n in range(6)]
    workers = [Batches(replace(ports, worker_id=f"test:{n}"), painter) for n in range(4)]
    assert any(await asyncio.gather(*(worker.run_one() for worker in workers)))
    while any(await asyncio.gather(*(worker.run_one() for worker in workers))):
        pass
    painted = [prompt for batch in painter.painted for prompt in batch]
    assert sorted(painted) == [f"job {n}" for n in range(6)]
    assert [(await Job.get(id=job.id)).token for job in jobs] == [1] * 6


async def test_a_heartbeat_keeps_the_lease_however_long_it_takes(
    ports: Ports, painter: FakePainter, clock: HeldClock
) -> None:
    beating = replace(ports, leases=Leases(ports.database, 15, 0.01))
    held = Held()
    painter.script(held)
    job = await queue(ports, "slow")
    running = asyncio.create_task(Batches(beating, painter).run_one())
    await held.painting.wait()
    for _ in range(3):
        clock.advance(10)
        end = clock.now() + timedelta(seconds=15)

        async def renewed(end: datetime = end) -> bool:
            return await Job.exists(id=job.id, lease_until=end)

        await eventually(renewed)
        assert await Sweeper(ports).sweep() == 0
    held.go.set()
    assert await running
    assert await state(job) == "succeeded"


async def test_a_worker_that_was_overtaken_changes_nothing(
    ports: Ports, painter: FakePainter, clock: HeldClock
) -> None:
    held = Held()
    painter.script(held)
    job = await queue(ports, "fox")
    paused = asyncio.create_task(Batches(ports, painter).run_one())
    await held.painting.wait()
    clock.advance(ports.leases.lease_s)
    assert await Sweeper(ports).sweep() == 1
    assert await state(job) == "queued"
    other = Batches(replace(ports, worker_id="test:2"), FakePainter())
    assert await other.run_one()
    before = await Job.get(id=job.id)
    held.go.set()
    assert await paused
    after = await Job.get(id=job.id)
    assert (after.state, after.worker_id, after.token) == ("succeeded", "test:2", 2)
    assert after.version == before.version
    assert after.outputs[0]["key"] == f"jobs/{job.id}/2-0.png"
    keys = [entry.key for entry in await ports.objects.list("jobs/")]
    assert keys == [f"jobs/{job.id}/1-0.png", f"jobs/{job.id}/2-0.png"]
    assert b'outcome="succeeded"} 1.0' in ports.metrics.render()


async def test_a_worker_that_loses_its_lease_stops_painting_and_gives_the_others_back(
    ports: Ports, painter: FakePainter
) -> None:
    beating = replace(ports, leases=Leases(ports.database, 15, 0.01))
    held = Held()
    painter.script(held)
    lost, other = await queue(ports, "lost", age_s=1), await queue(ports, "other")
    running = asyncio.create_task(Batches(beating, painter).run_one())
    await held.painting.wait()
    work = ports.units.open("test")
    row = await Job.get(id=lost.id)
    work.move(row, expected="running", to="cancelled", token=row.token)
    await ports.units.commit(work)
    async with asyncio.timeout(10):
        assert await running
    assert held.broken_off
    assert (await state(lost), await state(other)) == ("cancelled", "queued")
    assert (await Job.get(id=other.id)).attempts == 0


async def test_a_heartbeat_beside_a_job_that_has_just_ended_ends_nothing(
    ports: Ports, painter: FakePainter, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    beating = replace(ports, leases=Leases(ports.database, 15, 0.01))
    first, second = await queue(ports, "first", age_s=1), await queue(ports, "second")
    put = LocalObjects.put

    async def slow(self: LocalObjects, key: str, *args: Any, **kwargs: Any) -> Any:
        if key.startswith(f"jobs/{second.id}/"):
            for _ in range(3):
                clock.advance(1)
                end = clock.now() + timedelta(seconds=15)

                async def renewed(end: datetime = end) -> bool:
                    return await Job.exists(id=second.id, lease_until=end)

                await eventually(renewed)
        return await put(self, key, *args, **kwargs)

    monkeypatch.setattr(LocalObjects, "put", slow)
    assert await Batches(beating, painter).run_one()
    assert (await state(first), await state(second)) == ("succeeded", "succeeded")
    assert len(painter.batches) == 1


async def test_a_worker_that_is_stopped_gives_its_jobs_back_at_once(
    batches: Batches, ports: Ports, painter: FakePainter
) -> None:
    held = Held()
    painter.script(held)
    jobs = [await queue(ports, "a"), await queue(ports, "b")]
    running = asyncio.create_task(batches.run_one())
    await held.painting.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert held.broken_off
    for job in jobs:
        row = await Job.get(id=job.id)
        assert (row.state, row.attempts, row.lease_until) == ("queued", 0, None)
        assert (await lines_after(job.id, 0))[-1].detail == "its worker stops"
    await paint_all(batches)
    assert [await state(job) for job in jobs] == ["succeeded", "succeeded"]


async def test_a_store_that_is_full_costs_no_attempt(
    batches: Batches, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await queue(ports, "fox")

    async def full(*_: Any, **__: Any) -> None:
        raise EngineUnavailable("The object store fails: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LocalObjects, "put", full)
        for _ in range(4):
            with pytest.raises(EngineUnavailable):
                await batches.run_one()
    assert await state(job) == "queued"
    await paint_all(batches)
    assert await state(job) == "succeeded"

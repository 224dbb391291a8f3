"""The sweeper: what was begun and never finished is put right; nothing waits for ever."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from limner.actors.mailer.messages import Reconcile as ReconcileMail
from limner.actors.ports import Ports
from limner.actors.status.messages import Check
from limner.actors.submitter.messages import Reconcile as ReconcileTask
from limner.actors.sweeper import actor as sweeper_module
from limner.actors.sweeper.actor import Sweeper, build
from limner.core.clock import HeldClock
from limner.core.errors import Conflict
from limner.core.ids import new_id
from limner.core.unit import Commit, UnitOfWork
from limner.storage.sql import chain
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.jobs import Job
from limner.storage.sql.tasks import Task
from limner.storage.sql.timeline import lines_after
from limner.storage.sql.unit import SqlUnits
from tests.contracts.engines import eventually
from tests.fakes.deliveries import finished, mailed
from tests.fakes.ports import open_ports
from tests.fakes.stage import Stage

LEASE_S = 15.0


@pytest.fixture
async def ports(tmp_path: Path, migrated_file: Path, clock: HeldClock) -> AsyncIterator[Ports]:
    async with open_ports(tmp_path, clock=clock, migrated=migrated_file) as opened:
        yield opened


@pytest.fixture
def sweeper(ports: Ports) -> Sweeper:
    return Sweeper(ports)


async def begin(ports: Ports, row: Any, before: str, to: str, **changes: Any) -> int:
    """Leave a row as a process does that died in the middle."""
    work = ports.units.open("test")
    return await work.begin(row, expected=before, to=to, lease_s=LEASE_S, **changes)


async def queued(ports: Ports, **fields: Any) -> Job:
    job = Job(**{"id": new_id("job"), "state": "queued", "prompt": "a fox", **fields})
    await Stage(ports).keep(job)
    return job


async def sent(ports: Ports, topic: str) -> list[dict[str, Any]]:
    rows = await Stage(ports).waiting()
    return [json.loads(row.body) for row in rows if row.topic == topic]


async def test_where_all_is_well_nothing_is_swept(sweeper: Sweeper, ports: Ports) -> None:
    task = await finished(ports)
    delivery = await mailed(ports, task)
    await begin(ports, delivery, "pending", "sending")
    job = await queued(ports)
    await begin(ports, job, "queued", "running")
    assert await sweeper.sweep() == 0
    assert (await Delivery.get(id=delivery.id)).state == "sending"
    assert (await Job.get(id=job.id)).state == "running"


async def test_a_mail_whose_sender_died_is_unknown_and_looked_up(
    sweeper: Sweeper, ports: Ports, clock: HeldClock
) -> None:
    task = await finished(ports)
    delivery = await mailed(ports, task)
    await begin(ports, delivery, "pending", "sending")
    clock.advance(LEASE_S)
    assert await sweeper.sweep() == 1
    assert await sweeper.sweep() == 0
    row = await Delivery.get(id=delivery.id)
    assert (row.state, row.lease_until) == ("unknown", None)
    assert row.error == "the sender ended before the answer was stored"
    after = await Task.get(id=task.id)
    assert (after.state, after.error) == ("unknown", row.error)
    assert await sent(ports, ReconcileMail.topic) == [{"delivery_id": delivery.id}]
    (line,) = await AuditLine.filter(event="mail.unknown")
    assert (line.subject, line.trace_id) == (delivery.id, task.trace_id)


@pytest.mark.parametrize("task_state", ["cancelled", None])
async def test_a_mail_without_a_waiting_task_is_unknown_on_its_own(
    sweeper: Sweeper, ports: Ports, clock: HeldClock, task_state: str | None
) -> None:
    task = await finished(ports)
    delivery = await mailed(ports, task)
    await begin(ports, delivery, "pending", "sending")
    if task_state is None:
        await Delivery.filter(id=delivery.id).update(task_id=None)
    else:
        work = ports.units.open("test")
        work.move(task, expected="succeeded", to=task_state)
        await ports.units.commit(work)
    clock.advance(LEASE_S)
    assert await sweeper.sweep() == 1
    assert (await Delivery.get(id=delivery.id)).state == "unknown"
    assert (await Task.get(id=task.id)).state == (task_state or "succeeded")


async def test_a_mail_that_was_finished_just_before_stays_so(
    sweeper: Sweeper, ports: Ports, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = await mailed(ports, await finished(ports))
    token = await begin(ports, delivery, "pending", "sending")
    clock.advance(LEASE_S)
    expired = ports.leases.expired

    async def then_finished(*args: Any) -> list[str]:
        found = await expired(*args)
        row = await Delivery.get(id=delivery.id)
        if row.state == "sending":
            work = ports.units.open("test")
            work.move(delivery, expected="sending", to="sent", token=token)
            await ports.units.commit(work)
        return found

    rows = await Delivery.filter(id=delivery.id)
    monkeypatch.setattr(ports.leases, "expired", then_finished)
    monkeypatch.setattr(Delivery, "filter", lambda **_: as_read(rows))
    await sweeper._deliveries()
    monkeypatch.undo()
    assert (await Delivery.get(id=delivery.id)).state == "sent"
    assert await sent(ports, ReconcileMail.topic) == []


async def as_read(rows: list[Delivery]) -> list[Delivery]:
    return rows


async def test_a_submission_that_was_never_finished_is_asked_about(
    sweeper: Sweeper, ports: Ports, clock: HeldClock
) -> None:
    task = await finished(ports, state="extracted", result_key="", provider="acme")
    await begin(ports, task, "extracted", "extracted", client_id="c1")
    assert await sweeper.sweep() == 0
    clock.advance(LEASE_S)
    assert await sweeper.sweep() == 1
    row = await Task.get(id=task.id)
    assert (row.state, row.lease_until, row.client_id) == ("unknown", None, "c1")
    assert row.error == "the submission ended before the answer was stored"
    assert await sent(ports, ReconcileTask.topic) == [{"task_id": task.id}]
    assert [line.state for line in await lines_after(task.id, 0)] == ["extracted", "unknown"]


async def test_a_second_submission_that_was_never_finished_is_asked_about_once_more(
    sweeper: Sweeper, ports: Ports, clock: HeldClock
) -> None:
    task = await finished(ports, state="unknown", result_key="", provider="acme")
    await begin(ports, task, "unknown", "unknown")
    assert await sweeper.sweep() == 0
    clock.advance(LEASE_S)
    assert await sweeper.sweep() == 1
    assert await sweeper.sweep() == 0
    row = await Task.get(id=task.id)
    assert (row.state, row.lease_until) == ("unknown", None)
    assert await sent(ports, ReconcileTask.topic) == [{"task_id": task.id}]


async def test_a_job_whose_worker_died_goes_back_into_the_queue(
    sweeper: Sweeper, ports: Ports, clock: HeldClock
) -> None:
    job = await queued(ports)
    await begin(ports, job, "queued", "running", attempts=2)
    clock.advance(LEASE_S)
    assert await sweeper.sweep() == 1
    row = await Job.get(id=job.id)
    assert (row.state, row.attempts, row.lease_until, row.token) == ("queued", 2, None, 1)
    assert (await lines_after(job.id, 0))[-1].detail == "its worker ended"


async def test_a_job_that_kills_its_workers_fails_after_the_twentieth(
    sweeper: Sweeper, ports: Ports, clock: HeldClock
) -> None:
    task = await finished(ports, state="running", result_key="", provider="local", round=2)
    jobs = [await queued(ports, task_id=task.id), await queued(ports)]
    for job in jobs:
        await begin(ports, job, "queued", "running", attempts=20)
    clock.advance(LEASE_S)
    assert await sweeper.sweep() == 2
    for job in jobs:
        row = await Job.get(id=job.id)
        assert (row.state, row.error) == ("failed", "20 workers ended while they made it")
    assert await sent(ports, Check.topic) == [{"task_id": task.id, "round": 2, "n": 0}]


async def test_a_task_whose_local_job_ended_unheard_is_looked_at_again(
    sweeper: Sweeper, ports: Ports, clock: HeldClock
) -> None:
    tasks = {}
    for name, task_state, job_state, provider in (
        ("unheard", "running", "succeeded", "local"),
        ("unheard too", "submitted", "failed", "local"),
        ("still made", "running", "running", "local"),
        ("elsewhere", "running", "succeeded", "acme"),
        ("over", "failed", "failed", "local"),
    ):
        tasks[name] = await finished(
            ports, state=task_state, result_key="", provider=provider, round=4
        )
        await queued(ports, state=job_state, task_id=tasks[name].id)
    clock.advance(60)
    assert await sweeper.sweep() == 0
    clock.advance(1)
    assert await sweeper.sweep() == 2
    looks = sorted(each["task_id"] for each in await sent(ports, Check.topic))
    assert looks == sorted([tasks["unheard"].id, tasks["unheard too"].id])
    assert {each["n"] for each in await sent(ports, Check.topic)} == {0}


async def test_a_wish_that_nobody_reviewed_expires(
    sweeper: Sweeper, ports: Ports, clock: HeldClock
) -> None:
    await Stage(ports).tune(review_ttl_s=3600)
    late = await finished(ports, state="needs_review", result_key="")
    clock.advance(1)
    other = await finished(ports, state="needs_review", result_key="")
    clock.advance(3600)
    assert await sweeper.sweep() == 1
    assert (await Task.get(id=late.id)).state == "expired"
    assert (await Task.get(id=other.id)).state == "needs_review"
    assert [line.type for line in await lines_after(late.id, 1)] == ["status", "done"]


async def test_a_review_that_cannot_be_ended_does_not_hold_up_the_others(
    ports: Ports, clock: HeldClock
) -> None:
    class Refusing(SqlUnits):
        refusals = 1

        async def commit(self, work: UnitOfWork) -> Commit:
            if self.refusals:
                self.refusals -= 1
                raise Conflict("a key is taken")
            return await super().commit(work)

    for _ in range(2):
        await finished(ports, state="needs_review", result_key="")
    clock.advance(700_000)
    units = Refusing(ports.database, ports.broker, clock, ports.outbox.offer)
    await Sweeper(replace(ports, units=units)).sweep()
    states = sorted([task.state for task in await Task.all()])
    assert states == ["expired", "needs_review"]


async def test_every_sweep_seals_what_was_written_since(
    sweeper: Sweeper, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "BATCH", 2)
    monkeypatch.setattr(chain.seal, "__defaults__", (2,))
    for _ in range(5):
        work = ports.units.open("test")
        work.audit("settings.changed")
        await ports.units.commit(work)
    await sweeper.sweep()
    assert await chain.verify() == chain.Verdict(5, None, 0)


async def test_the_length_of_the_outbox_is_told(sweeper: Sweeper, ports: Ports) -> None:
    await Stage(ports).send(Check(task_id="task_0"))
    await sweeper.sweep()
    assert ports.metrics.registry.get_sample_value("limner_outbox_rows") == 1


async def test_it_sweeps_again_and_again_until_it_is_stopped(
    ports: Ports, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper_module, "TICK_S", 0.01)
    actor = build(ports)
    loop = actor.loops[0]
    stop = asyncio.Event()
    running = asyncio.ensure_future(loop.run(stop))
    for _ in range(2):
        job = await queued(ports)
        await begin(ports, job, "queued", "running")
        clock.advance(timedelta(seconds=LEASE_S).total_seconds())

        async def back(ident: str = job.id) -> bool:
            return await Job.exists(id=ident, state="queued")

        await eventually(back)
    stop.set()
    async with asyncio.timeout(10):
        await running


async def test_the_sweepers_messages_have_handlers(ports: Ports) -> None:
    actor = build(ports)
    assert sorted(actor.handlers) == [
        "sweeper.clean",
        "sweeper.erase",
        "sweeper.forget",
        "sweeper.retain",
        "sweeper.rotate_keys",
    ]
    assert actor.concurrency == 1

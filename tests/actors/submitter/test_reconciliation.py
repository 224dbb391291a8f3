"""Reconciliation: a submission without an answer is cleared up, and never repeated on a guess."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from limner.actors.submitter.messages import Reconcile, Submit
from limner.core.brokers.embedded import EmbeddedBroker
from limner.core.clock import HeldClock
from limner.core.metrics import Metrics
from limner.storage.sql.database import Database
from limner.storage.sql.outbox import Outbox
from limner.storage.sql.tasks import Task
from limner.storage.sql.unit import SqlUnits
from tests.fakes.provider import FakeProvider
from tests.fakes.task_world import World, opened_world


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as running:
        yield running


@pytest.fixture
async def world(
    tmp_path: Path,
    clock: HeldClock,
    database: Database,
    units: SqlUnits,
    outbox: Outbox,
    broker: EmbeddedBroker,
    metrics: Metrics,
    fake: FakeProvider,
) -> AsyncIterator[World]:
    async with opened_world(
        home=tmp_path,
        clock=clock,
        database=database,
        units=units,
        outbox=outbox,
        broker=broker,
        metrics=metrics,
        hosts=frozenset({fake.host}),
    ) as opened:
        yield opened


async def doubted(world: World, fake: FakeProvider, mode: Any, **config: Any) -> Task:
    """Submit a task to a provider whose answer leaves doubt."""
    fake.submits(mode)
    await world.provider(fake.config(**config))
    task = await world.task()
    await world.send(Submit(task_id=task.id))
    await world.run(until="submitter.reconcile")
    assert (await world.now(task)).state == "unknown"
    return task


TAKEN = ["loses", "broken_after", "no_id", "html"]
NOT_TAKEN = ["drops", "broken", "hangs", "conflict"]


@pytest.mark.parametrize("mode", TAKEN)
async def test_an_order_that_arrived_is_found_and_goes_on(
    world: World, fake: FakeProvider, mode: Any
) -> None:
    task = await doubted(world, fake, mode)
    await world.run()
    task = await world.now(task)
    assert (task.state, task.provider_job_id) == ("succeeded", "job/1")
    assert fake.accepted == {f"{task.id}.1": 1}
    assert len(fake.submissions) == 1
    assert (await world.states(task))[:3] == ["extracted", "unknown", "submitted"]


@pytest.mark.parametrize("finds_jobs", [True, False])
@pytest.mark.parametrize("mode", NOT_TAKEN)
async def test_an_order_that_never_arrived_is_submitted_under_its_old_id(
    world: World, fake: FakeProvider, mode: Any, finds_jobs: bool
) -> None:
    fake.finds_jobs = finds_jobs
    task = await doubted(world, fake, mode)
    await world.run()
    task = await world.now(task)
    assert task.state == "succeeded"
    assert fake.submissions == [f"{task.id}.1"] * 2
    assert fake.accepted == {f"{task.id}.1": 1}
    assert (await world.states(task))[:4] == ["extracted", "unknown", "extracted", "submitted"]


async def test_an_order_that_is_not_there_is_looked_for_twice(
    world: World, fake: FakeProvider
) -> None:
    """What we gave up waiting for arrives between the first look and the second."""
    task = await doubted(world, fake, "late")
    await world.run(most=1)
    assert (await world.now(task)).state == "unknown"
    fake.release()
    await fake.settled()
    await world.run()
    assert world.times("submitter.reconcile") == [10]
    assert (await world.now(task)).state == "succeeded"
    assert fake.accepted == {f"{task.id}.1": 1}


async def test_an_idempotent_provider_is_given_the_same_order_again(
    world: World, fake: FakeProvider
) -> None:
    fake.honours_keys = True
    task = await doubted(world, fake, "loses", lookup_path=None)
    fake.submits("loses", "busy", "drops")
    await world.run()
    task = await world.now(task)
    assert (task.state, task.provider_job_id) == ("succeeded", "job/1")
    assert fake.submissions == [f"{task.id}.1"] * 5
    assert fake.accepted == {f"{task.id}.1": 1}
    assert fake.lookups == []
    lines = await world.lines(task, "status")
    assert "submitted again under the same id" in [line.detail for line in lines]


async def test_an_order_that_is_refused_when_it_comes_again_fails_the_task(
    world: World, fake: FakeProvider
) -> None:
    fake.honours_keys = True
    task = await doubted(world, fake, "drops", lookup_path=None)
    fake.submits("refuses")
    await world.run()
    task = await world.now(task)
    assert (task.state, task.error) == (
        "failed", "acme answered 400: the prompt is not allowed",
    )  # fmt: skip


async def test_a_resubmission_that_never_gets_an_answer_ends_before_an_operator(
    world: World, fake: FakeProvider
) -> None:
    fake.honours_keys = True
    task = await doubted(world, fake, "loses", lookup_path=None)
    fake.submits(then="loses")
    await world.run()
    task = await world.now(task)
    assert (task.state, task.lease_until) == ("unknown", None)
    assert fake.accepted == {f"{task.id}.1": 1}
    assert len(fake.submissions) == 11
    assert len(await world.audits("task.unresolved")) == 1
    assert [dead.reason for dead in await world.dead()] == ["attempts_exhausted"]


async def test_without_any_way_to_know_the_task_stays_unknown_where_it_is_seen(
    world: World, fake: FakeProvider
) -> None:
    task = await doubted(world, fake, "loses", lookup_path=None)
    await world.run()
    task = await world.now(task)
    assert task.state == "unknown"
    assert len(fake.submissions) == 1
    assert fake.checks == [f"{task.id}.1"] * 10, "our id was tried as the job's"
    (line,) = await world.lines(task, "log")
    assert "needs an operator" in str(line.data["message"])
    (audit,) = await world.audits("task.unresolved")
    assert (audit.subject, audit.data["client_id"]) == (task.id, f"{task.id}.1")
    assert [dead.reason for dead in await world.dead()] == ["attempts_exhausted"]


async def test_a_provider_that_uses_our_id_as_its_own_is_found_by_its_status(
    world: World, fake: FakeProvider
) -> None:
    task = await doubted(world, fake, "loses", lookup_path=None)
    fake.jobs[f"{task.id}.1"] = fake.jobs.pop("job/1")
    await world.run()
    task = await world.now(task)
    assert (task.state, task.provider_job_id) == ("succeeded", f"{task.id}.1")
    assert len(fake.submissions) == 1


async def test_a_look_up_that_fails_is_repeated(world: World, fake: FakeProvider) -> None:
    fake.looks_up("busy", "broken", "drops", "html", "hangs")
    task = await doubted(world, fake, "loses")
    fake.looks_up("busy", "broken", "drops", "html")
    await world.run()
    assert (await world.now(task)).state == "succeeded"
    assert fake.lookups == [f"{task.id}.1"] * 5


async def test_a_provider_that_never_comes_back_leaves_it_to_an_operator(
    world: World, fake: FakeProvider
) -> None:
    task = await doubted(world, fake, "loses")
    await fake.__aexit__(None, None, None)
    await world.run()
    assert (await world.now(task)).state == "unknown"
    assert len(await world.audits("task.unresolved")) == 1


async def test_a_provider_that_is_gone_leaves_it_to_an_operator(
    world: World, fake: FakeProvider
) -> None:
    task = await doubted(world, fake, "loses")
    await world.change(await world.now(task), provider_id="provider_none")
    await world.run()
    task = await world.now(task)
    assert task.state == "unknown"
    assert [dead.reason for dead in await world.dead()] == ["not_configured"]
    assert len(await world.lines(task, "log")) == 1


async def test_a_provider_that_was_deleted_still_finishes_what_it_has(
    world: World, fake: FakeProvider
) -> None:
    task = await doubted(world, fake, "loses")
    row = await world.ports.database.read().query("SELECT id FROM providers")
    await world.ports.database.write().execute(
        "UPDATE providers SET state = 'deleted' WHERE id = ?", [row[0]["id"]]
    )
    await world.run()
    assert (await world.now(task)).state == "succeeded"


async def test_an_unknown_mail_is_none_of_our_business(world: World, fake: FakeProvider) -> None:
    row = await world.provider(fake.config())
    mailed = await world.task(
        state="unknown",
        provider="acme",
        provider_id=row.id,
        provider_job_id="job/1",
        result_key="results/1.png",
    )
    here = await world.task(state="unknown", provider="local", result_key="results/2.png")
    going = await world.task(state="submitted", provider="acme", provider_id=row.id)
    for task in (mailed, here, going):
        await world.send(Reconcile(task_id=task.id))
    await world.send(Reconcile(task_id="task_none"))
    await world.run()
    for task in (mailed, here, going):
        assert (await world.now(task)).state == task.state
    assert fake.lookups == []
    assert [dead.reason for dead in await world.dead()] == ["not_found"]


@pytest.mark.parametrize("mode", [*TAKEN, *NOT_TAKEN, "late"])
@pytest.mark.parametrize("kind", ["looks up", "honours keys", "neither"])
async def test_no_id_is_ever_accepted_twice(
    world: World, fake: FakeProvider, mode: Any, kind: str
) -> None:
    """Whatever is lost, whatever comes twice and whenever: one job for one id, at most."""
    fake.honours_keys = kind == "honours keys"
    fake.submits(mode, mode)
    config = fake.config() if kind == "looks up" else fake.config(lookup_path=None)
    await world.provider(config)
    task = await world.task()
    for _ in range(2):
        await world.send(Submit(task_id=task.id))
    await world.run(until="submitter.reconcile")
    for _ in range(2):
        await world.send(Submit(task_id=task.id))
        await world.send(Reconcile(task_id=task.id))
    await world.run(most=4)
    fake.release()
    await fake.settled()
    await world.run()
    await world.sweep()
    await world.run()
    task = await world.now(task)
    assert fake.duplicates == {}
    if kind == "neither":
        assert task.state == "unknown"
        assert len(fake.submissions) == 1
    else:
        assert task.state in {"succeeded", "unknown"}
        assert task.state == "succeeded" or await world.audits("task.unresolved")

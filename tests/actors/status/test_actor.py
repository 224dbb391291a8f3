"""The status actor: follows tasks to their end, in time, and takes their results over once."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from limner.actors.status.actor import build
from limner.actors.status.messages import Check
from limner.actors.submitter.messages import Submit
from limner.core import failpoints
from limner.core.brokers.embedded import EmbeddedBroker
from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable
from limner.core.metrics import Metrics
from limner.core.providers.http import HttpProvider
from limner.storage.sql.database import Database
from limner.storage.sql.jobs import Job
from limner.storage.sql.outbox import Outbox
from limner.storage.sql.tasks import Task
from limner.storage.sql.unit import SqlUnits
from tests.fakes.provider import FakeProvider, png
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


async def submitted(world: World, fake: FakeProvider, **config: Any) -> Task:
    """Give a task that the provider has taken; its first check is due next."""
    await world.provider(fake.config(**config))
    task = await world.task()
    await world.send(Submit(task_id=task.id))
    await world.run(until="status.check")
    task = await world.now(task)
    assert task.state == "submitted"
    return task


async def check(world: World, task: Task, n: int = 0, *, round_: int = 1, ident: str = "") -> Task:
    """Have one check handled, before all others, and give how the task stands then."""
    await world.handle(await world.send(Check(task_id=ident or task.id, round=round_, n=n)))
    return await world.now(task)


# A provider


async def test_a_task_goes_from_submitted_to_its_mail(world: World, fake: FakeProvider) -> None:
    task = await submitted(world, fake)
    await world.run()
    task = await world.now(task)
    assert await world.states(task) == ["extracted", "submitted", "running", "succeeded"]
    assert task.result_type == "image/png"
    assert task.result_key.startswith(f"results/{task.id}/1-3-")
    assert await world.ports.objects.read(task.result_key, 9999) == png()
    assert (task.poster_key, task.error) == ("", "")
    assert world.times("status.check") == [30, 60]
    assert world.requests("status") == 3


async def test_the_mail_is_made_in_the_unit_of_the_success(
    world: World, fake: FakeProvider
) -> None:
    task = await submitted(world, fake)
    await world.run()
    (delivery,) = await world.deliveries(task)
    assert (delivery.state, delivery.purpose, delivery.attempt) == ("pending", "result", 1)
    assert (delivery.address, delivery.user_id) == (task.email, task.user_id)
    assert delivery.message_id == f"<{delivery.id}.result.1@limner.test>"
    assert delivery.trace_id == task.trace_id
    assert await world.sent("mailer.deliver") == [{"delivery_id": delivery.id}]


async def test_a_job_that_fails_fails_the_task_with_its_reason(
    world: World, fake: FakeProvider
) -> None:
    fake.ending = "error"
    task = await submitted(world, fake)
    await world.run()
    task = await world.now(task)
    assert (task.state, task.error) == ("failed", "the prompt was not understood")
    assert await world.deliveries(task) == []
    assert await world.sent("status.check") == []


async def test_a_job_that_fails_without_a_reason_has_one_anyway(
    world: World, fake: FakeProvider
) -> None:
    fake.ending = "error"
    task = await submitted(world, fake, error=None)
    await world.run()
    assert (await world.now(task)).error == "acme failed without a reason"


@pytest.mark.parametrize("ending", ["never", "flaps"])
async def test_a_job_without_an_end_is_given_up_after_twenty_checks(
    world: World, fake: FakeProvider, ending: Any
) -> None:
    fake.ending = ending
    task = await submitted(world, fake)
    await world.run()
    task = await world.now(task)
    assert (task.state, task.error) == ("failed", "max retries exceeded")
    assert len(fake.checks) == 20
    assert world.times("status.check") == [30] + [60] * 18
    assert await world.states(task) == ["extracted", "submitted", "running", "failed"]


async def test_the_number_of_checks_and_their_times_are_settings(
    world: World, fake: FakeProvider
) -> None:
    fake.ending = "never"
    await world.set(status_first_delay_s=1, status_max_delay_s=5, status_max_attempts=6)
    task = await submitted(world, fake)
    await world.run()
    assert (await world.now(task)).state == "failed"
    assert world.times("status.check") == [2, 4, 5, 5, 5]


async def test_a_job_that_first_runs_at_the_last_check_is_given_up_all_the_same(
    world: World, fake: FakeProvider
) -> None:
    fake.answers(then="odd")
    await world.set(status_max_attempts=1)
    task = await submitted(world, fake)
    await world.run()
    assert (await world.now(task)).state == "failed"


async def test_a_queued_job_leaves_the_task_submitted(world: World, fake: FakeProvider) -> None:
    task = await submitted(world, fake)
    await world.run(most=1)
    assert (await world.now(task)).state == "submitted"
    await world.run(most=1)
    assert (await world.now(task)).state == "running"


@pytest.mark.parametrize("mode", ["busy", "broken", "drops", "html"])
async def test_an_answer_that_does_not_come_counts_as_a_check(
    world: World, fake: FakeProvider, mode: Any
) -> None:
    fake.answers(then=mode)
    await world.set(status_max_attempts=3)
    task = await submitted(world, fake)
    await world.run()
    task = await world.now(task)
    assert task.state == "failed"
    assert task.error.startswith("max retries exceeded: ")
    assert len(fake.checks) == 3
    assert await world.dead() == [], "the message itself was never tried again"
    assert world.times("status.check") == ([7, 7] if mode == "busy" else [30, 60])


async def test_an_answer_that_comes_late_is_still_taken(world: World, fake: FakeProvider) -> None:
    fake.answers("broken", "drops", "html", "odd", "busy")
    task = await submitted(world, fake)
    await world.run()
    assert (await world.now(task)).state == "succeeded"


async def test_a_provider_that_is_gone_fails_the_task(world: World, fake: FakeProvider) -> None:
    task = await submitted(world, fake)
    await world.change(task, provider_id="provider_none")
    await world.run()
    task = await world.now(task)
    assert (task.state, task.error) == ("failed", "no provider acme")


async def test_an_answer_over_all_limits_fails_the_task(world: World, fake: FakeProvider) -> None:
    fake.answers("huge")
    task = await submitted(world, fake)
    await world.run()
    task = await world.now(task)
    assert task.state == "failed"
    assert "is over" in task.error


# Results


@pytest.mark.parametrize(
    ("serving", "error"),
    [
        ("html", "the result is no picture or video"),
        ("empty", "the result is no picture or video"),
        ("gone", "the result's address answered 403"),
        ("nothing", "acme names no result"),
        ("inside", "169.254.169.254 is not an address of the public internet"),
        ("huge", "the answer is over 100000 bytes"),
    ],
)
async def test_a_result_that_is_none_fails_the_task(
    world: World, fake: FakeProvider, serving: Any, error: str
) -> None:
    fake.serving = serving
    await world.set(upload_max_bytes=100_000)
    task = await submitted(world, fake)
    await world.run()
    task = await world.now(task)
    assert (task.state, task.error, task.result_key) == ("failed", error, "")
    assert await world.deliveries(task) == []
    assert await world.ports.objects.list() == []


async def test_a_result_that_is_not_there_yet_is_fetched_later(
    world: World, fake: FakeProvider
) -> None:
    fake.serving = "missing"
    task = await submitted(world, fake)
    await world.run(most=4)
    assert (await world.now(task)).state == "running"
    fake.serving = "png"
    await world.run()
    assert (await world.now(task)).state == "succeeded"
    assert len(await world.ports.objects.list()) == 1


async def test_a_store_out_of_reach_costs_the_task_nothing(
    world: World, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.polls = 0
    task = await submitted(world, fake)

    async def away(*_: object, **__: object) -> None:
        raise EngineUnavailable("the disk is full")

    coming = await world.next()
    assert coming is not None
    with monkeypatch.context() as patched:
        patched.setattr("limner.storage.objects.local.LocalObjects.put", away)
        with pytest.raises(EngineUnavailable):
            await world.handle(coming)
    assert (await world.now(task)).state == "submitted"
    await world.run()
    assert (await world.now(task)).state == "succeeded"


# Checks in between


async def test_a_callback_ends_the_polling(world: World, fake: FakeProvider) -> None:
    task = await submitted(world, fake)
    await fake.finish("job/1")
    began = world.clock.now()
    task = await check(world, task)
    assert (task.state, world.clock.now()) == ("succeeded", began)
    assert task.result_key.startswith(f"results/{task.id}/1-0-")
    asked = len(fake.checks)
    await world.run()
    assert len(fake.checks) == asked, "the chain's check found nothing to do"
    assert len(await world.deliveries(task)) == 1
    assert await world.sent("status.check") == []


async def test_a_callback_that_comes_too_early_changes_nothing(
    world: World, fake: FakeProvider
) -> None:
    fake.answers("odd", "busy")
    task = await submitted(world, fake)
    for _ in range(3):
        assert (await check(world, task)).state == "submitted"
    assert len(await world.sent("status.check")) == 1, "the chain's own and no other"
    await world.run()
    assert (await world.now(task)).state == "succeeded"


async def test_a_callback_about_a_failure_ends_the_task(world: World, fake: FakeProvider) -> None:
    fake.ending = "error"
    task = await submitted(world, fake)
    await fake.finish("job/1")
    assert (await check(world, task)).state == "failed"


async def test_two_checks_that_meet_make_one_mail(
    world: World, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await submitted(world, fake)
    await fake.finish("job/1")
    status = HttpProvider.status
    met: list[str] = []

    async def meeting(self: HttpProvider, job_id: str) -> Any:
        progress = await status(self, job_id)
        if not met:
            met.append(job_id)
            await check(world, task)
        return progress

    monkeypatch.setattr(HttpProvider, "status", meeting)
    await world.run()
    assert (await world.now(task)).state == "succeeded"
    assert len(await world.deliveries(task)) == 1
    assert len(await world.sent("mailer.deliver")) == 1
    assert len(await world.ports.objects.list()) == 2, "each wrote its own object"


async def test_a_callback_in_the_middle_of_a_check_does_not_break_the_chain(
    world: World, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.polls = 5
    task = await submitted(world, fake)
    status = HttpProvider.status
    deep: list[str] = []

    async def meeting(self: HttpProvider, job_id: str) -> Any:
        progress = await status(self, job_id)
        if not deep:
            deep.append(job_id)
            await check(world, task)
            deep.pop()
        return progress

    monkeypatch.setattr(HttpProvider, "status", meeting)
    await world.run()
    assert (await world.now(task)).state == "succeeded"


@pytest.mark.parametrize("state", ["extracted", "succeeded", "emailed", "cancelled", "failed"])
async def test_a_check_of_a_task_that_is_elsewhere_is_dropped(
    world: World, fake: FakeProvider, state: str
) -> None:
    task = await submitted(world, fake)
    await world.change(task, state=state)
    assert (await check(world, task, 1)).state == state
    assert fake.checks == []
    assert await world.dead() == []


async def test_a_check_of_another_round_or_no_task_is_dropped(
    world: World, fake: FakeProvider
) -> None:
    task = await submitted(world, fake)
    assert (await check(world, task, 1, round_=2)).state == "submitted"
    await check(world, task, 1, ident="task_none")
    assert fake.checks == []
    assert await world.dead() == []


async def test_a_cancelled_task_ends_its_chain(world: World, fake: FakeProvider) -> None:
    task = await submitted(world, fake)
    await world.run(most=1)
    await world.change(task, state="cancelled")
    await world.run()
    assert len(fake.checks) == 1


async def test_a_task_cancelled_during_the_check_stays_cancelled(
    world: World, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await submitted(world, fake)
    await fake.finish("job/1")
    status = HttpProvider.status

    async def cancelling(self: HttpProvider, job_id: str) -> Any:
        await world.change(task, state="cancelled")
        return await status(self, job_id)

    monkeypatch.setattr(HttpProvider, "status", cancelling)
    await world.run()
    assert (await world.now(task)).state == "cancelled"
    assert await world.deliveries(task) == []


# Unknown tasks


async def test_an_unknown_task_with_a_job_is_asked_about_again(
    world: World, fake: FakeProvider
) -> None:
    task = await submitted(world, fake)
    await world.change(task, state="unknown")
    await world.run()
    task = await world.now(task)
    assert task.state == "succeeded"
    assert (await world.states(task))[2:4] == ["submitted", "running"]


async def test_an_unknown_mail_is_no_reason_to_ask_the_provider(
    world: World, fake: FakeProvider
) -> None:
    task = await submitted(world, fake)
    await world.change(task, state="unknown", result_key="results/1.png")
    await world.run()
    assert (await world.now(task)).state == "unknown"
    assert fake.checks == []


# The generator


async def local(world: World, media: str = "image") -> tuple[Task, Job]:
    """Give a task and its job in the generator's queue."""
    task = await world.submit(await world.task(media=media))
    return task, await Job.get(task_id=task.id)


OUTPUT = {"key": "results/job_1/1-0.png", "content_type": "image/png", "width": 256}


async def test_a_task_follows_its_job_without_polling(world: World) -> None:
    task, job = await local(world)
    assert (await check(world, task)).state == "submitted"
    await world.finish(job, "running")
    for _ in range(2):
        assert (await check(world, task)).state == "running"
    await world.change(job, state="succeeded", outputs=[OUTPUT])
    task = await check(world, task)
    assert (task.state, task.result_key, task.result_type) == (
        "succeeded", OUTPUT["key"], "image/png",
    )  # fmt: skip
    assert len(await world.deliveries(task)) == 1
    assert await world.sent("status.check") == []


async def test_a_short_job_is_taken_over_in_one_step(world: World) -> None:
    task, job = await local(world, "video")
    output = {**OUTPUT, "content_type": "video/mp4", "poster_key": "results/job_1/poster.png"}
    await world.finish(job, "succeeded", outputs=[output])
    task = await check(world, task)
    assert (task.state, task.poster_key) == ("succeeded", "results/job_1/poster.png")
    assert await world.states(task) == ["extracted", "submitted", "succeeded"]


@pytest.mark.parametrize(
    ("state", "columns", "error"),
    [
        ("failed", {"error": "out of memory"}, "out of memory"),
        ("failed", {}, "the job was failed"),
        ("cancelled", {}, "the job was cancelled"),
        ("succeeded", {}, "the job has no output"),
        ("succeeded", {"outputs": [{"content_type": "image/png"}]}, "the job has no output"),
    ],
)
async def test_a_job_without_a_result_fails_its_task(
    world: World, state: str, columns: dict[str, Any], error: str
) -> None:
    task, job = await local(world)
    await world.finish(job, state, **columns)
    task = await check(world, task)
    assert (task.state, task.error) == ("failed", error)


async def test_a_job_that_is_gone_fails_its_task(world: World) -> None:
    task, _ = await local(world)
    await world.change(task, provider_job_id="job_none")
    assert (await check(world, task)).error == "the job job_none is gone"


async def test_a_second_mail_of_a_task_has_the_next_number(world: World) -> None:
    task, job = await local(world)
    await world.finish(job, "succeeded", outputs=[OUTPUT])
    task = await check(world, task)
    await world.change(task, state="running", round=2)
    await check(world, task, round_=2)
    assert [delivery.attempt for delivery in await world.deliveries(task)] == [1, 2]


# Dead letters


@pytest.mark.parametrize("point", ["db.commit.before", "db.commit.after", "provider.status.after"])
async def test_a_check_that_breaks_off_comes_again(
    world: World, fake: FakeProvider, point: str
) -> None:
    fake.polls = 0
    task = await submitted(world, fake)
    failpoints.arm(f"{point}:1:raise")
    coming = await world.next()
    assert coming is not None
    try:
        await world.handle(coming)
    finally:
        failpoints.arm(None)
    await world.run()
    assert (await world.now(task)).state == "succeeded"
    assert len(await world.deliveries(task)) == 1


async def test_a_check_that_is_given_up_keeps_the_chain_alive(
    world: World, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    task = await submitted(world, fake)
    with monkeypatch.context() as patched:
        patched.setattr(HttpProvider, "status", broken)
        await world.run(most=4)
    assert len(await world.dead()) == 1
    assert await world.sent("status.check") == [{"task_id": task.id, "round": 1, "n": 2}]
    await world.run()
    assert (await world.now(task)).state == "succeeded"


async def test_checks_that_are_all_given_up_fail_the_task(
    world: World, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    await world.set(status_max_attempts=2)
    task = await submitted(world, fake)
    monkeypatch.setattr(HttpProvider, "status", broken)
    await world.run()
    task = await world.now(task)
    assert (task.state, task.error) == ("failed", "max retries exceeded: RuntimeError: a bug")


async def test_a_look_in_between_that_is_given_up_leaves_the_chain_alone(
    world: World, fake: FakeProvider
) -> None:
    handler: Any = build(world.ports).handler
    task = await submitted(world, fake)
    for message in (Check(task_id=task.id, n=0), Check(task_id="task_none", n=1)):
        work = world.ports.units.open("status")
        await handler.abandon(message, "a bug", work)
        await world.ports.units.commit(work)
    assert len(await world.sent("status.check")) == 1
    assert (await world.now(task)).state == "submitted"


async def test_a_task_of_the_generator_whose_check_is_given_up_fails(world: World) -> None:
    handler: Any = build(world.ports).handler
    task, _ = await local(world)
    work = world.ports.units.open("status")
    await handler.abandon(Check(task_id=task.id, n=0), "a bug", work)
    await world.ports.units.commit(work)
    task = await world.now(task)
    assert (task.state, task.error) == ("failed", "the result could not be taken over: a bug")

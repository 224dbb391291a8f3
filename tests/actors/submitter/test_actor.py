"""The submitter: each task reaches its provider once, or says why not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from limner.actors.submitter.actor import build
from limner.actors.submitter.messages import Reconcile, Submit
from limner.actors.submitter.rules import CALLBACK, seed_of
from limner.core import failpoints
from limner.core.brokers.embedded import EmbeddedBroker
from limner.core.clock import HeldClock
from limner.core.metrics import Metrics
from limner.core.providers.http import HttpProvider
from limner.storage.sql.database import Database
from limner.storage.sql.jobs import Job
from limner.storage.sql.leases import Leases
from limner.storage.sql.outbox import Outbox
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


# The generator


async def test_a_picture_of_our_own_is_a_job_in_the_same_unit(world: World) -> None:
    task = await world.submit(await world.task(prompt="a red fox"))
    job = await Job.get(task_id=task.id)
    assert (task.state, task.provider, task.provider_job_id) == ("submitted", "local", job.id)
    assert (job.state, job.media, job.prompt, job.width, job.height) == (
        "queued", "image", "a red fox", 256, 256,
    )  # fmt: skip
    assert (job.seed, job.frames, job.fps) == (seed_of(task.id), 0, 0)
    assert job.cost == task.cost == 1
    assert (job.user_id, job.trace_id) == (task.user_id, task.trace_id)
    assert await world.sent("generator.ring") == [{"job_id": job.id}]
    assert await world.sent("status.check") == [], "the generator calls by itself"


async def test_a_video_has_frames_and_its_price(world: World) -> None:
    task = await world.submit(await world.task(media="video"))
    job = await Job.get(task_id=task.id)
    assert (job.media, job.frames, job.fps, job.cost) == ("video", 16, 16, 4)


async def test_a_task_that_comes_twice_becomes_one_job(world: World) -> None:
    task = await world.task()
    await world.send(Submit(task_id=task.id))
    await world.submit(task)
    assert await Job.filter(task_id=task.id).count() == 1


@pytest.mark.parametrize("state", ["pending", "submitted", "unknown", "cancelled", "emailed"])
async def test_only_an_extracted_task_is_submitted(world: World, state: str) -> None:
    task = await world.submit(await world.task(state=state))
    assert task.state == state
    assert await Job.all().count() == 0


async def test_a_task_that_is_not_there_is_a_dead_letter(world: World) -> None:
    await world.send(Submit(task_id="task_none"))
    await world.run()
    assert [(dead.reason, dead.attempt) for dead in await world.dead()] == [("not_found", 1)]


# A provider


async def test_an_order_carries_the_id_that_was_stored_before(
    world: World, fake: FakeProvider
) -> None:
    row = await world.provider(fake.config())
    task = await world.task(prompt="一只红狐狸")
    await world.send(Submit(task_id=task.id))
    await world.run(until="status.check")
    task = await world.now(task)
    ident = f"{task.id}.1"
    assert (task.state, task.provider, task.provider_id) == ("submitted", "acme", row.id)
    assert (task.client_id, task.provider_job_id, task.cost) == (ident, "job/1", 1)
    assert task.lease_until is None
    assert fake.accepted == {ident: 1}
    job = fake.jobs["job/1"]
    assert (job.prompt, job.kind) == ("一只红狐狸", "image")
    prefix = f"https://limner.test/api/providers/{row.id}/callback/"
    assert job.callback_url.startswith(prefix)
    payload = world.ports.signer.open(
        CALLBACK, job.callback_url.removeprefix(prefix), world.clock.now()
    )
    assert payload == {"provider": row.id, "task": task.id, "round": 1}
    assert await world.sent("status.check") == [{"task_id": task.id, "round": 1, "n": 1}]
    assert await world.states(task) == ["extracted", "submitted"]


async def test_the_row_says_who_is_called_while_the_call_is_on_its_way(
    world: World, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.provider(fake.config())
    task = await world.task()
    seen: list[Any] = []
    began = world.clock.now()
    submit = HttpProvider.submit

    async def spying(self: HttpProvider, order: Any) -> Any:
        seen.append(await world.now(task))
        return await submit(self, order)

    monkeypatch.setattr(HttpProvider, "submit", spying)
    await world.send(Submit(task_id=task.id))
    await world.run(until="status.check")
    (row,) = seen
    assert (row.state, row.client_id, row.provider) == ("extracted", f"{task.id}.1", "acme")
    assert (row.lease_until - began).total_seconds() == 15


async def test_secrets_reach_the_provider_and_no_other_place(world: World, tmp_path: Path) -> None:
    async with FakeProvider(token="hush") as guarded:
        world.ports.outgoing._guard._allowed |= {guarded.host}
        await world.secret("acme", "hush")
        await world.provider(guarded.config())
        await world.send(Submit(task_id=(await world.task()).id))
        await world.run(until="status.check")
        assert guarded.complaints == []
        assert len(guarded.jobs) == 1
    assert b"hush" not in await asyncio.to_thread(_all_bytes, tmp_path)


def _all_bytes(folder: Path) -> bytes:
    """Read the database, its log included."""
    return b"".join(path.read_bytes() for path in sorted(folder.glob("limner.db*")))


async def test_a_provider_that_is_done_at_once_is_asked_at_once(
    world: World, fake: FakeProvider
) -> None:
    fake.submits("sync")
    await world.provider(fake.config())
    began = world.clock.now()
    task = await world.submit(await world.task())
    assert task.state == "succeeded"
    assert world.clock.now() == began


async def test_the_first_check_comes_after_the_first_delay(
    world: World, fake: FakeProvider
) -> None:
    await world.provider(fake.config())
    began = world.clock.now()
    await world.send(Submit(task_id=(await world.task()).id))
    await world.run(until="status.check")
    assert (world.clock.now() - began).total_seconds() == 15


@pytest.mark.parametrize(
    ("name", "media", "error"),
    [
        ("nobody", "image", "no provider nobody"),
        ("acme", "video", "the provider acme makes no videos"),
    ],
)
async def test_a_provider_that_cannot_do_it_fails_the_task(
    world: World, fake: FakeProvider, name: str, media: str, error: str
) -> None:
    await world.provider(fake.config(), media="image")
    await world.set(image_provider=name, video_provider=name)
    task = await world.submit(await world.task(media=media))
    assert (task.state, task.error) == ("failed", error)
    assert await world.dead() == []


async def test_a_deleted_provider_gets_no_new_tasks(world: World, fake: FakeProvider) -> None:
    row = await world.provider(fake.config())
    await world.change(row, state="deleted")
    task = await world.submit(await world.task())
    assert (task.state, task.error) == ("failed", "no provider acme")


async def test_pictures_and_videos_go_to_the_providers_of_their_settings(
    world: World, fake: FakeProvider
) -> None:
    await world.provider(fake.config())
    await world.set(image_provider="local")
    image = await world.submit(await world.task())
    await world.send(Submit(task_id=(await world.task(media="video")).id))
    await world.run(until="status.check")
    assert image.provider == "local"
    assert [job.kind for job in fake.jobs.values()] == ["video"]


async def test_a_task_that_names_its_provider_goes_there(world: World) -> None:
    task = await world.submit(await world.task(provider="elsewhere"))
    assert task.error == "no provider elsewhere"


async def test_a_new_round_goes_to_the_provider_of_the_settings_under_a_new_id(
    world: World, fake: FakeProvider
) -> None:
    await world.provider(fake.config())
    old = {"client_id": "task_x.1", "provider": "elsewhere", "result_key": "results/old.png"}
    task = await world.task(round=2, error="too dark", provider_job_id="job/0", **old)
    await world.send(Submit(task_id=task.id))
    await world.run(until="status.check")
    task = await world.now(task)
    assert (task.client_id, task.provider, task.provider_job_id) == (
        f"{task.id}.2", "acme", "job/1",
    )  # fmt: skip
    assert (task.result_key, task.error) == ("", "")
    assert await world.sent("status.check") == [{"task_id": task.id, "round": 2, "n": 1}]


async def test_a_missing_secret_fails_the_task_before_the_call(
    world: World, fake: FakeProvider
) -> None:
    await world.provider(fake.config(headers={"Authorization": "Bearer secret:lost"}))
    task = await world.submit(await world.task())
    assert task.state == "failed"
    assert "there is no secret lost" in task.error
    assert fake.submissions == fake.complaints == []


async def test_a_stored_mapping_that_is_not_valid_fails_the_task(
    world: World, fake: FakeProvider
) -> None:
    await world.provider(fake.config(job_id="id"))
    task = await world.submit(await world.task())
    assert (task.state, task.error) == (
        "failed", "the provider acme: the provider's mapping is not valid",
    )  # fmt: skip


async def test_a_private_address_is_refused_and_the_task_says_so(
    world: World, fake: FakeProvider
) -> None:
    await world.provider(fake.config(base_url="http://169.254.169.254"))
    task = await world.submit(await world.task())
    assert task.state == "failed"
    assert "not an address of the public internet" in task.error
    assert (await world.states(task))[-1] == "failed"


async def test_a_refusal_fails_the_task_with_the_providers_reason(
    world: World, fake: FakeProvider
) -> None:
    fake.submits("refuses")
    await world.provider(fake.config())
    task = await world.submit(await world.task())
    assert (task.state, task.error) == (
        "failed", "acme answered 400: the prompt is not allowed",
    )  # fmt: skip
    assert task.lease_until is None
    assert await world.dead() == []


@pytest.mark.parametrize("mode", ["busy", "away"])
async def test_a_busy_provider_is_tried_again_under_the_same_id(
    world: World, fake: FakeProvider, mode: Any
) -> None:
    fake.submits(mode, mode)
    await world.provider(fake.config())
    task = await world.task()
    await world.send(Submit(task_id=task.id))
    await world.run(most=1)
    waiting = await world.now(task)
    assert (waiting.state, waiting.lease_until) == ("extracted", None)
    await world.run(until="status.check")
    assert (await world.now(task)).state == "submitted"
    assert fake.submissions == [f"{task.id}.1"] * 3
    assert fake.duplicates == {}
    if mode == "busy":
        assert world.times("submitter.submit") == [7, 7], "Retry-After is kept"


async def test_a_provider_that_stays_busy_fails_the_task_after_the_last_attempt(
    world: World, fake: FakeProvider
) -> None:
    fake.submits(then="busy")
    await world.provider(fake.config())
    task = await world.submit(await world.task())
    assert (task.state, task.error) == ("failed", "acme answered 429: too many orders")
    assert task.lease_until is None
    assert len(fake.submissions) == 4, "the first attempt and three more"
    (dead,) = await world.dead()
    assert (dead.reason, dead.attempt) == ("attempts_exhausted", 4)


async def test_a_provider_that_is_out_of_reach_is_tried_again(
    world: World, fake: FakeProvider
) -> None:
    await world.provider(fake.config())
    await fake.__aexit__(None, None, None)
    task = await world.submit(await world.task())
    assert task.state == "failed"
    assert "cannot be connected to" in task.error
    assert fake.accepted == {}


@pytest.mark.parametrize(
    "mode", ["loses", "drops", "broken", "broken_after", "hangs", "no_id", "html", "conflict"]
)
async def test_an_answer_that_leaves_doubt_makes_the_task_unknown(
    world: World, fake: FakeProvider, mode: Any
) -> None:
    fake.submits(mode)
    await world.provider(fake.config())
    task = await world.task()
    began = world.clock.now()
    await world.send(Submit(task_id=task.id))
    await world.run(until="submitter.reconcile")
    task = await world.now(task)
    assert (task.state, task.provider_job_id, task.lease_until) == ("unknown", "", None)
    assert await world.sent("submitter.reconcile") == [{"task_id": task.id}]
    assert (world.clock.now() - began).total_seconds() == 10
    assert len(fake.submissions) == 1
    assert await world.dead() == []


# Redelivery and crashes


async def test_a_redelivery_that_meets_a_live_lease_does_nothing(
    world: World, fake: FakeProvider
) -> None:
    await world.provider(fake.config())
    task = await world.task()
    work = world.ports.units.open("submitter")
    await work.begin(task, expected="extracted", to="extracted", lease_s=15)
    task = await world.submit(task)
    assert task.state == "extracted"
    assert fake.submissions == []
    assert await world.dead() == []


async def test_a_redelivery_after_the_lease_has_ended_leaves_it_to_the_sweeper(
    world: World, fake: FakeProvider
) -> None:
    await world.provider(fake.config())
    task = await world.task()
    work = world.ports.units.open("submitter")
    await work.begin(task, expected="extracted", to="extracted", lease_s=15)
    world.clock.advance(60)
    task = await world.submit(task)
    assert task.state == "extracted"
    assert fake.submissions == []


async def test_two_submissions_that_meet_leave_doubt_and_no_second_order(
    world: World, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker takes the task between our reading and our beginning, and is gone."""
    await world.provider(fake.config())
    task = await world.task()
    begin = type(world.ports.units.open("x")).begin
    others: list[int] = []

    async def late(self: Any, row: Any, **options: Any) -> int:
        if not others:
            other = world.ports.units.open("submitter")
            others.append(await begin(other, await world.now(task), **options))
            world.clock.advance(60)
        return await begin(self, row, **options)

    monkeypatch.setattr(type(world.ports.units.open("x")), "begin", late)
    await world.send(Submit(task_id=task.id))
    await world.run(until="submitter.reconcile")
    assert (await world.now(task)).state == "unknown"
    assert fake.submissions == []


@pytest.mark.parametrize("honours_keys", [False, True])
@pytest.mark.parametrize(
    "point",
    [
        "provider.submit.before",
        "provider.submit.after",
        "outgoing.request.before",
        "outgoing.request.after",
        "db.begin_effect.before",
        "db.begin_effect.after",
        "db.commit.before",
        "db.commit.after",
    ],
)
async def test_a_worker_that_dies_in_the_middle_never_leads_to_a_second_order(
    world: World, fake: FakeProvider, point: str, honours_keys: bool
) -> None:
    fake.honours_keys = honours_keys
    await world.provider(fake.config())
    task = await world.task()
    await world.send(Submit(task_id=task.id))
    coming = await world.next()
    assert coming is not None
    failpoints.arm(f"{point}:1:raise")
    with suppress(Exception):  # The process died here, whatever it said.
        await world.handle(coming)
    failpoints.arm(None)
    await world.run(until="status.check")
    await world.sweep()
    await world.run()
    task = await world.now(task)
    assert task.state == "succeeded"
    assert fake.accepted == {f"{task.id}.1": 1}


async def test_a_lost_lease_changes_nothing(
    world: World, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweeper has ended the lease while the call was on its way: the answer is too late."""
    fake.submits("hangs")
    await world.provider(fake.config())
    task = await world.task()
    renew = Leases.renew

    async def swept(self: Leases, row: Any, token: int) -> None:
        monkeypatch.setattr(Leases, "renew", renew)
        await world.sweep()
        await renew(self, row, token)

    monkeypatch.setattr(Leases, "renew", swept)
    await world.send(Submit(task_id=task.id))
    await world.run(until="submitter.reconcile")
    task = await world.now(task)
    assert task.state == "unknown"
    assert await world.dead() == []


# The dead letter


async def test_a_bug_before_the_call_fails_the_task_in_the_end(
    world: World, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> str:
        raise RuntimeError("a bug")

    monkeypatch.setattr("limner.storage.sql.tunables.TunableStore.current", broken)
    task = await world.submit(await world.task())
    assert (task.state, task.error) == ("failed", "RuntimeError: a bug")
    assert [dead.reason for dead in await world.dead()] == ["attempts_exhausted"]


async def test_a_message_that_is_given_up_leaves_a_task_in_doubt_to_the_sweeper(
    world: World,
) -> None:
    handler = build(world.ports).handler
    assert handler is not None
    task = await world.task()
    work = world.ports.units.open("submitter")
    await work.begin(task, expected="extracted", to="extracted", lease_s=15)
    for ident in (task.id, "task_none"):
        giving_up = world.ports.units.open("submitter")
        await handler.abandon(Submit(task_id=ident), "a bug", giving_up)  # type: ignore[attr-defined]
        await world.ports.units.commit(giving_up)
    assert (await world.now(task)).state == "extracted"


async def test_the_actor_takes_both_of_its_messages(world: World) -> None:
    assert set(build(world.ports).handlers) == {Submit.topic, Reconcile.topic}

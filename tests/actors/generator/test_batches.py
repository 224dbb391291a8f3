"""Batches: who is claimed, with whom, under which lease, and what is kept of it."""

import asyncio
from collections.abc import AsyncIterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from limner.actors.generator import batches as batches_module
from limner.actors.generator.batches import Batches
from limner.actors.ports import Ports
from limner.actors.status.messages import Check
from limner.core.clock import HeldClock
from limner.core.errors import Invalid, NotFound, Transient
from limner.core.message import Event
from limner.storage.sql import claims
from limner.storage.sql.jobs import Job
from limner.storage.sql.tasks import Task
from limner.storage.sql.timeline import lines_after
from tests.actors.generator.queueing import paint_all, queue, state
from tests.contracts.engines import eventually
from tests.fakes.deliveries import finished
from tests.fakes.painter import FakePainter, Held
from tests.fakes.ports import open_ports
from tests.fakes.stage import Stage


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


async def test_without_a_job_there_is_nothing_to_do(batches: Batches, painter: FakePainter) -> None:
    assert not await batches.run_one()
    assert painter.batches == []


async def test_a_finished_job_says_what_was_made_and_how(
    batches: Batches, ports: Ports, clock: HeldClock
) -> None:
    job = await queue(ports, "strange fox", count=2, width=64, height=128, age_s=5)
    assert await batches.run_one()
    row = await Job.get(id=job.id)
    assert (row.state, row.progress, row.attempts) == ("succeeded", 1.0, 1)
    assert (row.worker_id, row.device, row.model_hash) == ("test:1", "easel", "f" * 64)
    assert (row.warnings, row.error, row.lease_until) == (["a warning"], "", None)
    assert row.seconds >= 0
    assert row.outputs == [
        {
            "key": f"jobs/{job.id}/1-{n}.png",
            "content_type": "image/png",
            "width": 64,
            "height": 128,
            "blurhash": "L",
            "size_bytes": 13,
        }
        for n in range(2)
    ]
    assert await ports.objects.read(f"jobs/{job.id}/1-1.png", 100) == b"strange fox 1"
    states = [line.state for line in await lines_after(job.id, 0)]
    assert states == ["queued", "running", "succeeded", "succeeded"]
    assert b'limner_jobs_finished_total{actor="generation",outcome="succeeded"} 1.0' in (
        ports.metrics.render()
    )
    assert b'limner_job_wait_seconds_sum{actor="generator"} 5.0' in ports.metrics.render()


async def test_a_video_has_a_poster_beside_it(batches: Batches, ports: Ports) -> None:
    job = await queue(ports, "waves", media="video", frames=4, fps=8)
    await batches.run_one()
    (output,) = (await Job.get(id=job.id)).outputs
    assert output["key"] == f"jobs/{job.id}/1-0.webm"
    assert output["poster_key"] == f"jobs/{job.id}/1-0-poster.png"
    assert await ports.objects.read(str(output["poster_key"]), 100) == b"the first frame"


async def test_jobs_without_frames_of_their_own_get_sixteen(
    batches: Batches, ports: Ports, painter: FakePainter
) -> None:
    await queue(ports, "waves", media="video")
    await batches.run_one()
    ((order,),) = painter.batches
    assert (order.frames, order.fps) == (16, 16)


async def test_the_oldest_comes_first_and_a_point_of_priority_weighs_two_minutes(
    batches: Batches, ports: Ports, painter: FakePainter
) -> None:
    await queue(ports, "new", age_s=1, width=64)
    await queue(ports, "old", age_s=100, width=72)
    await queue(ports, "paid", age_s=0, priority=1, width=80)
    await queue(ports, "very old", age_s=130, width=88)
    await paint_all(batches)
    assert painter.painted == [["very old"], ["paid"], ["old"], ["new"]]


async def test_priority_counts_in_a_queue_too_long_to_look_through(
    batches: Batches, ports: Ports, painter: FakePainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "CANDIDATES", 2)
    for number in range(4):
        await queue(ports, f"free {number}", age_s=10 - number, width=64)
    await queue(ports, "paid", priority=5, width=72)
    await paint_all(batches)
    assert painter.painted[0] == ["paid"]
    assert sorted(chain.from_iterable(painter.painted)) == [
        "free 0",
        "free 1",
        "free 2",
        "free 3",
        "paid",
    ]


async def test_only_what_is_made_alike_is_made_together(
    batches: Batches, ports: Ports, painter: FakePainter
) -> None:
    alike: dict[str, Any] = {"width": 64, "height": 64, "steps": 4, "guidance": 2.0}
    await queue(ports, "first", age_s=9, **alike)
    unlike: list[dict[str, Any]] = [
        {"width": 72},
        {"height": 72},
        {"steps": 5},
        {"guidance": 1.0},
        {"media": "video"},
    ]
    for number, other in enumerate(unlike):
        await queue(ports, f"other {number}", age_s=8 - number, **{**alike, **other})
    await queue(ports, "second", age_s=1, **{**alike, "guidance": 3.0})
    await paint_all(batches)
    assert painter.painted[0] == ["first", "second"]
    assert [len(each) for each in painter.painted] == [2, 1, 1, 1, 1, 1]


async def test_a_batch_holds_no_more_pictures_than_the_painter_takes(ports: Ports) -> None:
    painter = FakePainter(max_batch=4)
    for place, count in enumerate((3, 2, 1, 8, 1)):
        await queue(ports, f"{place}", count=count, age_s=10 - place)
    await paint_all(Batches(ports, painter))
    assert painter.painted == [["0", "2"], ["1", "4"], ["3"]]


async def test_two_workers_never_paint_the_same_job(ports: Ports) -> None:
    painters = [FakePainter(max_batch=1), FakePainter(max_batch=1)]
    for place in range(6):
        await queue(ports, f"{place}", age_s=10 - place)
    await asyncio.gather(*(paint_all(Batches(ports, painter)) for painter in painters))
    while await Job.filter(state="queued").exists():
        await paint_all(Batches(ports, painters[0]))
    painted = list(chain.from_iterable(painters[0].painted + painters[1].painted))
    assert sorted(painted) == [str(place) for place in range(6)]


@pytest.mark.parametrize("error", [Transient("out of memory"), ValueError("a bug")])
async def test_what_failed_is_tried_again_twice(
    batches: Batches, ports: Ports, painter: FakePainter, error: Exception
) -> None:
    painter.script(error, error, error)
    job = await queue(ports, "fox")
    for attempt, expected in enumerate(("queued", "queued", "failed"), start=1):
        assert await batches.run_one()
        row = await Job.get(id=job.id)
        assert (row.state, row.attempts, row.lease_until) == (expected, attempt, None)
    assert str(error) in row.error
    assert not await batches.run_one()
    (*_, error_line, done) = await lines_after(job.id, 0)
    assert (error_line.type, done.type) == ("error", "done")
    assert str(error) in error_line.detail


async def test_what_failed_once_may_go_well_next_time(
    batches: Batches, ports: Ports, painter: FakePainter
) -> None:
    painter.script(Transient("out of memory"))
    job = await queue(ports, "fox")
    await paint_all(batches)
    row = await Job.get(id=job.id)
    assert (row.state, row.attempts, row.token) == ("succeeded", 2, 2)
    assert row.outputs[0]["key"] == f"jobs/{job.id}/2-0.png"


async def test_what_can_never_be_painted_fails_at_once(
    batches: Batches, ports: Ports, painter: FakePainter
) -> None:
    painter.script(Invalid("a picture of 9000 pixels"))
    jobs = [await queue(ports, "a"), await queue(ports, "b")]
    await batches.run_one()
    for job in jobs:
        row = await Job.get(id=job.id)
        assert (row.state, row.attempts, row.error) == ("failed", 1, "a picture of 9000 pixels")


async def test_a_job_that_shall_be_cancelled_is_left_out_and_the_rest_goes_on(
    batches: Batches, ports: Ports, painter: FakePainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "PROGRESS_S", 0.01)
    monkeypatch.setattr(batches_module, "CANCEL_LOOK_S", 0.02)
    held = Held()
    painter.script(held)
    unwanted, wanted = await queue(ports, "unwanted", age_s=1), await queue(ports, "wanted")
    running = asyncio.create_task(batches.run_one())
    await held.painting.wait()
    work = ports.units.open("test")
    work.change(unwanted, cancel_requested=True)
    await ports.units.commit(work)
    looks = 0

    async def looked_again() -> bool:
        nonlocal looks
        looks += 1
        return looks > 20

    await eventually(looked_again)
    assert await state(unwanted) == "running"
    held.go.set()
    assert await running
    row = await Job.get(id=unwanted.id)
    assert (row.state, row.error, row.outputs) == ("cancelled", "cancelled", [])
    assert await state(wanted) == "succeeded"
    assert [entry.key for entry in await ports.objects.list("jobs/")] == [
        f"jobs/{wanted.id}/1-0.png"
    ]


async def test_a_batch_that_nobody_wants_any_more_ends_by_itself(
    batches: Batches, ports: Ports, painter: FakePainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "PROGRESS_S", 0.01)
    monkeypatch.setattr(batches_module, "CANCEL_LOOK_S", 0.01)
    painter.script(Held())
    job = await queue(ports, "unwanted", cancel_requested=True)
    async with asyncio.timeout(10):
        assert await batches.run_one()
    assert await state(job) == "cancelled"


async def test_a_job_that_was_given_back_after_it_was_cancelled_is_not_made_after_all(
    batches: Batches, ports: Ports
) -> None:
    job = await queue(ports, "unwanted", cancel_requested=True)
    other = await queue(ports, "wanted")
    assert await batches.run_one()
    assert (await state(job), await state(other)) == ("cancelled", "succeeded")
    assert (await Job.get(id=job.id)).outputs == []


async def test_progress_is_announced_and_not_stored(
    batches: Batches, ports: Ports, painter: FakePainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "PROGRESS_S", 0.01)
    held = Held()
    painter.script(held)
    task = await finished(ports, state="submitted", result_key="", provider="local")
    job = await queue(ports, "fox", task_id=task.id, steps=4)
    progress: dict[str, Event] = {}
    async with ports.broker.subscribe() as events, asyncio.timeout(10):
        running = asyncio.create_task(batches.run_one())
        async for envelope in events:
            event = Event.from_bytes(envelope.body)
            if event.type.endswith(".progress") and event.data["step"] == 1:
                assert (envelope.kind, envelope.topic) == ("event", event.type)
                assert envelope.trace_id == job.trace_id
                progress[event.type] = event
            if len(progress) == 2:
                break
        held.go.set()
        await running
    for kind, ident in (("job", job.id), ("task", task.id)):
        event = progress[f"{kind}.progress"]
        assert event.subject == {"kind": kind, "id": ident}
        assert event.data == {"percent": 25, "step": 1, "steps": 4}
        assert event.user_id == "user_1"
    assert {line.type for line in await lines_after(job.id, 0)} == {"status", "done"}


async def test_the_state_of_a_job_is_announced(batches: Batches, ports: Ports) -> None:
    await queue(ports, "fox")
    seen = []
    async with ports.broker.subscribe() as events, asyncio.timeout(10):
        await batches.run_one()
        async for envelope in events:
            seen.append(envelope.topic)
            if envelope.topic == "job.succeeded":
                break
    assert [topic for topic in seen if topic != "job.progress"] == ["job.running", "job.succeeded"]


async def test_the_task_of_a_job_is_looked_at_when_it_begins_and_when_it_ends(
    batches: Batches, ports: Ports, painter: FakePainter
) -> None:
    task = await finished(ports, state="submitted", result_key="", provider="local", round=3)
    painter.script(NotFound("no model"))
    await queue(ports, "fox", task_id=task.id)
    await queue(ports, "of a task that is gone", task_id="task_0")
    await batches.run_one()
    checks = [row for row in await Stage(ports).waiting() if row.topic == Check.topic]
    looks = [Check.from_bytes(row.body.encode()) for row in checks]
    assert looks == [Check(task_id=task.id, round=3, n=0)] * 2
    assert (await Task.get(id=task.id)).state == "submitted"

"""The studio: jobs painted by the shipped model, in batches, with their warnings."""

import asyncio
import io
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import av
import pytest
from PIL import Image

from limner.actors.generator.batches import Batches
from limner.actors.generator.cancellation import Cancellation, Cancelled
from limner.actors.generator.folder import builtin_path
from limner.actors.generator.painter import Order
from limner.actors.generator.studio import Studio
from limner.actors.ports import Ports
from limner.core.clock import HeldClock
from limner.core.errors import NotConfigured
from limner.core.ids import new_id
from limner.storage.sql.jobs import Job
from tests.fakes.ports import open_ports
from tests.fakes.stage import Stage

ORDER = Order(
    job_id="job_1",
    media="image",
    prompt="a red circle on a blue background",
    negative_prompt="",
    width=80,
    height=64,
    steps=2,
    guidance=2.0,
    seed=7,
    count=1,
    frames=4,
    fps=8,
)


@pytest.fixture
async def ports(tmp_path: Path, migrated_file: Path, clock: HeldClock) -> AsyncIterator[Ports]:
    async with open_ports(tmp_path, clock=clock, migrated=migrated_file) as opened:
        yield opened


@pytest.fixture
async def studio() -> AsyncIterator[Studio]:
    opened = Studio("builtin", "cpu")
    yield opened
    await opened.aclose()


def go_on(job_id: str, step: int, steps: int) -> bool:
    return True


async def test_jobs_are_painted_together_and_each_gets_its_own(
    ports: Ports, studio: Studio
) -> None:
    stage = Stage(ports)
    jobs = [
        Job(id=new_id("job"), state="queued", prompt=prompt, width=80, height=64, **more)
        for prompt, more in (
            ("a red circle on a blue background", {"steps": 8, "seed": 1, "count": 2}),
            ("a green star above a xyzzy on a white background", {"steps": 8, "seed": 5}),
        )
    ]
    await stage.keep(*jobs)
    assert await Batches(ports, studio).run_one()
    first, second = [await Job.get(id=job.id) for job in jobs]
    assert (first.state, second.state) == ("succeeded", "succeeded")
    assert (first.warnings, second.warnings) == ([], ["The model does not know: xyzzy"])
    assert (first.device, len(first.model_hash)) == ("cpu", 64)
    assert (len(first.outputs), len(second.outputs)) == (2, 1)
    for output in (*first.outputs, *second.outputs):
        raw = await ports.objects.read(str(output["key"]), 1_000_000)
        with Image.open(io.BytesIO(raw)) as picture:
            assert (picture.format, picture.size) == ("PNG", (80, 64))
        assert (output["width"], output["height"]) == (80, 64)
        assert output["size_bytes"] == len(raw)
        assert len(str(output["blurhash"])) > 6
    raw = await ports.objects.read(str(first.outputs[0]["key"]), 1_000_000)
    with Image.open(io.BytesIO(raw)) as picture:
        red, _, blue = picture.convert("RGB").getpixel((40, 32))  # type: ignore[misc]
        assert red > blue
        red, _, blue = picture.convert("RGB").getpixel((2, 2))  # type: ignore[misc]
        assert blue > red


async def test_a_picture_does_not_depend_on_who_shares_its_batch(studio: Studio) -> None:
    other = replace(ORDER, job_id="job_2", prompt="a white moon over the sea at night", seed=9)
    (alone,) = await studio.paint([ORDER], go_on)
    together = await studio.paint([other, ORDER], go_on)
    assert together[1] == alone


async def test_a_video_is_webm_with_its_first_frame(ports: Ports, studio: Studio) -> None:
    job = Job(
        id=new_id("job"),
        state="queued",
        media="video",
        prompt="a boat with a red sail on the ocean at sunset",
        width=64,
        height=64,
        steps=2,
        frames=4,
        fps=8,
    )
    await Stage(ports).keep(job)
    assert await Batches(ports, studio).run_one()
    row = await Job.get(id=job.id)
    assert row.state == "succeeded"
    (output,) = row.outputs
    assert output["content_type"] == "video/webm"
    raw = await ports.objects.read(str(output["key"]), 1_000_000)
    with av.open(io.BytesIO(raw), "r") as video:
        assert len(list(video.decode(video=0))) == 4
        assert video.format.name == "matroska,webm"
    poster = await ports.objects.read(str(output["poster_key"]), 1_000_000)
    with Image.open(io.BytesIO(poster)) as picture:
        assert (picture.format, picture.size) == ("PNG", (64, 64))


async def test_odd_sides_of_a_video_are_told_as_they_became(studio: Studio) -> None:
    (painting,) = await studio.paint([replace(ORDER, media="video", width=65)], go_on)
    assert painting.outputs is not None
    assert (painting.outputs[0].width, painting.outputs[0].height) == (66, 64)


@pytest.mark.parametrize("media", ["image", "video"])
async def test_every_step_is_reported_and_who_is_refused_is_left_out(
    studio: Studio, media: str
) -> None:
    orders = [replace(ORDER, job_id=name, media=media, steps=3) for name in ("stays", "leaves")]
    told: dict[str, list[tuple[int, int]]] = {"stays": [], "leaves": []}

    def report(job_id: str, step: int, steps: int) -> bool:
        told[job_id].append((step, steps))
        return job_id == "stays" or len(told[job_id]) < 2

    stays, leaves = await studio.paint(orders, report)
    assert stays.outputs is not None
    assert leaves.outputs is None
    steps = 3 if media == "image" else 3 * 4
    assert told["stays"][-1] == (steps, steps)
    assert all(of == steps for _, of in told["stays"])
    assert len(told["leaves"]) == 2


async def test_an_order_of_several_pictures_leaves_with_all_of_them(studio: Studio) -> None:
    calls = 0

    def report(job_id: str, step: int, steps: int) -> bool:
        nonlocal calls
        calls += 1
        return calls != 2

    (painting,) = await studio.paint([replace(ORDER, count=3, steps=2)], report)
    assert painting.outputs is None


@pytest.mark.parametrize("media", ["image", "video"])
async def test_a_cancelled_call_ends_the_run_within_a_step(studio: Studio, media: str) -> None:
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    steps = 0

    def report(job_id: str, step: int, of: int) -> bool:
        nonlocal steps
        steps += 1
        loop.call_soon_threadsafe(begun.set)
        return True

    orders = [replace(ORDER, media=media, steps=100, frames=64)]
    painting = asyncio.create_task(studio.paint(orders, report))
    await begun.wait()
    painting.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await painting
    assert steps < 100
    assert len(await studio.paint([ORDER], go_on)) == 1


def test_a_run_that_is_ended_as_a_whole_says_so() -> None:
    studio = Studio("builtin", "cpu")
    pipeline = studio._load()
    cancel = Cancellation()
    cancel.terminate()
    with pytest.raises(Cancelled):
        studio._clip(pipeline, replace(ORDER, media="video"), ORDER.prompt, (), go_on, cancel)


async def test_before_it_has_loaded_the_studio_says_what_was_wanted(studio: Studio) -> None:
    assert (studio.device, studio.model_hash) == ("cpu", "")
    await studio.paint([ORDER], go_on)
    assert len(studio.model_hash) == 64


async def test_a_model_in_a_folder_reads_prompts_as_they_are() -> None:
    studio = Studio(str(builtin_path()), "cpu")
    try:
        known, unknown = await studio.paint(
            [ORDER, replace(ORDER, job_id="job_2", prompt="a red circle and a xyzzy")], go_on
        )
    finally:
        await studio.aclose()
    assert known.warnings == ()
    assert unknown.warnings == ("The model does not know: xyzzy",)


async def test_a_model_that_is_not_there_cannot_be_loaded(tmp_path: Path) -> None:
    studio = Studio(str(tmp_path / "nothing"), "cpu")
    try:
        with pytest.raises(NotConfigured):
            await studio.paint([ORDER], go_on)
    finally:
        await studio.aclose()

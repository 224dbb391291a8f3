"""The generator: what rings it, what producers may ask of it, and how it ends."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from limner.actors.generator import actor as actor_module
from limner.actors.generator.actor import build
from limner.actors.generator.messages import Generate, Ring
from limner.actors.generator.studio import Studio
from limner.actors.ports import Ports
from limner.core.clock import HeldClock
from limner.core.ids import new_id
from limner.storage.sql.accounts import User
from limner.storage.sql.jobs import Job
from tests.contracts.engines import eventually
from tests.fakes.painter import FakePainter, Held
from tests.fakes.ports import open_ports
from tests.fakes.stage import Stage

EMAIL = "painter@example.org"


@pytest.fixture
async def ports(tmp_path: Path, migrated_file: Path, clock: HeldClock) -> AsyncIterator[Ports]:
    async with open_ports(tmp_path, clock=clock, migrated=migrated_file) as opened:
        yield opened


@pytest.fixture
def painter() -> FakePainter:
    return FakePainter()


@pytest.fixture
async def stage(ports: Ports, painter: FakePainter) -> Stage:
    stage = Stage(ports, build(ports, painter))
    await stage.keep(User(id="user_1", user_id="user_1", state="active", email=EMAIL))
    await stage.keep(User(id="user_2", user_id="user_2", state="disabled", email="gone@x.test"))
    return stage


@asynccontextmanager
async def claiming(ports: Ports, painter: FakePainter) -> AsyncIterator[Stage]:
    """Run the loop that claims, and end it in order."""
    actor = build(ports, painter)
    (loop,) = actor.loops
    stop = asyncio.Event()
    running = asyncio.ensure_future(loop.run(stop))
    try:
        yield Stage(ports, actor)
    finally:
        stop.set()
        async with asyncio.timeout(10):
            await running


async def settled(count: int) -> None:
    async def all_ended() -> bool:
        return await Job.filter(state="succeeded").count() == count

    await eventually(all_ended, limit_s=5)


async def test_a_producer_can_have_a_picture_made(stage: Stage) -> None:
    wish = Generate(
        user=EMAIL,
        prompt="a red fox",
        negative_prompt="snow",
        width=512,
        height=256,
        steps=30,
        guidance=3,
        seed=7,
        count=2,
    )
    await stage.publish(wish, Generate.topic, message_id="m1")
    (job,) = await Job.all()
    assert (job.state, job.user_id, job.media) == ("queued", "user_1", "image")
    assert (job.prompt, job.negative_prompt, job.seed) == ("a red fox", "snow", 7)
    assert (job.width, job.height, job.steps, job.guidance) == (512, 256, 30, 3)
    assert (job.count, job.frames, job.fps, job.cost) == (2, 0, 0, 6)
    (ring,) = await stage.waiting()
    assert (ring.topic, json.loads(ring.body)) == (Ring.topic, {"job_id": job.id})


async def test_a_video_is_one_whatever_the_count_and_costs_four_times_as_much(stage: Stage) -> None:
    wish = Generate(user="user_1", kind="video", prompt="waves", count=8, frames=24, fps=12)
    await stage.publish(wish, Generate.topic, message_id="m1")
    (job,) = await Job.all()
    assert (job.media, job.count, job.frames, job.fps, job.cost) == ("video", 1, 24, 12, 4)


async def test_without_a_seed_each_job_gets_one_of_its_own(stage: Stage) -> None:
    for number in range(2):
        wish = Generate(user="user_1", prompt="a fox")
        await stage.publish(wish, Generate.topic, message_id=f"m{number}")
    first, second = await Job.all()
    assert first.seed != second.seed
    assert 0 <= first.seed < 2**32


async def test_the_largest_seed_is_kept_whole(stage: Stage) -> None:
    wish = Generate(user="user_1", prompt="a fox", seed=2**63 - 1)
    await stage.publish(wish, Generate.topic, message_id="m1")
    assert (await Job.get(prompt="a fox")).seed == 2**63 - 1


async def test_a_wish_that_is_said_twice_makes_one_job(stage: Stage) -> None:
    wish = Generate(user="user_1", prompt="a fox")
    for app_id in ("shop", "shop", "forum"):
        await stage.publish(wish, Generate.topic, message_id="m1", app_id=app_id)
    assert await Job.all().count() == 2
    assert len(await stage.waiting()) == 2
    assert await stage.dead() == []


@pytest.mark.parametrize("user", ["user_0", "nobody@x.test", "user_2", "gone@x.test"])
async def test_a_wish_of_nobody_we_know_is_a_dead_letter(stage: Stage, user: str) -> None:
    wish = Generate(user=user, prompt="a fox")
    await stage.publish(wish, Generate.topic, message_id="m1")
    (letter,) = await stage.dead()
    assert (letter.reason, letter.detail, letter.message_id) == (
        "invalid",
        "no such user; /user: is no active account",
        "m1",
    )
    assert await Job.all().count() == 0


@pytest.mark.parametrize(
    "fault",
    [{"width": 65}, {"width": 2048}, {"count": 9}, {"kind": "speech"}, {"prompt": ""}, {"x": 1}],
    ids=str,
)
async def test_a_wish_out_of_bounds_is_a_dead_letter(stage: Stage, fault: dict[str, Any]) -> None:
    body = {"user": "user_1", "prompt": "a fox", **fault}
    await stage.publish(json.dumps(body).encode(), Generate.topic, message_id="m1")
    (letter,) = await stage.dead()
    assert letter.reason == "invalid_message"
    assert f"/{next(iter(fault))}" in letter.detail
    assert await Job.all().count() == 0


async def test_a_wish_that_came_by_no_message_gets_an_id_of_its_own(stage: Stage) -> None:
    taker = build(stage.ports, FakePainter()).others[Generate]
    work = stage.ports.units.open("generator")
    for _ in range(2):
        await taker.handle(Generate(user="user_1", prompt="a fox"), work)
    await stage.ports.units.commit(work)
    assert await Job.all().count() == 2


async def test_a_ring_wakes_the_loop_that_claims(
    stage: Stage, ports: Ports, painter: FakePainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor_module, "LOOK_S", 60)
    async with claiming(ports, painter) as ringing:
        for number in range(2):
            wish = Generate(user="user_1", prompt=f"fox {number}")
            await ringing.publish(wish, Generate.topic, message_id=f"m{number}")
            await ringing.act()
            await settled(number + 1)
    assert painter.painted == [["fox 0"], ["fox 1"]]


async def test_a_free_slot_looks_again_by_itself(
    stage: Stage, ports: Ports, painter: FakePainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor_module, "LOOK_S", 0.01)
    async with claiming(ports, painter):
        job = Job(id=new_id("job"), state="queued", user_id="user_1", prompt="unannounced")
        await stage.keep(job)
        await settled(1)


async def test_a_loop_that_is_told_to_stop_finishes_what_it_has_in_hand(
    stage: Stage, ports: Ports, painter: FakePainter
) -> None:
    held = Held()
    painter.script(held)
    for prompt in ("in hand", "not begun"):
        width = 64 if prompt == "in hand" else 72
        await stage.keep(
            Job(id=new_id("job"), state="queued", user_id="user_1", prompt=prompt, width=width)
        )
    (loop,) = build(ports, painter).loops
    stop = asyncio.Event()
    running = asyncio.ensure_future(loop.run(stop))
    await held.painting.wait()
    stop.set()
    held.go.set()
    await running
    states = {job.prompt: job.state for job in await Job.all()}
    assert states == {"in hand": "succeeded", "not begun": "queued"}


async def test_the_painter_is_closed_with_the_actor(ports: Ports, painter: FakePainter) -> None:
    actor = build(ports, painter)
    assert actor.close is not None
    await actor.close()
    assert painter.closed


async def test_without_a_painter_of_its_own_the_configured_model_paints(
    ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[tuple[str, str]] = []
    init = Studio.__init__

    def noted(self: Studio, model: str, device: Any) -> None:
        chosen.append((model, device))
        init(self, model, device)

    monkeypatch.setattr(Studio, "__init__", noted)
    actor = build(ports)
    assert actor.close is not None
    await actor.close()
    assert chosen == [("builtin", "auto")]

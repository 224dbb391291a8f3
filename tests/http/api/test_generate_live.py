"""The front and the real generator in one process: from a request to a picture that opens."""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient
from PIL import Image

from limner.actors.generator.actor import build
from limner.core.actor import ActorLoop
from limner.core.clock import HeldClock
from limner.storage.sql.jobs import Job
from tests.contracts.engines import eventually
from tests.fakes.front import Stage, staged
from tests.fakes.ports import ports_of

pytestmark = pytest.mark.timeout(60)

IMAGE = "/api/generate/image"
WAIT = {"Prefer": "wait=30"}
STOP_LIMIT_S = 20
Client = TestClient[Any, Any]


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


@pytest.fixture
async def client(stage: Stage) -> Client:
    return await stage.client(await stage.key("generate:read", "generate:write"))


@asynccontextmanager
async def generating(stage: Stage) -> AsyncIterator[None]:
    """Run the generator beside the front, with the built-in model, and end it in order."""
    ports = ports_of(stage.front)
    actor = build(ports).with_defaults(concurrency=2, timeout_s=30, max_attempts=4)
    inbox = ActorLoop(actor, ports.broker, ports.units, ports.clock, ports.metrics)
    stop = asyncio.Event()
    runs = [inbox.run, *(loop.run for loop in actor.loops)]
    running = [asyncio.ensure_future(run(stop)) for run in runs]
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(STOP_LIMIT_S):
            await asyncio.gather(*running)
        assert actor.close is not None
        await actor.close()


async def test_a_picture_is_asked_for_waited_for_and_opens_by_its_link(
    stage: Stage, client: Client
) -> None:
    wish = {"prompt": "a red circle on a blue background", "width": 320, "height": 192, "count": 2}
    async with generating(stage):
        answer = await client.post(IMAGE, json={**wish, "seed": 7}, headers=WAIT)
        job = await answer.json()
    assert (answer.status, job["state"], job["progress"]) == (202, "succeeded", 1.0)
    assert (job["worker_id"], job["device"], job["cost"]) == ("test:1", "cpu", 2)
    assert (len(job["outputs"]), job["warnings"], job["error"]) == (2, [], "")
    for output in job["outputs"]:
        async with ClientSession() as anybody, anybody.get(output["url"]) as opened:
            assert (opened.status, opened.content_type) == (200, "image/png")
            content = await opened.read()
        assert len(content) == output["size_bytes"]
        with Image.open(io.BytesIO(content)) as image:
            assert image.size == (output["width"], output["height"]) == (320, 192)
            red, _, blue = image.convert("RGB").getpixel((0, 0))  # type: ignore[misc]
            assert blue > 150 > red
        assert len(output["blurhash"]) > 6


async def test_words_that_the_model_does_not_know_are_told(stage: Stage, client: Client) -> None:
    async with generating(stage):
        body = {"prompt": "a red circle with a zyzzyva"}
        job = await (await client.post(IMAGE, json=body, headers=WAIT)).json()
    assert job["state"] == "succeeded"
    assert "zyzzyva" in job["warnings"][0]


async def test_a_job_is_stopped_while_it_runs_and_no_picture_is_kept(
    stage: Stage, client: Client
) -> None:
    long = {"prompt": "a red circle", "steps": 100, "count": 8, "width": 1024, "height": 1024}
    async with generating(stage):
        job = await (await client.post(IMAGE, json=long)).json()

        async def runs() -> bool:
            return (await Job.get(id=job["id"])).state == "running"

        await eventually(runs)
        answer = await client.delete(f"/api/generate/{job['id']}", headers=WAIT)
        ended = await answer.json()
    assert (answer.status, ended["state"], ended["outputs"]) == (202, "cancelled", [])
    assert await stage.front.objects.list("jobs/") == []


async def test_a_job_that_is_cancelled_while_it_waits_is_never_painted(
    stage: Stage, client: Client
) -> None:
    first = await (await client.post(IMAGE, json={"prompt": "a ring"})).json()
    second = await (await client.post(IMAGE, json={"prompt": "a star"})).json()
    assert (await client.post(f"/api/generate/{first['id']}/cancel")).status == 202
    async with generating(stage):
        answer = await client.get(f"/api/generate/{second['id']}", headers=WAIT)
        assert (await answer.json())["state"] == "succeeded"
    shown = await (await client.get(f"/api/generate/{first['id']}")).json()
    assert (shown["state"], shown["outputs"], shown["worker_id"]) == ("cancelled", [], "")

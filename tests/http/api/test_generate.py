"""Generation over REST: asked for, bounded, listed, shown, cancelled; and who sees what."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient

from limner.actors.generator.messages import Ring
from limner.actors.generator.rules import model_name
from limner.actors.status.messages import Check
from limner.core.clock import HeldClock
from limner.core.ids import new_id
from limner.core.unit import Commit
from limner.http.sse import HUB
from limner.storage.sql.accounts import User
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.jobs import Job
from limner.storage.sql.messaging import OutboxRow
from limner.storage.sql.timeline import lines_after
from tests.contracts.engines import eventually
from tests.fakes.front import PATIENCE_S, Stage, problem, staged, until
from tests.fakes.nasty_strings import NASTY_STRINGS

PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 100
IMAGE = "/api/generate/image"
Client = TestClient[Any, Any]


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


@pytest.fixture
async def user(stage: Stage) -> User:
    return await stage.user()


@pytest.fixture
async def client(stage: Stage, user: User) -> Client:
    key = await stage.key("generate:read", "generate:write", user=user)
    return await stage.client(key)


async def asked(client: Client, **fields: Any) -> dict[str, Any]:
    """Ask for a picture and give the job."""
    answer = await client.post(IMAGE, json={"prompt": "a red circle", **fields})
    assert answer.status == 202, await answer.text()
    job: dict[str, Any] = await answer.json()
    return job


async def stored(stage: Stage, state: str, **fields: Any) -> Job:
    job = Job(
        **{
            "id": new_id("job"),
            "state": state,
            "user_id": stage.owner.id,
            "prompt": "a red circle",
            **fields,
        }
    )
    await stage.add(job)
    return job


async def sent(topic: str) -> list[bytes]:
    return [bytes(row.body) for row in await OutboxRow.filter(topic=topic)]


def pointers(body: dict[str, Any]) -> list[str]:
    return [fault["pointer"] for fault in body["errors"]]


# Asking


async def test_a_picture_that_is_asked_for_is_a_job_and_rings_the_generator(
    stage: Stage, client: Client, user: User
) -> None:
    answer = await client.post(
        IMAGE,
        json={
            "prompt": "a red circle",
            "negative_prompt": "blue",
            "width": 512,
            "height": 384,
            "steps": 40,
            "guidance": 3.5,
            "seed": 7,
            "count": 2,
            "model": "builtin",
        },
    )
    assert answer.status == 202
    job = await answer.json()
    url = f"{stage.front.settings.base_url}/api/generate/{job['id']}"
    assert answer.headers["Location"] == url
    row = await Job.get(id=job["id"])
    expected = {
        "kind": "image",
        "state": "queued",
        "progress": 0.0,
        "queue_position": 1,
        "prompt": "a red circle",
        "negative_prompt": "blue",
        "width": 512,
        "height": 384,
        "steps": 40,
        "guidance": 3.5,
        "seed": 7,
        "count": 2,
        "model": "builtin",
        "cost": 12,
        "outputs": [],
        "warnings": [],
        "error": "",
        "worker_id": "",
        "trace_id": row.trace_id,
        "created_at": "2026-11-22T12:00:00Z",
        "status_url": url,
        "stream_url": f"{url}/stream",
        "cancel_url": f"{url}/cancel",
    }
    assert {name: job[name] for name in expected} == expected
    assert (row.user_id, row.media, row.seed, row.cost) == (user.id, "image", 7, 12)
    assert await sent(Ring.topic) == [Ring(job_id=row.id).to_bytes()]
    assert [(line.n, line.state) for line in await lines_after(row.id, 0)] == [(1, "queued")]
    assert await (await client.get(stage.path(url))).json() == job


async def test_what_is_left_out_is_as_the_model_list_says(stage: Stage, client: Client) -> None:
    first, second = await asked(client), await asked(client)
    (model,) = (await (await client.get("/api/models")).json())["data"]
    assert (model["id"], model["is_default"], model["kinds"]) == ("builtin", True, ["image"])
    for name in ("width", "height", "steps", "guidance"):
        assert first[name] == model[name]
    assert (first["count"], first["cost"], first["model"]) == (1, 1, "builtin")
    assert 0 <= first["seed"] < 2**32
    assert first["seed"] != second["seed"]


@pytest.mark.parametrize(
    ("fields", "places"),
    [
        ({"prompt": ""}, ["/prompt"]),
        ({"prompt": " \t\n\u3000"}, ["/prompt"]),
        ({"prompt": "x" * 2001}, ["/prompt"]),
        ({"prompt": None}, ["/prompt"]),
        ({"negative_prompt": "x" * 2001}, ["/negative_prompt"]),
        ({"width": 56, "height": 1032}, ["/width", "/height"]),
        ({"width": 100, "height": 100.5}, ["/width", "/height"]),
        ({"width": "256"}, ["/width"]),
        ({"steps": 0}, ["/steps"]),
        ({"steps": 101, "count": 9}, ["/steps", "/count"]),
        ({"count": 0}, ["/count"]),
        ({"guidance": -0.1}, ["/guidance"]),
        ({"guidance": 30.1}, ["/guidance"]),
        ({"seed": -1}, ["/seed"]),
        ({"seed": 2**63}, ["/seed"]),
        ({"seed": True}, ["/seed"]),
        ({"model": "dreams-xl"}, ["/model"]),
        ({"model": "x" * 256}, ["/model"]),
        ({"user_id": "user_1", "cost": 0}, ["/user_id", "/cost"]),
    ],
)
async def test_every_fault_of_a_request_is_named_and_nothing_is_made(
    client: Client, fields: dict[str, Any], places: list[str]
) -> None:
    answer = await client.post(IMAGE, json={"prompt": "a red circle", **fields})
    assert answer.status == 422
    assert sorted(pointers(await problem(answer))) == sorted(places)
    assert await Job.all().count() == 0
    assert await sent(Ring.topic) == []


@pytest.mark.parametrize("side", [64, 1024])
async def test_the_bounds_themselves_are_allowed(client: Client, side: int) -> None:
    job = await asked(
        client, width=side, height=side, steps=100, count=8, guidance=30, seed=2**63 - 1
    )
    assert (job["width"], job["seed"]) == (side, 2**63 - 1)
    assert job["cost"] == (8 * 5 if side == 64 else 8 * 16 * 5)
    shown = await (await client.get(f"/api/generate/{job['id']}")).json()
    assert shown["seed"] == 2**63 - 1


async def test_any_text_comes_back_as_it_was_sent(client: Client) -> None:
    for text in NASTY_STRINGS:
        answer = await client.post(IMAGE, json={"prompt": text, "negative_prompt": text[:2000]})
        if not text.strip() or len(text) > 2000:
            assert answer.status == 422, repr(text)
            continue
        assert answer.status == 202, repr(text)
        job = await answer.json()
        assert (job["prompt"], job["negative_prompt"]) == (text, text)
        shown = await (await client.get(f"/api/generate/{job['id']}")).json()
        assert (shown["prompt"], shown["negative_prompt"]) == (text, text)


@pytest.mark.parametrize(
    ("configured", "name"),
    [("builtin", "builtin"), ("/srv/models/sd-turbo", "sd-turbo"), ("/srv/models/x/", "x")],
)
def test_a_model_is_known_by_its_name_and_not_by_its_place(configured: str, name: str) -> None:
    assert model_name(configured) == name


async def test_a_request_with_a_key_makes_one_job_however_often_it_is_sent(client: Client) -> None:
    headers = {"Idempotency-Key": "first"}
    body = {"prompt": "a red circle"}
    first = await client.post(IMAGE, json=body, headers=headers)
    again = await client.post(IMAGE, json=body, headers=headers)
    assert (first.status, again.status) == (202, 202)
    assert await again.json() == await first.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    other = await client.post(IMAGE, json={"prompt": "another"}, headers=headers)
    assert other.status == 422
    assert await Job.all().count() == 1
    assert len(await sent(Ring.topic)) == 1


async def test_of_many_at_once_with_one_key_one_makes_a_job(client: Client) -> None:
    headers = {"Idempotency-Key": "crowd"}
    answers = await asyncio.gather(
        *(client.post(IMAGE, json={"prompt": "a ring"}, headers=headers) for _ in range(10))
    )
    assert {answer.status for answer in answers} <= {202, 409}
    assert 202 in {answer.status for answer in answers}
    assert await Job.all().count() == 1


# The queue


async def test_the_place_in_the_queue_rises_with_each_who_comes_and_ends_with_the_wait(
    stage: Stage, client: Client
) -> None:
    places = [(await asked(client))["queue_position"] for _ in range(3)]
    assert places == [1, 2, 3]
    await stored(stage, "running")
    await stored(stage, "queued", priority=1)
    (first, *_) = await Job.filter(state="queued", priority=0).order_by("id")
    shown = await (await client.get(f"/api/generate/{first.id}")).json()
    assert shown["queue_position"] == 2
    work = stage.work()
    work.move(first, expected="queued", to="running")
    await stage.front.units.commit(work)
    shown = await (await client.get(f"/api/generate/{first.id}")).json()
    assert (shown["state"], shown["queue_position"]) == ("running", None)


# Reading


async def finished(stage: Stage, user: User, n: int = 2) -> Job:
    job = await stored(stage, "running", user_id=user.id)
    outputs = []
    for number in range(n):
        key = f"jobs/{job.id}/1-{number}.png"
        await stage.front.objects.put(key, PNG, "image/png", size_limit_bytes=1000)
        outputs.append(
            {
                "key": key,
                "content_type": "image/png",
                "width": 256,
                "height": 128,
                "blurhash": "LEHV6n",
                "size_bytes": len(PNG),
            }
        )
    work = stage.work()
    work.move(
        job,
        expected="running",
        to="succeeded",
        outputs=outputs,
        progress=1.0,
        warnings=["The model does not know: gleam"],
        seconds=1.5,
        device="cpu",
        worker_id="host:1",
    )
    await stage.front.units.commit(work)
    return await Job.get(id=job.id)


async def test_the_outputs_open_without_a_login_and_their_links_are_new_at_each_read(
    stage: Stage, client: Client, user: User
) -> None:
    job = await finished(stage, user)
    first = await (await client.get(f"/api/generate/{job.id}")).json()
    assert (first["state"], first["progress"], first["worker_id"]) == ("succeeded", 1.0, "host:1")
    assert first["warnings"] == ["The model does not know: gleam"]
    output = first["outputs"][1]
    assert "key" not in output
    assert {name: output[name] for name in output if name != "url"} == {
        "content_type": "image/png",
        "width": 256,
        "height": 128,
        "blurhash": "LEHV6n",
        "size_bytes": len(PNG),
        "poster_url": None,
    }
    stage.clock.advance(10)
    (listed,) = (await (await client.get("/api/generate")).json())["data"]
    assert listed["outputs"][1]["url"] != output["url"]
    async with ClientSession() as anybody, anybody.get(output["url"]) as answer:
        assert (answer.status, await answer.read()) == (200, PNG)
        named = f'inline; filename="{job.id}-1.png"'
        assert answer.headers["Content-Disposition"] == named


async def test_a_video_shows_its_first_frame_too(stage: Stage, client: Client, user: User) -> None:
    output = {
        "key": "jobs/1/1-0.webm",
        "poster_key": "jobs/1/1-0-poster.png",
        "content_type": "video/webm",
        "width": 64,
        "height": 64,
        "blurhash": "LEHV6n",
        "size_bytes": 9,
    }
    await stage.front.objects.put(output["poster_key"], PNG, "image/png", size_limit_bytes=1000)  # type: ignore[arg-type]
    job = await stored(stage, "succeeded", user_id=user.id, media="video", outputs=[output])
    shown = await (await client.get(f"/api/generate/{job.id}")).json()
    assert shown["kind"] == "video"
    poster_url = shown["outputs"][0]["poster_url"]
    async with ClientSession() as anybody, anybody.get(poster_url) as answer:
        assert await answer.read() == PNG


async def test_the_newest_version_is_not_sent_again_while_its_links_work(
    stage: Stage, client: Client, user: User
) -> None:
    job = await finished(stage, user)
    path = f"/api/generate/{job.id}"
    tag = {"If-None-Match": (await client.get(path)).headers["ETag"]}
    assert (await client.get(path, headers=tag)).status == 304
    stage.clock.advance(1800)
    assert (await client.get(path, headers=tag)).status == 200


async def test_a_place_that_has_changed_is_a_new_version(stage: Stage, client: Client) -> None:
    first, second = await asked(client), await asked(client)
    path = f"/api/generate/{second['id']}"
    tag = {"If-None-Match": (await client.get(path)).headers["ETag"]}
    assert (await client.get(path, headers=tag)).status == 304
    await client.delete(f"/api/generate/{first['id']}")
    answer = await client.get(path, headers=tag)
    assert (answer.status, (await answer.json())["queue_position"]) == (200, 1)


async def test_filters_choose_and_the_newest_come_first(stage: Stage) -> None:
    old = await stored(stage, "failed", media="video", task_id="task_1")
    stage.clock.advance(1)
    new = await stored(stage, "queued")
    admin = await stage.admin()
    for query, expected in [
        ("", [new.id, old.id]),
        ("?state=failed", [old.id]),
        ("?kind=image", [new.id]),
        ("?kind=video&state=queued", []),
        ("?task_id=task_1", [old.id]),
        ("?task_id=" + "x" * 400, []),
    ]:
        page = await (await admin.get(f"/api/generate{query}")).json()
        assert [row["id"] for row in page["data"]] == expected, query
    page = await (await admin.get("/api/generate?limit=1")).json()
    assert [row["id"] for row in page["data"]] == [new.id]
    page = await (await admin.get(f"/api/generate?limit=1&cursor={page['next_cursor']}")).json()
    assert ([row["id"] for row in page["data"]], page["next_cursor"]) == ([old.id], None)


@pytest.mark.parametrize("query", ["?state=emailed", "?kind=smell", "?prompt=x", "?limit=0"])
async def test_a_filter_that_is_none_is_refused(client: Client, query: str) -> None:
    assert (await client.get(f"/api/generate{query}")).status == 422


async def test_another_users_job_does_not_exist_for_any_verb(
    stage: Stage, client: Client, user: User
) -> None:
    theirs = await stored(stage, "queued")
    path = f"/api/generate/{theirs.id}"
    for method, where in (("GET", path), ("DELETE", path), ("POST", f"{path}/cancel")):
        assert (await client.request(method, where)).status == 404
    assert (await (await client.get("/api/generate")).json())["data"] == []
    mine = await asked(client)
    page = await (await client.get("/api/generate")).json()
    assert [row["id"] for row in page["data"]] == [mine["id"]]
    assert (await Job.get(id=theirs.id)).state == "queued"
    admin = await stage.admin()
    assert (await admin.get(f"/api/generate/{mine['id']}")).status == 200
    page = await (await admin.get("/api/generate")).json()
    assert {row["id"] for row in page["data"]} == {mine["id"], theirs.id}


@pytest.mark.parametrize("ident", ["job_none", "x" * 200, "%00", "image"])
async def test_a_job_that_is_not_there_is_not_found(client: Client, ident: str) -> None:
    assert (await client.get(f"/api/generate/{ident}")).status == 404
    assert (await client.delete(f"/api/generate/{ident}")).status == 404


# Cancelling


@pytest.mark.parametrize("verb", ["post", "delete"])
async def test_a_job_that_waits_is_cancelled_at_once_and_repeating_it_is_fine(
    client: Client, verb: str
) -> None:
    job = await asked(client)
    path = f"/api/generate/{job['id']}"
    for _ in range(2):
        answer = await (client.post(f"{path}/cancel") if verb == "post" else client.delete(path))
        body = await answer.json()
        assert (answer.status, body["state"], body["queue_position"]) == (202, "cancelled", None)
    assert [(line.type, line.state) for line in await lines_after(job["id"], 0)] == [
        ("status", "queued"),
        ("status", "cancelled"),
        ("done", "cancelled"),
    ]
    assert await AuditLine.filter(event="job.cancelled").count() == 1


async def test_a_job_that_runs_is_asked_to_stop_once(stage: Stage) -> None:
    job = await stored(stage, "running")
    admin = await stage.admin()
    for _ in range(2):
        answer = await admin.post(f"/api/generate/{job.id}/cancel")
        body = await answer.json()
        assert (answer.status, body["state"]) == (202, "running")
        assert body["cancel_requested"] is True
    assert await AuditLine.filter(event="job.cancelled").count() == 1


@pytest.mark.parametrize("state", ["succeeded", "failed"])
async def test_what_has_ended_cannot_be_cancelled(stage: Stage, state: str) -> None:
    job = await stored(stage, state)
    admin = await stage.admin()
    answer = await admin.delete(f"/api/generate/{job.id}")
    assert (await problem(answer))["code"] == "conflict"
    assert answer.status == 409
    assert (await Job.get(id=job.id)).state == state


async def test_the_task_of_a_cancelled_job_is_looked_at(stage: Stage) -> None:
    task = await stage.task("submitted")
    job = await stored(stage, "queued", task_id=task.id)
    orphan = await stored(stage, "queued", task_id="task_none")
    admin = await stage.admin()
    for one in (job, orphan):
        assert (await admin.delete(f"/api/generate/{one.id}")).status == 202
    assert await sent(Check.topic) == [Check(task_id=task.id, round=1, n=0).to_bytes()]


@pytest.mark.parametrize("misses", [1, 2, 3])
async def test_cancelling_looks_again_when_the_job_moves_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, misses: int
) -> None:
    job = await stored(stage, "queued")
    admin = await stage.admin()
    commit, left = stage.front.units.commit, [misses]

    async def commit_late(work: Any) -> Commit:
        if left[0]:
            left[0] -= 1
            await stage.front.units.discard(work)
            return Commit.STALE
        return await commit(work)

    monkeypatch.setattr(stage.front.units, "commit", commit_late)
    answer = await admin.delete(f"/api/generate/{job.id}")
    assert answer.status == (202 if misses < 3 else 409)
    assert (await Job.get(id=job.id)).state == ("cancelled" if misses < 3 else "queued")


# Waiting


async def waiting(stage: Stage, ident: str) -> None:
    """Return when somebody waits for news of an object."""
    hub = stage.server.app[HUB]
    await until(lambda: ident in hub._channels)


async def test_the_end_can_be_waited_for_when_asking_and_a_repetition_gets_the_first_answer(
    stage: Stage, client: Client
) -> None:
    headers = {"Prefer": "wait=30", "Idempotency-Key": "w"}
    asking = asyncio.create_task(client.post(IMAGE, json={"prompt": "x"}, headers=headers))
    await eventually(Job.exists)
    job = await Job.get()
    await waiting(stage, job.id)
    for before, after in (("queued", "running"), ("running", "succeeded")):
        work = stage.work()
        work.move(job, expected=before, to=after)
        await stage.front.units.commit(work)
    answer = await asyncio.wait_for(asking, PATIENCE_S)
    assert (answer.status, (await answer.json())["state"]) == (202, "succeeded")
    assert answer.headers["Preference-Applied"] == "wait=30"
    assert answer.headers["Location"].endswith(job.id)
    again = await client.post(IMAGE, json={"prompt": "x"}, headers=headers)
    assert (again.status, (await again.json())["id"]) == (202, job.id)


async def test_who_waits_too_short_sees_the_job_as_it_is(client: Client) -> None:
    job = await asked(client)
    answer = await client.get(f"/api/generate/{job['id']}", headers={"Prefer": "wait=1"})
    assert (await answer.json())["state"] == "queued"
    assert answer.headers["Preference-Applied"] == "wait=1"


async def test_the_answer_is_described_as_it_is(client: Client) -> None:
    document = json.loads(await (await client.get("/openapi.json")).read())
    operation = document["paths"][IMAGE]["post"]
    assert "202" in operation["responses"]
    body = document["components"]["schemas"]["ImageIn"]["properties"]
    assert (body["width"]["minimum"], body["width"]["multipleOf"]) == (64, 8)
    assert set(await asked(client)) == set(
        document["components"]["schemas"]["JobWhole"]["properties"]
    )

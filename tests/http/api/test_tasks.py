"""Tasks over REST: shown, filtered, retried, cancelled, reviewed; and waiting for their end."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from limner.actors.intent.messages import Read
from limner.actors.submitter.messages import Submit
from limner.core.clock import HeldClock
from limner.core.ids import new_id
from limner.core.unit import Commit
from limner.http.sse import HUB
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.jobs import Job
from limner.storage.sql.messaging import OutboxRow
from limner.storage.sql.tasks import Task
from tests.fakes.front import Stage, problem, staged, until

PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 100


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


async def sent(topic: str) -> list[bytes]:
    return [bytes(row.body) for row in await OutboxRow.filter(topic=topic)]


async def with_result(stage: Stage, state: str = "emailed") -> Task:
    await stage.front.objects.put("results/a.png", PNG, "image/png", size_limit_bytes=1000)
    return await stage.task(state, result_key="results/a.png", result_type="image/png")


async def test_a_task_shows_its_comment_its_links_and_its_timeline(stage: Stage) -> None:
    task = await stage.task()
    await stage.move(task, "extracted", detail="decided by rules")
    admin = await stage.admin()
    found = await (await admin.get(f"/api/tasks/{task.id}")).json()
    base = f"{stage.front.settings.base_url}/api/tasks/{task.id}"
    expected = {
        "id": task.id,
        "state": "extracted",
        "email": "anna@example.com",
        "prompt": "a red circle",
        "kind": "image",
        "provider": "",
        "provider_job_id": "",
        "result_url": None,
        "error": "",
        "cost": 0,
        "trace_id": (await Task.get(id=task.id)).trace_id,
        "status_url": base,
        "stream_url": f"{base}/stream",
        "cancel_url": f"{base}/cancel",
        "queue_position": None,
    }
    assert {name: found[name] for name in expected} == expected
    assert found["comment"]["text"].startswith("draw")
    assert found["comment"]["received_at"] == "2026-11-22T12:00:00Z"
    assert [(line["n"], line["state"], line["detail"]) for line in found["timeline"]] == [
        (1, "pending", ""),
        (2, "extracted", "decided by rules"),
    ]


async def test_the_result_opens_without_a_login_and_its_link_is_new_at_each_read(
    stage: Stage,
) -> None:
    task = await with_result(stage)
    admin = await stage.admin()
    first = (await (await admin.get(f"/api/tasks/{task.id}")).json())["result_url"]
    stage.clock.advance(10)
    second = (await (await admin.get("/api/tasks")).json())["data"][0]["result_url"]
    assert first != second
    async with ClientSession() as anybody:
        async with anybody.get(first) as answer:
            assert answer.status == 200
            assert await answer.read() == PNG
            assert answer.content_type == "image/png"
            disposition = answer.headers["Content-Disposition"]
            assert disposition == f'inline; filename="{task.id}.png"'
        stage.clock.advance(3590)
        async with anybody.get(first) as answer:
            assert (await problem(answer))["code"] == "link_expired"
        async with anybody.get(second) as answer:
            assert answer.status == 200


async def test_the_newest_version_is_not_sent_again_while_its_link_works(stage: Stage) -> None:
    task = await with_result(stage)
    admin = await stage.admin()
    answer = await admin.get(f"/api/tasks/{task.id}")
    tag = {"If-None-Match": answer.headers["ETag"]}
    assert (await admin.get(f"/api/tasks/{task.id}", headers=tag)).status == 304
    stage.clock.advance(1800)
    assert (await admin.get(f"/api/tasks/{task.id}", headers=tag)).status == 200
    plain = await stage.task()
    tag = {"If-None-Match": (await admin.get(f"/api/tasks/{plain.id}")).headers["ETag"]}
    stage.clock.advance(10_000)
    assert (await admin.get(f"/api/tasks/{plain.id}", headers=tag)).status == 304
    await stage.move(plain, "extracted")
    assert (await admin.get(f"/api/tasks/{plain.id}", headers=tag)).status == 200


async def test_filters_choose_and_the_newest_come_first(stage: Stage) -> None:
    old = await stage.task("failed", media="video", provider="acme", email="b@example.com")
    stage.clock.advance(1)
    new = await stage.task("emailed")
    admin = await stage.admin()
    for query, expected in [
        ("", [new.id, old.id]),
        ("?state=failed", [old.id]),
        ("?kind=image", [new.id]),
        ("?provider=acme", [old.id]),
        ("?email=b@example.com&state=failed", [old.id]),
        ("?email=b@example.com&state=emailed", []),
        (f"?comment_id={new.comment_id}", [new.id]),
        ("?email=" + "x" * 400, []),
        ("?limit=1", [new.id]),
    ]:
        page = await (await admin.get(f"/api/tasks{query}")).json()
        assert [row["id"] for row in page["data"]] == expected, query


async def test_retrying_a_failed_task_begins_a_new_round(stage: Stage) -> None:
    task = await stage.task("failed", error="no", provider="acme", client_id="c", result_key="k")
    admin = await stage.admin()
    answer = await admin.post(f"/api/tasks/{task.id}/retry")
    assert answer.status == 202
    body = await answer.json()
    assert (body["state"], body["round"], body["error"], body["provider"]) == ("pending", 2, "", "")
    row = await Task.get(id=task.id)
    assert (row.client_id, row.result_key) == ("", "")
    assert await sent("intent.read") == [Read(comment_id=task.comment_id).to_bytes()]
    line = await AuditLine.get(event="task.retried")
    assert (line.actor, line.subject) == (stage.owner.id, task.id)
    again = await admin.post(f"/api/tasks/{task.id}/retry")
    assert (await problem(again))["code"] == "conflict"
    assert len(await sent("intent.read")) == 1


async def test_an_operator_can_give_up_an_unknown_task_and_begin_again(stage: Stage) -> None:
    task = await stage.task("unknown")
    admin = await stage.admin()
    body = await (await admin.post(f"/api/tasks/{task.id}/retry")).json()
    assert (body["state"], body["round"]) == ("pending", 2)
    assert [(line["type"], line["state"]) for line in body["timeline"]] == [
        ("status", "unknown"),
        ("status", "failed"),
        ("error", "failed"),
        ("done", "failed"),
        ("status", "pending"),
    ]


@pytest.mark.parametrize("state", ["pending", "running", "emailed", "cancelled", "expired"])
async def test_what_has_not_failed_cannot_be_retried(stage: Stage, state: str) -> None:
    task = await stage.task(state)
    admin = await stage.admin()
    assert (await admin.post(f"/api/tasks/{task.id}/retry")).status == 409
    assert await sent("intent.read") == []


def job_of(task: Task, state: str, **fields: Any) -> Job:
    return Job(id=new_id("job"), state=state, task_id=task.id, prompt="x", **fields)


async def test_cancelling_stops_the_task_and_its_job_and_repeating_it_is_fine(stage: Stage) -> None:
    task = await stage.task("submitted")
    queued, running = job_of(task, "queued"), job_of(task, "running")
    await stage.add(queued, running)
    admin = await stage.admin()
    for _ in range(2):
        answer = await admin.post(f"/api/tasks/{task.id}/cancel")
        assert answer.status == 200
        assert (await answer.json())["state"] == "cancelled"
    assert (await Job.get(id=queued.id)).state == "cancelled"
    assert (await Job.get(id=running.id)).cancel_requested is True
    assert await AuditLine.filter(event="task.cancelled").count() == 1


@pytest.mark.parametrize("state", ["emailed", "failed", "expired"])
async def test_what_has_ended_cannot_be_cancelled(stage: Stage, state: str) -> None:
    task = await stage.task(state)
    admin = await stage.admin()
    assert (await admin.post(f"/api/tasks/{task.id}/cancel")).status == 409


@pytest.mark.parametrize("misses", [1, 2, 3])
async def test_cancelling_looks_again_when_the_task_moves_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, misses: int
) -> None:
    task = await stage.task("extracted")
    admin = await stage.admin()
    commit, left = stage.front.units.commit, [misses]

    async def commit_late(work: Any) -> Commit:
        if left[0]:
            left[0] -= 1
            await stage.front.units.discard(work)
            return Commit.STALE
        return await commit(work)

    monkeypatch.setattr(stage.front.units, "commit", commit_late)
    answer = await admin.post(f"/api/tasks/{task.id}/cancel")
    assert answer.status == (200 if misses < 3 else 409)


async def test_the_place_in_the_queue_counts_who_comes_first(stage: Stage) -> None:
    task, other = await stage.task("submitted"), await stage.task("submitted")
    await stage.add(job_of(other, "queued"))
    stage.clock.advance(1)
    await stage.add(job_of(task, "queued"))
    stage.clock.advance(1)
    await stage.add(job_of(other, "queued"), job_of(other, "queued", priority=5))
    admin = await stage.admin()
    found = await (await admin.get(f"/api/tasks/{task.id}")).json()
    assert found["queue_position"] == 3


async def test_approving_lets_the_wish_through_as_it_was_found(stage: Stage) -> None:
    task = await stage.task("needs_review")
    admin = await stage.admin()
    answer = await admin.post(f"/api/tasks/{task.id}/approve")
    assert answer.status == 202
    body = await answer.json()
    assert (body["state"], body["prompt"], body["email"]) == (
        "extracted",
        "a red circle",
        "anna@example.com",
    )
    assert await sent("submitter.submit") == [Submit(task_id=task.id).to_bytes()]
    assert (await admin.post(f"/api/tasks/{task.id}/approve")).status == 409
    assert len(await sent("submitter.submit")) == 1


async def test_approving_can_correct_the_wish(stage: Stage) -> None:
    task = await stage.task("needs_review", prompt="", email="")
    admin = await stage.admin()
    path = f"/api/tasks/{task.id}/approve"
    wrong = await admin.post(path)
    assert [one["pointer"] for one in (await problem(wrong))["errors"]] == ["/prompt", "/email"]
    for email in ("nobody", "a@x.test, b@x.test", "a@x.test\r\nBcc: b@x.test", " "):
        answer = await admin.post(path, json={"prompt": "a cat", "email": email})
        assert [one["pointer"] for one in (await problem(answer))["errors"]] == ["/email"]
    body = await (await admin.post(path, json={"prompt": " a cat ", "email": "b@x.org"})).json()
    assert (body["prompt"], body["email"]) == ("a cat", "b@x.org")


async def test_rejecting_drops_the_wish(stage: Stage) -> None:
    task = await stage.task("needs_review")
    admin = await stage.admin()
    answer = await admin.post(f"/api/tasks/{task.id}/reject")
    assert (answer.status, (await answer.json())["state"]) == (200, "cancelled")
    assert (await admin.post(f"/api/tasks/{task.id}/reject")).status == 409


async def test_another_users_task_does_not_exist_for_any_verb(stage: Stage) -> None:
    task = await stage.task("failed")
    user = await stage.user("user")
    scopes = ("tasks:read", "tasks:write", "sources:read")
    client = await stage.client(await stage.key(*scopes, user=user))
    path = f"/api/tasks/{task.id}"
    for verb in ("retry", "cancel", "approve", "reject"):
        assert (await client.post(f"{path}/{verb}")).status == 404
    assert (await client.get(path)).status == 404
    assert (await client.get(f"{path}/stream", headers={"Last-Event-ID": "0"})).status == 404
    assert (await client.get(f"{path}/stream?last_event_id=99")).status == 404
    assert (await (await client.get("/api/tasks")).json())["data"] == []
    assert (await (await client.get("/api/comments")).json())["data"] == []
    assert (await client.get(f"/api/comments/{task.comment_id}")).status == 404
    theirs = await stage.task(user_id=user.id)
    assert (await client.get(f"/api/tasks/{theirs.id}")).status == 200
    admin = await stage.admin()
    assert (await admin.get(f"/api/tasks/{theirs.id}")).status == 200


async def waiting(stage: Stage, ident: str) -> None:
    """Return when somebody waits for news of an object."""
    hub = stage.server.app[HUB]
    await until(lambda: ident in hub._channels)


async def test_a_client_can_wait_for_the_end(stage: Stage) -> None:
    task = await stage.task("running")
    admin = await stage.admin()
    asked = asyncio.create_task(
        admin.get(f"/api/tasks/{task.id}", headers={"Prefer": "respond-async, wait=30"})
    )
    await waiting(stage, task.id)
    await stage.move(task, "succeeded")
    assert not asked.done()
    await stage.move(task, "emailed")
    answer = await asyncio.wait_for(asked, 5)
    assert (await answer.json())["state"] == "emailed"
    assert answer.headers["Preference-Applied"] == "wait=30"


async def test_who_waits_too_short_sees_the_task_as_it_is(stage: Stage) -> None:
    task = await stage.task("running")
    admin = await stage.admin()
    answer = await admin.get(f"/api/tasks/{task.id}", headers={"Prefer": "wait=1"})
    assert (await answer.json())["state"] == "running"


@pytest.mark.parametrize("preference", ["wait=0", "wait=x", "wait", "await=5", "wait=-1"])
async def test_a_preference_that_is_none_is_passed_over(stage: Stage, preference: str) -> None:
    task = await stage.task("running")
    admin = await stage.admin()
    answer = await admin.get(f"/api/tasks/{task.id}", headers={"Prefer": preference})
    assert "Preference-Applied" not in answer.headers


async def test_a_retry_can_be_waited_for(stage: Stage) -> None:
    task = await stage.task("failed")
    admin = await stage.admin()
    asked = asyncio.create_task(
        admin.post(f"/api/tasks/{task.id}/retry", headers={"Prefer": "wait=30"})
    )
    await waiting(stage, task.id)
    await stage.move(task, "needs_review")
    answer = await asyncio.wait_for(asked, 5)
    assert (answer.status, (await answer.json())["state"]) == (202, "needs_review")


async def test_an_approval_can_be_waited_for(stage: Stage) -> None:
    task = await stage.task("needs_review", prompt="a cat", email="anna@example.com")
    admin = await stage.admin()
    asked = asyncio.create_task(
        admin.post(f"/api/tasks/{task.id}/approve", headers={"Prefer": "wait=30"})
    )
    await waiting(stage, task.id)
    await stage.move(task, "failed")
    answer = await asyncio.wait_for(asked, 5)
    assert (answer.status, (await answer.json())["state"]) == (202, "failed")
    assert answer.headers["Preference-Applied"] == "wait=30"


async def test_comments_are_listed_and_shown(stage: Stage) -> None:
    task = await stage.task()
    admin = await stage.admin()
    page = await (await admin.get(f"/api/comments?task_id={task.id}&state=task")).json()
    (comment,) = page["data"]
    assert set(comment) >= {"id", "source_id", "external_id", "author", "text", "state", "task_id"}
    shown = await admin.get(f"/api/comments/{comment['id']}")
    assert await shown.json() == comment
    tag = {"If-None-Match": shown.headers["ETag"]}
    assert (await admin.get(f"/api/comments/{comment['id']}", headers=tag)).status == 304


async def test_a_text_can_be_tried(stage: Stage) -> None:
    admin = await stage.admin()
    answer = await admin.post("/api/intent/test", json={"text": "draw a cat"})
    assert (await answer.json())["verdict"] == "task"
    assert (await admin.post("/api/intent/test", json={"text": ""})).status == 422
    assert (await admin.post("/api/intent/test", json={"text": "x" * 10_001})).status == 422

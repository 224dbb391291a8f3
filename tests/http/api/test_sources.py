"""Sources over REST: created, listed, changed, polled once, removed."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from limner.actors.poller.messages import Poll
from limner.core.clock import HeldClock
from limner.core.ids import new_id
from limner.storage.sql.messaging import OutboxRow
from limner.storage.sql.schedules import Schedule
from limner.storage.sql.sources import Source
from tests.fakes.front import Stage, problem, staged

NEW = {"name": "demo", "connector": "demo"}


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


async def made(stage: Stage, **fields: Any) -> Any:
    admin = await stage.admin()
    answer = await admin.post("/api/sources", json={**NEW, **fields})
    assert answer.status == 201, await answer.text()
    return await answer.json()


async def polls() -> list[bytes]:
    return [bytes(row.body) for row in await OutboxRow.filter(topic="poller.poll")]


async def test_creating_one_stores_its_schedule_and_does_not_poll(stage: Stage) -> None:
    source = await made(stage, external_id="42", options={"a": 1})
    assert source["interval_s"] == 120
    assert source["polling"] is False
    assert (source["cursor"], source["last_error"], source["state"]) == ("", "", "active")
    row = await Source.get(id=source["id"])
    assert row.user_id == stage.owner.id
    schedule = await Schedule.get(subject_id=source["id"])
    assert (schedule.topic, bytes(schedule.body)) == (
        "poller.poll",
        Poll(source_id=row.id).to_bytes(),
    )
    assert await polls() == []


async def test_the_interval_comes_from_the_settings_unless_given(stage: Stage) -> None:
    admin = await stage.admin()
    await admin.put("/api/settings", json={"poll_interval_s": 33})
    assert (await made(stage))["interval_s"] == 33
    assert (await made(stage, interval_s=7))["interval_s"] == 7


async def test_polling_asks_once_however_often_it_is_asked_for(stage: Stage) -> None:
    source = await made(stage)
    admin = await stage.admin()
    first = await admin.post(f"/api/sources/{source['id']}/poll")
    assert first.status == 202
    body = await first.json()
    assert (body["already_running"], body["polling"]) == (False, True)
    assert body["status_url"] == f"{stage.front.settings.base_url}/api/sources/{source['id']}"
    second = await admin.post(f"/api/sources/{source['id']}/poll")
    assert second.status == 202
    assert await second.json() == {**body, "already_running": True}
    assert len(await polls()) == 1


async def test_while_a_poll_runs_no_second_one_begins_and_after_its_lease_one_does(
    stage: Stage,
) -> None:
    source = await made(stage)
    row = await Source.get(id=source["id"])
    work = stage.work()
    until = stage.clock.now() + timedelta(seconds=15)
    work.change(row, poll_id="poll_1", lease_until=until)
    await stage.front.units.commit(work)
    admin = await stage.admin()
    answer = await admin.post(f"/api/sources/{row.id}/poll")
    assert (await answer.json())["already_running"] is True
    assert (await (await admin.get(f"/api/sources/{row.id}")).json())["polling"] is True
    assert await polls() == []
    stage.clock.advance(15)
    answer = await admin.post(f"/api/sources/{row.id}/poll")
    assert (await answer.json())["already_running"] is False
    assert len(await polls()) == 1


async def test_a_paused_source_is_not_polled_until_it_is_resumed(stage: Stage) -> None:
    source = await made(stage)
    admin = await stage.admin()
    path = f"/api/sources/{source['id']}"
    assert (await (await admin.patch(path, json={"state": "paused"})).json())["state"] == "paused"
    assert (await Schedule.get(subject_id=source["id"])).enabled is False
    assert (await admin.post(f"{path}/poll")).status == 409
    await admin.patch(path, json={"state": "active"})
    assert (await admin.post(f"{path}/poll")).status == 202


async def test_a_patch_changes_what_it_names(stage: Stage) -> None:
    source = await made(stage, options={"a": 1})
    admin = await stage.admin()
    path = f"/api/sources/{source['id']}"
    changed = await (await admin.patch(path, json={"name": "new", "interval_s": 60})).json()
    assert {name: changed[name] for name in ("name", "interval_s", "options")} == {
        "name": "new",
        "interval_s": 60,
        "options": {"a": 1},
    }
    assert (await Schedule.get(subject_id=source["id"])).interval_s == 60
    same = await admin.patch(path, json={"name": None})
    assert (await same.json())["name"] == "new"
    wrong = await admin.patch(path, json={"connector": "http"})
    assert [one["pointer"] for one in (await problem(wrong))["errors"]] == ["/options/url"]


async def test_removing_one_removes_its_schedule_and_hides_it(stage: Stage) -> None:
    source = await made(stage)
    admin = await stage.admin()
    path = f"/api/sources/{source['id']}"
    assert (await admin.delete(path)).status == 204
    assert (await admin.get(path)).status == 404
    assert (await admin.delete(path)).status == 404
    assert (await (await admin.get("/api/sources")).json())["data"] == []
    assert await Schedule.filter(subject_id=source["id"]).count() == 0


async def test_filters_choose(stage: Stage) -> None:
    one, two = await made(stage, name="one"), await made(stage, name="two")
    admin = await stage.admin()
    await admin.patch(f"/api/sources/{two['id']}", json={"state": "paused"})
    for query, expected in [
        ("name=one", [one["id"]]),
        ("state=paused", [two["id"]]),
        ("connector=http", []),
        ("name=" + "x" * 300, []),
    ]:
        page = await (await admin.get(f"/api/sources?{query}")).json()
        assert [row["id"] for row in page["data"]] == expected


async def test_whoever_has_the_newest_version_is_not_sent_it_again(stage: Stage) -> None:
    source = await made(stage)
    admin = await stage.admin()
    path = f"/api/sources/{source['id']}"
    tag = (await admin.get(path)).headers["ETag"]
    for given in (tag, tag.removeprefix("W/"), f'"x", {tag}', "*"):
        answer = await admin.get(path, headers={"If-None-Match": given})
        assert (answer.status, await answer.read()) == (304, b"")
        assert answer.headers["ETag"] == tag
    await admin.patch(path, json={"name": "new"})
    assert (await admin.get(path, headers={"If-None-Match": tag})).status == 200


async def test_pages_go_on_where_the_last_one_ended_whatever_arrives(stage: Stage) -> None:
    sources = [
        Source(id=new_id("source"), state="active", user_id=stage.owner.id, **NEW) for _ in range(7)
    ]
    await stage.add(*sources)
    stage.clock.advance(1)
    newest = Source(id=new_id("source"), state="active", user_id=stage.owner.id, **NEW)
    await stage.add(newest)
    admin = await stage.admin()
    path, seen = "/api/sources?limit=3", []
    while path:
        answer = await admin.get(path)
        page = await answer.json()
        seen += [row["id"] for row in page["data"]]
        link = answer.links["next"]["url"] if "next" in answer.links else None
        assert (page["next_cursor"] is None) is (link is None)
        path = stage.path(str(link)) if link else ""
        await stage.add(Source(id=new_id("source"), state="active", user_id="x", **NEW))
    assert seen == [newest.id, *(source.id for source in reversed(sources))]


async def test_another_users_source_does_not_exist(stage: Stage) -> None:
    source = await made(stage)
    user = await stage.user("user")
    client = await stage.client(await stage.key("sources:read", "sources:write", user=user))
    path = f"/api/sources/{source['id']}"
    assert (await client.get(path)).status == 404
    assert (await client.patch(path, json={"name": "x"})).status == 404
    assert (await client.delete(path)).status == 404
    assert (await client.post(f"{path}/poll")).status == 404
    assert (await (await client.get("/api/sources")).json())["data"] == []


async def test_a_key_without_the_scope_admin_sees_its_own_accounts_objects(stage: Stage) -> None:
    source = await made(stage)
    client = await stage.client(await stage.key("sources:read"))
    page = await (await client.get("/api/sources")).json()
    assert [row["id"] for row in page["data"]] == [source["id"]]


async def test_two_who_change_at_once_are_told(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await made(stage)
    admin = await stage.admin()
    path = f"/api/sources/{source['id']}"
    row = await Source.get(id=source["id"])
    commit = stage.front.units.commit

    async def commit_late(work: Any) -> Any:
        monkeypatch.undo()
        other = stage.work()
        other.move(row, expected="active", to="paused")
        await commit(other)
        return await commit(work)

    monkeypatch.setattr(stage.front.units, "commit", commit_late)
    answer = await admin.patch(path, json={"name": "x"})
    assert (await problem(answer))["code"] == "stale"
    assert answer.status == 409

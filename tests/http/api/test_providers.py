"""Providers over REST: mappings checked as a whole, names unique, callbacks that say nothing."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from limner.actors.status.messages import Check
from limner.actors.submitter.rules import CALLBACK
from limner.core.clock import HeldClock
from limner.storage.sql.messaging import OutboxRow
from limner.storage.sql.providers import Provider
from tests.fakes.front import PROVIDER, Stage, problem, staged


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


async def made(stage: Stage, **fields: Any) -> Any:
    admin = await stage.admin()
    answer = await admin.post("/api/providers", json={**PROVIDER, **fields})
    assert answer.status == 201, await answer.text()
    return await answer.json()


async def test_a_provider_comes_back_as_it_went_in(stage: Stage) -> None:
    provider = await made(stage)
    assert {name: provider[name] for name in PROVIDER} == PROVIDER
    admin = await stage.admin()
    shown = await admin.get(f"/api/providers/{provider['id']}")
    assert await shown.json() == provider
    page = await (await admin.get("/api/providers?kind=both&name=acme")).json()
    assert page["data"] == [provider]
    tag = {"If-None-Match": shown.headers["ETag"]}
    assert (await admin.get(f"/api/providers/{provider['id']}", headers=tag)).status == 304


@pytest.mark.parametrize(
    ("fields", "pointers"),
    [
        ({"name": "local"}, ["/name"]),
        ({"name": "a b"}, ["/name"]),
        ({"kind": "sound"}, ["/kind"]),
        ({"job_id": "$["}, ["/job_id"]),
        ({"request": {"a": "$.nothing"}}, ["/request/a"]),
        ({"result_url": None, "status_map": {"x": "lost"}}, ["/result_url", "/status_map/x"]),
        ({"surprise": 1}, ["/surprise"]),
        ({"idempotent": "yes"}, ["/idempotent"]),
    ],
)
async def test_a_mapping_that_does_not_fit_is_refused_with_its_places(
    stage: Stage, fields: dict[str, Any], pointers: list[str]
) -> None:
    admin = await stage.admin()
    body = {name: value for name, value in {**PROVIDER, **fields}.items() if value is not None}
    found = await problem(await admin.post("/api/providers", json=body))
    assert sorted(one["pointer"] for one in found["errors"]) == pointers
    assert await Provider.all().count() == 0


async def test_a_name_is_taken_until_its_provider_is_removed(stage: Stage) -> None:
    provider = await made(stage)
    admin = await stage.admin()
    again = await admin.post("/api/providers", json=PROVIDER)
    found = await problem(again)
    assert (found["status"], found["detail"]) == (409, "a provider of this name exists")
    assert (await admin.delete(f"/api/providers/{provider['id']}")).status == 204
    assert (await admin.get(f"/api/providers/{provider['id']}")).status == 404
    await made(stage)
    other = await made(stage, name="other")
    renamed = await admin.patch(f"/api/providers/{other['id']}", json={"name": "acme"})
    assert renamed.status == 409


async def test_a_patch_changes_what_it_names_and_checks_the_whole(stage: Stage) -> None:
    provider = await made(stage)
    admin = await stage.admin()
    path = f"/api/providers/{provider['id']}"
    changes = {"name": "new", "kind": "image", "status": "$.state"}
    changed = await (await admin.patch(path, json=changes)).json()
    assert changed == {**provider, **changes}
    wrong = await admin.patch(path, json={"status": "state"})
    assert [one["pointer"] for one in (await problem(wrong))["errors"]] == ["/status"]
    assert (await admin.patch(path, json={"name": "local"})).status == 422
    same = await admin.patch(path, json={"error": None})
    assert (await same.json())["error"] == provider["error"]


@pytest.mark.parametrize("setting", ["image_provider", "video_provider"])
async def test_a_provider_that_a_setting_names_is_neither_removed_nor_renamed(
    stage: Stage, setting: str
) -> None:
    provider = await made(stage)
    admin = await stage.admin()
    assert (await admin.put("/api/settings", json={setting: "acme"})).status == 200
    path = f"/api/providers/{provider['id']}"
    assert (await admin.delete(path)).status == 409
    assert (await admin.patch(path, json={"name": "other"})).status == 409
    assert (await admin.put("/api/settings", json={setting: None})).status == 200
    assert (await admin.delete(path)).status == 204


async def test_a_provider_can_be_tried(stage: Stage) -> None:
    provider = await made(stage, kind="image")
    admin = await stage.admin()
    path = f"/api/providers/{provider['id']}/test"
    answer = await admin.post(path)
    assert (await answer.json())["extracted"] == {"job_id": "1"}
    answer = await admin.post(path, json={"prompt": "a cat"})
    assert (await answer.json())["request"]["body"]["prompt"] == "a cat"
    wrong = await admin.post(path, json={"kind": "video"})
    assert [one["pointer"] for one in (await problem(wrong))["errors"]] == ["/kind"]


async def test_a_callback_has_the_status_looked_at_and_always_says_the_same(stage: Stage) -> None:
    task = await stage.task("running", round=2)
    ended = await stage.task("emailed")
    signer = stage.front.signer
    good = {"provider": "provider_1", "task": task.id, "round": 2}
    client = await stage.client()
    answers = []
    for token in [
        signer.token(CALLBACK, good),
        signer.token(CALLBACK, {**good, "round": 1}),
        signer.token(CALLBACK, {**good, "provider": "provider_2"}),
        signer.token(CALLBACK, {**good, "task": ended.id, "round": 1}),
        signer.token(CALLBACK, {**good, "task": "task_none"}),
        signer.token("result", good),
        "nothing",
    ]:
        for data in (b"", b"\x00 no JSON"):
            answer = await client.post(f"/api/providers/provider_1/callback/{token}", data=data)
            answers.append((answer.status, await answer.text()))
    assert set(answers) == {(202, '{"accepted":true}')}
    sent = [bytes(row.body) for row in await OutboxRow.filter(topic="status.check")]
    assert sent == [Check(task_id=task.id, round=2, n=0).to_bytes()] * 2

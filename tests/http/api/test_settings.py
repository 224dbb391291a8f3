"""Settings over REST: what is named changes, everything has a history, secrets never come back."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from limner.core.clock import HeldClock
from limner.core.tunables import Tunables
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.tunables import StoredSecret, TunableRow
from tests.fakes.front import PROVIDER, Stage, problem, staged


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


async def test_every_setting_shows_value_default_source_and_meaning(stage: Stage) -> None:
    admin = await stage.admin()
    found = await (await admin.get("/api/settings")).json()
    assert set(found) == set(Tunables.model_fields)
    assert found["poll_interval_s"] == {
        "value": 120,
        "default": 120,
        "source": "default",
        "updated_at": None,
        "updated_by": None,
        "description": "Seconds between two polls",
        "history": [],
    }


async def test_a_put_changes_only_what_it_names_and_counts_at_once(stage: Stage) -> None:
    admin = await stage.admin()
    before = await (await admin.get("/api/settings")).json()
    changes = {"poll_interval_s": 60, "keywords": ["画", "draw"]}
    answer = await admin.put("/api/settings", json=changes)
    assert answer.status == 200
    after = await answer.json()
    assert {name for name in after if after[name]["value"] != before[name]["value"]} == set(changes)
    assert after["poll_interval_s"]["source"] == "database"
    assert after["poll_interval_s"]["updated_by"] == stage.owner.id
    assert (await stage.front.tunables.current()).keywords == ("画", "draw")
    back = await (await admin.put("/api/settings", json={"keywords": None})).json()
    assert back["keywords"]["source"] == "default"


FAULTS: list[tuple[dict[str, Any], list[str]]] = [
    ({"poll_interval_s": 1}, ["/poll_interval_s"]),
    ({"nothing": 1}, ["/nothing"]),
    ({"poll_interval_s": 60, "confidence_threshold": 2, "keywords": [""]},
     ["/confidence_threshold", "/keywords/0"]),
    ({"image_provider": "nobody"}, ["/image_provider"]),
    ({"video_provider": "still"}, ["/video_provider"]),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "pointers"), FAULTS)
async def test_one_fault_and_nothing_is_changed(
    stage: Stage, changes: dict[str, Any], pointers: list[str]
) -> None:
    admin = await stage.admin()
    await admin.post("/api/providers", json={**PROVIDER, "name": "still", "kind": "image"})
    found = await problem(await admin.put("/api/settings", json=changes))
    assert sorted(one["pointer"] for one in found["errors"]) == pointers
    assert await TunableRow.all().count() == 0


async def test_every_change_is_kept_and_can_be_taken_back(stage: Stage) -> None:
    admin = await stage.admin()
    for value in (60, 70, 70):
        stage.clock.advance(1)
        await admin.put("/api/settings", json={"poll_interval_s": value})
    page = await (await admin.get("/api/settings/history?name=poll_interval_s")).json()
    assert [(one["before"], one["after"], one["by"]) for one in page["data"]] == [
        (60, 70, stage.owner.id),
        (None, 60, stage.owner.id),
    ]
    shown = await (await admin.get("/api/settings")).json()
    assert shown["poll_interval_s"]["history"] == page["data"]
    newest, first = page["data"]
    answer = await admin.post("/api/settings/revert", json={"change_id": newest["id"]})
    assert (await answer.json())["poll_interval_s"]["value"] == 60
    answer = await admin.post("/api/settings/revert", json={"change_id": first["id"]})
    assert (await answer.json())["poll_interval_s"]["source"] == "default"
    for ident, status in (("change_none", 404), ("x" * 100, 422)):
        answer = await admin.post("/api/settings/revert", json={"change_id": ident})
        assert answer.status == status
    assert (await (await admin.get("/api/settings/history?name=keywords")).json())["data"] == []
    assert await AuditLine.filter(event="settings.changed").count() == 5


async def test_a_secret_never_comes_back(stage: Stage) -> None:
    admin = await stage.admin()
    canary = "canary-6f1c-value"
    for _ in range(2):
        answer = await admin.put("/api/settings/secrets/acme", json={"value": canary})
        assert (answer.status, await answer.read()) == (204, b"")
    assert await stage.front.secrets.get("acme") == canary
    page = await (await admin.get("/api/settings/secrets")).json()
    assert page["data"] == [{"name": "acme", "updated_at": "2026-11-22T12:00:00Z"}]
    for path in ("/api/settings", "/api/settings/secrets", "/api/audit", "/api/settings/history"):
        assert canary not in await (await admin.get(path)).text()
    assert (await admin.get("/api/settings/secrets/acme")).status == 405
    assert canary.encode() not in bytes((await StoredSecret.get(name="acme")).sealed)


@pytest.mark.parametrize(
    ("name", "body"),
    [("a b", {"value": "x"}), ("x" * 65, {"value": "x"}), ("x", {"value": ""}), ("x", {})],
)
async def test_a_secret_needs_a_name_and_a_value(
    stage: Stage, name: str, body: dict[str, Any]
) -> None:
    admin = await stage.admin()
    answer = await admin.put(f"/api/settings/secrets/{name}", json=body)
    assert answer.status == 422
    assert await StoredSecret.all().count() == 0

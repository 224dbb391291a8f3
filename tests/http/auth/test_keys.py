"""API keys: their form, their life, and that nobody gives more than they have."""

import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from limner.core.clock import HeldClock
from limner.core.unit import Commit
from limner.storage.sql.accounts import ApiKey, create_key, revoke_key
from limner.storage.sql.audit import AuditLine
from tests.fakes.front import Stage, problem, staged


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


async def test_a_key_is_shown_once_and_never_stored(stage: Stage) -> None:
    browser = await stage.signed_in()
    made = await browser.post("/api/keys", json={"name": "ci", "scopes": ["tasks:read"]})
    assert made.status == 201
    body = await made.json()
    key = body.pop("key")
    assert re.fullmatch(r"lim_[A-Za-z0-9_-]{43}", key)
    assert body["prefix"] == key[:12]
    shown = await (await browser.get(stage.path(made.headers["Location"]))).json()
    assert shown == body
    listed = await (await browser.get("/api/keys")).text()
    assert key not in listed
    path = stage.front.database.path
    if path is not None:  # A server's files are not ours to read.
        wal = path.with_name(path.name + "-wal")
        assert key.encode() not in path.read_bytes() + wal.read_bytes()
    client = await stage.client(key)
    assert (await client.get("/api/tasks")).status == 200
    assert (await client.post("/api/sources", json={})).status == 403


async def test_keys_are_different_every_time(stage: Stage) -> None:
    assert len({await stage.key() for _ in range(20)}) == 20


async def test_a_revoked_key_works_no_more_and_stays_listed(stage: Stage) -> None:
    browser = await stage.signed_in()
    made = await (await browser.post("/api/keys", json={"scopes": ["admin"]})).json()
    client = await stage.client(made["key"])
    assert (await client.get("/api/tasks")).status == 200
    assert (await browser.delete(f"/api/keys/{made['id']}")).status == 204
    assert (await client.get("/api/tasks")).status == 401
    assert (await browser.delete(f"/api/keys/{made['id']}")).status == 204
    shown = await (await browser.get(f"/api/keys/{made['id']}")).json()
    assert shown["revoked_at"] is not None


async def test_two_who_revoke_at_once_do_it_once(stage: Stage) -> None:
    await stage.key("admin")
    row, outcomes = await ApiKey.get(), []
    for _ in range(2):
        work = stage.work()
        revoke_key(work, row)
        outcomes.append(await stage.front.units.commit(work))
    assert outcomes == [Commit.DONE, Commit.STALE]
    assert await AuditLine.filter(event="key.revoked").count() == 1


async def test_a_key_can_have_an_end(stage: Stage) -> None:
    browser = await stage.signed_in()
    ends = {"scopes": ["tasks:read"], "expires_at": "2026-11-22T12:00:10Z"}
    made = await (await browser.post("/api/keys", json=ends)).json()
    client = await stage.client(made["key"])
    assert (await client.get("/api/tasks")).status == 200
    stage.clock.advance(10)
    assert (await client.get("/api/tasks")).status == 401
    past = await browser.post("/api/keys", json=ends)
    assert [one["pointer"] for one in (await problem(past))["errors"]] == ["/expires_at"]


async def test_nobody_gives_a_key_more_than_they_have(stage: Stage) -> None:
    limited = await stage.client(await stage.key("tasks:read", "account:write"))
    for scopes, status in [
        (["tasks:read"], 201),
        (["tasks:write"], 403),
        (["admin"], 403),
        (["tasks:read", "admin"], 403),
    ]:
        assert (await limited.post("/api/keys", json={"scopes": scopes})).status == status
    user = await stage.user("user")
    ordinary = await stage.client(await stage.key("tasks:read", "account:write", user=user))
    answer = await ordinary.post("/api/keys", json={"scopes": ["admin"]})
    assert answer.status == 403


async def test_a_key_without_that_scope_neither_makes_nor_shows_nor_revokes_keys(
    stage: Stage,
) -> None:
    reader = await stage.client(await stage.key("tasks:read"))
    key = await ApiKey.get()
    wanted = {"scopes": ["tasks:read"]}
    assert (await reader.post("/api/keys", json=wanted)).status == 403
    assert (await reader.get("/api/keys")).status == 403
    assert (await reader.delete(f"/api/keys/{key.id}")).status == 403
    assert (await ApiKey.get()).revoked_at is None


async def test_a_key_makes_none_that_outlives_it(stage: Stage) -> None:
    end = stage.clock.now() + timedelta(seconds=60)
    secret = await stage.key("tasks:read", "account:write", expires_s=60)
    client = await stage.client(secret)
    asked = {"scopes": ["tasks:read"]}
    made = await (await client.post("/api/keys", json=asked)).json()
    assert datetime.fromisoformat(made["expires_at"]) == end
    sooner = (end - timedelta(seconds=1)).isoformat()
    answer = await client.post("/api/keys", json={**asked, "expires_at": sooner})
    assert answer.status == 201
    later = (end + timedelta(seconds=1)).isoformat()
    answer = await client.post("/api/keys", json={**asked, "expires_at": later})
    assert [one["pointer"] for one in (await problem(answer))["errors"]] == ["/expires_at"]
    child = await stage.client(made["key"])
    stage.clock.advance(60)
    assert (await child.get("/api/tasks")).status == 401


async def test_a_scope_that_does_not_exist_is_a_fault(stage: Stage) -> None:
    admin = await stage.admin()
    answer = await admin.post("/api/keys", json={"scopes": ["admin", "everything"]})
    assert [one["pointer"] for one in (await problem(answer))["errors"]] == ["/scopes/1"]
    answer = await admin.post("/api/keys", json={"scopes": []})
    assert answer.status == 422


async def test_the_scope_admin_of_an_ordinary_account_is_a_fault(stage: Stage) -> None:
    user = await stage.user("user")
    work = stage.work()
    with pytest.raises(Exception, match="cannot be given"):
        create_key(work, user, frozenset({"admin"}))
    with pytest.raises(Exception, match="cannot be given"):
        create_key(work, user, frozenset())


async def test_use_is_noted_at_most_once_a_minute(stage: Stage) -> None:
    admin = await stage.admin()
    seen = []
    for pause_s in (0, 30, 31, 10):
        stage.clock.advance(pause_s)
        await admin.get("/api/tasks")
        seen.append((await ApiKey.get()).last_used_at)
    first = stage.clock.now().replace(second=0, minute=0)
    assert [int((at - first).total_seconds()) for at in seen if at] == [0, 0, 61, 61]


async def test_the_keys_of_others_do_not_exist(stage: Stage) -> None:
    await stage.key("admin")
    other = await stage.user("admin")
    client = await stage.client(await stage.key("admin", user=other))
    theirs = await ApiKey.get(user_id=stage.owner.id)
    assert (await client.get(f"/api/keys/{theirs.id}")).status == 404
    assert (await client.delete(f"/api/keys/{theirs.id}")).status == 404
    assert len((await (await client.get("/api/keys")).json())["data"]) == 1

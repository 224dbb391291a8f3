"""Accounts for administrators: made, changed, disabled, deleted, and never without one admin."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from limner.core.clock import HeldClock
from limner.storage.sql.accounts import ApiKey, User
from limner.storage.sql.action_links import ActionLink
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.messaging import OutboxRow
from limner.storage.sql.notifications import Notification
from limner.storage.sql.sessions import Session
from tests.fakes.front import Stage, code_of, problem, staged

Client = TestClient[Any, Any]
ROUNDS = 5


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


async def made(client: Client, **body: Any) -> dict[str, Any]:
    answer = await client.post("/api/users", json={"email": "anna@example.com", **body})
    assert answer.status == 201, await answer.text()
    found: dict[str, Any] = await answer.json()
    assert answer.headers["Location"].endswith(f"/api/users/{found['id']}")
    return found


async def test_an_account_is_made_and_its_owner_is_mailed_a_link_to_set_a_password(
    stage: Stage,
) -> None:
    client = await stage.admin()
    user = await made(client, email=" Anna@Example.COM ", name="Anna", role="tutor", plan="pro")
    assert (user["email"], user["role"], user["plan"]) == ("anna@example.com", "tutor", "pro")
    assert (user["verified"], user["has_password"], user["state"]) == (False, False, "active")
    link = await ActionLink.get(user_id=user["id"])
    assert (link.purpose, link.email) == (ActionLink.RESET, "anna@example.com")
    row = await OutboxRow.get(topic="mailer.account")
    assert link.id.encode() in bytes(row.body)
    assert b"example.com" not in bytes(row.body)
    line = await AuditLine.get(event="user.created")
    assert (line.subject, line.actor) == (user["id"], stage.owner.id)


async def test_an_address_has_one_account_in_any_spelling(stage: Stage) -> None:
    client = await stage.admin()
    await made(client)
    answer = await client.post("/api/users", json={"email": "ANNA@example.com"})
    assert await code_of(answer, 409) == "conflict"
    assert await User.filter(email="anna@example.com").count() == 1
    assert await ActionLink.all().count() == 1


async def test_the_same_request_with_a_key_makes_one_account(stage: Stage) -> None:
    client = await stage.admin()
    headers = {"Idempotency-Key": "once"}
    body = {"email": "anna@example.com"}
    first = await client.post("/api/users", json=body, headers=headers)
    again = await client.post("/api/users", json=body, headers=headers)
    assert (first.status, again.status) == (201, 201)
    assert await first.json() == await again.json()
    assert again.headers["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"email": "nobody"}, "/email"),
        ({"email": "a@x.test\r\nBcc: v@x.test"}, "/email"),
        ({"email": "a@x.test", "role": "god"}, "/role"),
        ({"email": "a@x.test", "plan": "Gold!"}, "/plan"),
        ({"email": "a@x.test", "language": "xx"}, "/language"),
        ({"email": "a@x.test", "name": "a\nb"}, "/name"),
        ({"email": "a@x.test", "credits": 1_000_000_000}, "/credits"),
        ({"email": "a@x.test", "is_owner": True}, "/is_owner"),
        ({"email": "a@x.test", "password_hash": "$2b$"}, "/password_hash"),
    ],
)
async def test_what_does_not_fit_is_named_and_nothing_is_made(
    stage: Stage, body: dict[str, Any], pointer: str
) -> None:
    answer = await (await stage.admin()).post("/api/users", json=body)
    assert pointer in [fault["pointer"] for fault in (await problem(answer))["errors"]]
    assert answer.status == 422
    assert await User.all().count() == 1


async def test_accounts_are_listed_and_found_by_address_role_and_state(stage: Stage) -> None:
    client = await stage.admin()
    anna = await made(client)
    tutor, gone = await stage.user("tutor"), await stage.user(state="deleted")
    await stage.user(state="disabled")

    async def ids(query: str) -> set[str]:
        answer = await client.get(f"/api/users{query}")
        return {row["id"] for row in (await answer.json())["data"]}

    assert await ids("?email=Anna@example.com") == {anna["id"]}
    assert await ids("?role=tutor") == {tutor.id}
    assert len(await ids("?state=disabled")) == 1
    assert await ids("?state=deleted") == {gone.id}
    assert gone.id not in await ids("")
    assert (await client.get("/api/users?role=god")).status == 422


async def test_no_answer_shows_a_secret(stage: Stage) -> None:
    client = await stage.admin()
    ident = (await made(client))["id"]
    await User.filter(id=ident).update(password_hash="$argon2id$canary", totp_sealed=b"canary")
    for path in ("/api/users", f"/api/users/{ident}"):
        assert "canary" not in await (await client.get(path)).text()


async def test_one_account_has_a_tag_and_there_is_none_that_is_not_there(stage: Stage) -> None:
    client = await stage.admin()
    ident = (await made(client))["id"]
    answer = await client.get(f"/api/users/{ident}")
    again = await client.get(
        f"/api/users/{ident}", headers={"If-None-Match": answer.headers["ETag"]}
    )
    assert (answer.status, again.status) == (200, 304)
    gone = await stage.user(state="deleted")
    for other in ("user_none", gone.id):
        for method in ("GET", "PATCH", "DELETE"):
            found = await client.request(
                method, f"/api/users/{other}", json={} if method == "PATCH" else None
            )
            assert found.status == 404


async def test_a_change_is_stored_told_and_audited_without_names(stage: Stage) -> None:
    client = await stage.admin()
    ident = (await made(client))["id"]
    body = {"name": "Anna B.", "plan": "pro", "role": "admin", "verified": True}
    answer = await client.patch(f"/api/users/{ident}", json=body)
    assert answer.status == 200, await answer.text()
    assert body.items() <= (await answer.json()).items()
    line = await AuditLine.get(event="user.changed")
    assert line.data["fields"] == ["name", "plan", "role", "verified_at"]
    assert "Anna" not in str(line.data)
    told = await Notification.get(user_id=ident)
    assert (told.kind, told.data) == ("user.role_changed", {"role": "admin"})
    back = await client.patch(f"/api/users/{ident}", json={"verified": False})
    assert (await back.json())["verified"] is False


async def test_a_change_to_the_same_changes_nothing(stage: Stage) -> None:
    client = await stage.admin()
    user = await made(client)
    answer = await client.patch(f"/api/users/{user['id']}", json={"state": "active"})
    assert await answer.json() == user
    assert not await AuditLine.exists(event="user.changed")


@pytest.mark.parametrize(
    "body", [{"email": "b@x.test"}, {"is_owner": True}, {"state": "deleted"}, {"version": 1}]
)
async def test_what_is_not_for_changing_is_refused(stage: Stage, body: dict[str, Any]) -> None:
    client = await stage.admin()
    ident = (await made(client))["id"]
    assert (await client.patch(f"/api/users/{ident}", json=body)).status == 422


async def test_an_account_without_an_address_cannot_be_verified(stage: Stage) -> None:
    client = await stage.admin()
    answer = await client.patch(f"/api/users/{stage.owner.id}", json={"verified": True})
    assert answer.status == 422


async def test_whoever_is_disabled_is_out_at_once_and_back_when_enabled(stage: Stage) -> None:
    client = await stage.admin()
    user = await stage.user()
    browser, program = await stage.signed_in(user), await stage.bearer(user)
    script = await stage.client(await stage.key("account:read", user=user))
    for one in (browser, program, script):
        assert (await one.get("/api/me")).status == 200
    answer = await client.patch(f"/api/users/{user.id}", json={"state": "disabled"})
    assert (await answer.json())["state"] == "disabled"
    for one in (browser, program, script):
        assert (await one.get("/api/me")).status == 401
    assert await Session.filter(user_id=user.id, revoked_because="disabled").count() == 2
    await client.patch(f"/api/users/{user.id}", json={"state": "active"})
    # The key lives on; who was signed in signs in again.
    assert (await script.get("/api/me")).status == 200
    assert (await browser.get("/api/me")).status == 401


async def test_another_process_learns_of_it_within_five_seconds(stage: Stage) -> None:
    other = await stage.beside()
    user = await stage.user("admin")
    key = await stage.key("admin", user=user)
    there = await other.client(key)
    assert (await there.get("/api/users")).status == 200
    client = await stage.admin()
    await client.patch(f"/api/users/{user.id}", json={"role": "user"})
    stage.clock.advance(5)
    assert (await there.get("/api/users")).status == 403
    await client.patch(f"/api/users/{user.id}", json={"state": "disabled"})
    stage.clock.advance(5)
    assert (await there.get("/api/me")).status == 401


async def test_a_role_that_is_taken_away_counts_at_once(stage: Stage) -> None:
    client = await stage.admin()
    user = await stage.user("admin")
    browser = await stage.signed_in(user)
    assert (await browser.get("/api/users")).status == 200
    await client.patch(f"/api/users/{user.id}", json={"role": "tutor"})
    assert (await browser.get("/api/users")).status == 403
    assert (await browser.get("/api/me")).status == 200


async def test_a_key_that_may_write_accounts_makes_no_administrators(stage: Stage) -> None:
    client = await stage.client(await stage.key("users:write", "users:read"))
    user, admin = await stage.user(), await stage.user("admin")
    for answer in (
        await client.post("/api/users", json={"email": "a@x.test", "role": "admin"}),
        await client.patch(f"/api/users/{user.id}", json={"role": "admin"}),
        await client.patch(f"/api/users/{admin.id}", json={"name": "mine"}),
        await client.patch(f"/api/users/{admin.id}", json={"state": "disabled"}),
        await client.delete(f"/api/users/{admin.id}"),
    ):
        assert await code_of(answer, 403) == "forbidden"
    assert (await client.patch(f"/api/users/{user.id}", json={"plan": "pro"})).status == 200
    assert (await client.post("/api/users", json={"email": "b@x.test"})).status == 201


async def test_a_deleted_account_is_a_tombstone_and_its_address_is_free(stage: Stage) -> None:
    client = await stage.admin()
    ident = (await made(client, name="Anna"))["id"]
    user = await User.get(id=ident)
    key, browser = await stage.key("account:read", user=user), await stage.signed_in(user)
    assert (await client.delete(f"/api/users/{ident}")).status == 204
    left = await User.get(id=ident)
    assert (left.state, left.email, left.name, left.role) == ("deleted", None, "", "user")
    assert (await (await stage.client(key)).get("/api/me")).status == 401
    assert (await browser.get("/api/me")).status == 401
    assert (await ApiKey.get(user_id=ident)).revoked_at is not None
    assert not await ActionLink.exists(user_id=ident)
    assert (await made(client))["id"] != ident
    assert (await client.delete(f"/api/users/{ident}")).status == 404


@pytest.mark.parametrize(
    "change", [{"role": "user"}, {"role": "tutor"}, {"state": "disabled"}, None]
)
async def test_the_last_administrator_stays(stage: Stage, change: dict[str, Any] | None) -> None:
    client = await stage.admin()
    await stage.user("admin", state="disabled")
    await stage.user("tutor")
    path = f"/api/users/{stage.owner.id}"
    answer = await (client.delete(path) if change is None else client.patch(path, json=change))
    assert await code_of(answer, 409) == "last_admin"
    owner = await User.get(id=stage.owner.id)
    assert (owner.role, owner.state) == ("admin", "active")
    assert (await client.get("/api/users")).status == 200


async def test_with_another_administrator_even_the_owner_may_go(stage: Stage) -> None:
    other = await stage.user("admin")
    client = await stage.client(await stage.key("admin", user=other))
    assert (await client.delete(f"/api/users/{stage.owner.id}")).status == 204
    assert await code_of(await client.delete(f"/api/users/{other.id}"), 409) == "last_admin"


@pytest.mark.parametrize("how", ["demote", "disable", "delete"])
async def test_of_two_administrators_who_take_each_other_away_at_once_one_stays(
    stage: Stage, how: str
) -> None:
    beside = await stage.beside()
    for _ in range(ROUNDS):
        pair = [await stage.user("admin") for _ in range(2)]
        await User.filter(role="admin").exclude(id__in=[one.id for one in pair]).update(role="user")
        clients = [
            await place.client(await stage.key("admin", user=one))
            for place, one in zip((stage, beside), pair, strict=True)
        ]

        async def take_away(client: Client, other: User) -> int:
            path = f"/api/users/{other.id}"
            if how == "delete":
                answer = await client.delete(path)
            else:
                change = {"role": "user"} if how == "demote" else {"state": "disabled"}
                answer = await client.patch(path, json=change)
            return answer.status

        statuses = await asyncio.gather(
            take_away(clients[0], pair[1]), take_away(clients[1], pair[0])
        )
        assert await User.filter(role="admin", state="active").count() == 1
        assert sorted(statuses)[0] == (204 if how == "delete" else 200)
        # Whoever came second is refused: as the last one, or as no administrator any more.
        assert sorted(statuses)[1] in {401, 403, 409}

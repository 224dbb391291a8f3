"""One's own account: shown, changed, exported, deleted."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientPayloadError

from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable
from limner.core.ids import new_id
from limner.http.api import export as export_module
from limner.http.auth.confirmation import RECENT_S, TRIES_BURST
from limner.http.auth.passwords import hash_password
from limner.storage.sql.accounts import ApiKey, SignInLink, User
from limner.storage.sql.action_links import ActionLink
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.identities import Identity
from limner.storage.sql.jobs import Job
from limner.storage.sql.mailbox import MailboxMail
from limner.storage.sql.messaging import OutboxRow
from limner.storage.sql.notifications import Notification
from limner.storage.sql.providers import Provider
from limner.storage.sql.recovery_codes import RecoveryCode
from limner.storage.sql.sessions import Session
from limner.storage.sql.suppressions import Suppression
from tests.fakes.front import PROVIDER, Stage, problem, staged
from tests.fakes.nasty_strings import NASTY_STRINGS

PASSWORD = "a heron at the window"
FIELDS = {
    *("id", "email", "name", "role", "plan", "language", "timezone", "verified", "has_password"),
    *("totp_enabled", "avatar_url", "defaults", "scopes", "created_at", "last_sign_in_at"),
}


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


@pytest.fixture
async def user(stage: Stage) -> User:
    """Give an account with a password."""
    made = await stage.user()
    await User.filter(id=made.id).update(password_hash=await hash_password(PASSWORD))
    return await User.get(id=made.id)


async def provider(stage: Stage, name: str, media: str) -> None:
    config = {key: one for key, one in PROVIDER.items() if key not in {"name", "kind"}}
    await stage.add(
        Provider(id=new_id("provider"), state="active", name=name, media=media, config=config)
    )


# Shown


async def test_everybody_sees_their_own_account_and_no_secret(stage: Stage, user: User) -> None:
    client = await stage.signed_in(user)
    answer = await client.get("/api/me")
    found = await answer.json()
    assert set(found) == FIELDS
    assert (found["id"], found["email"], found["role"]) == (user.id, user.email, "user")
    assert (found["has_password"], found["totp_enabled"], found["verified"]) == (True, False, False)
    assert found["last_sign_in_at"] == "2026-11-22T12:00:00Z"
    assert "argon2" not in await answer.text()
    assert (await (await stage.client()).get("/api/me")).status == 401


async def test_a_key_sees_the_account_and_what_it_may_do_itself(stage: Stage) -> None:
    client = await stage.client(await stage.key("tasks:read"))
    found = await (await client.get("/api/me")).json()
    assert (found["id"], found["scopes"]) == (stage.owner.id, ["tasks:read"])
    assert (await client.patch("/api/me", json={"name": "x"})).status == 403


async def test_the_tag_changes_with_the_account_and_with_what_may_be_done(
    stage: Stage, user: User
) -> None:
    client = await stage.bearer(user)
    tag = (await client.get("/api/me")).headers["ETag"]
    seen = {"If-None-Match": tag}
    assert (await client.get("/api/me", headers=seen)).status == 304
    narrow = await stage.client(await stage.key("account:read", user=user))
    assert (await narrow.get("/api/me", headers=seen)).status == 200
    await client.patch("/api/me", json={"name": "Anna"})
    assert (await client.get("/api/me", headers=seen)).status == 200


# Changed


async def test_name_language_and_time_zone_are_changed_and_audited(
    stage: Stage, user: User
) -> None:
    client = await stage.bearer(user)
    body = {"name": "Anna Ö.", "language": "ru", "timezone": "Europe/Berlin"}
    answer = await client.patch("/api/me", json=body)
    assert answer.status == 200
    assert body.items() <= (await answer.json()).items()
    line = await AuditLine.get(event="user.changed")
    assert (line.actor, line.data) == (user.id, {"fields": ["language", "name", "timezone"]})
    same = await client.patch("/api/me", json={"name": None})
    assert (await same.json())["name"] == "Anna Ö."
    assert await AuditLine.filter(event="user.changed").count() == 1


@pytest.mark.parametrize(
    "body",
    [
        {"role": "admin"},
        {"plan": "pro"},
        {"credits": 1_000_000_000},
        {"email": "b@x.test"},
        {"verified": True},
        {"is_owner": True},
        {"id": "user_1"},
        {"state": "active"},
        {"password_hash": "x"},
        {"totp_enabled": False},
        {"defaults": {"poll_interval_s": 5}},
        {"language": "xx"},
        {"language": "EN"},
        {"timezone": "Mars/Base"},
        {"timezone": "../../etc/passwd"},
        {"timezone": "/etc/localtime"},
        {"timezone": ""},
        {"name": "x" * 201},
        {"name": 5},
    ],
    ids=json.dumps,
)
async def test_what_is_not_ones_own_to_choose_is_refused(
    stage: Stage, user: User, body: dict[str, Any]
) -> None:
    client = await stage.bearer(user)
    before = await User.get(id=user.id)
    answer = await client.patch("/api/me", json=body)
    assert answer.status == 422, await answer.text()
    assert (await problem(answer))["errors"]
    assert (await User.get(id=user.id)).version == before.version
    assert not await AuditLine.exists(event="user.changed")


async def test_every_name_comes_back_as_it_was_or_is_refused(stage: Stage, user: User) -> None:
    client = await stage.bearer(user)
    stored = 0
    for name in NASTY_STRINGS:
        answer = await client.patch("/api/me", json={"name": name})
        assert answer.status in {200, 422}, name
        if answer.status == 200:
            stored += 1
            assert (await answer.json())["name"] == name
            assert (await User.get(id=user.id)).name == name
    assert stored > len(NASTY_STRINGS) / 2


async def test_own_defaults_are_kept_merged_and_taken_back(stage: Stage, user: User) -> None:
    client = await stage.bearer(user)
    await provider(stage, "acme", "image")

    async def patched(**defaults: Any) -> Any:
        answer = await client.patch("/api/me", json={"defaults": defaults})
        assert answer.status == 200, await answer.text()
        return (await answer.json())["defaults"]

    assert await patched(image_provider="acme") == {"image_provider": "acme"}
    both = {"image_provider": "acme", "keywords": ["zeichne"]}
    assert await patched(keywords=["zeichne"]) == both
    assert await patched(image_provider=None) == {"keywords": ["zeichne"]}
    assert await patched() == {"keywords": ["zeichne"]}
    assert await patched(video_provider="local", confidence_threshold=0.5) == {
        "keywords": ["zeichne"],
        "video_provider": "local",
        "confidence_threshold": 0.5,
    }


@pytest.mark.parametrize(
    ("defaults", "pointer"),
    [
        ({"image_provider": "nobody"}, "/defaults/image_provider"),
        ({"video_provider": "acme"}, "/defaults/video_provider"),
        ({"keywords": []}, "/defaults/keywords"),
        ({"keywords": ["x" * 65]}, "/defaults/keywords/0"),
        ({"confidence_threshold": 1.5}, "/defaults/confidence_threshold"),
        ({"llm_timeout_s": 1}, "/defaults/llm_timeout_s"),
    ],
)
async def test_own_defaults_have_the_bounds_of_the_settings(
    stage: Stage, user: User, defaults: dict[str, Any], pointer: str
) -> None:
    await provider(stage, "acme", "image")
    client = await stage.bearer(user)
    found = await problem(await client.patch("/api/me", json={"defaults": defaults}))
    assert pointer in [fault["pointer"] for fault in found["errors"]]


async def test_of_two_changes_of_the_defaults_at_once_none_is_lost(
    stage: Stage, user: User
) -> None:
    client = await stage.bearer(user)
    wanted: list[dict[str, Any]] = [{"keywords": ["zeichne"]}, {"confidence_threshold": 0.25}]
    answers = await asyncio.gather(
        *(client.patch("/api/me", json={"defaults": one}) for one in wanted)
    )
    kept: dict[str, Any] = {}
    for answer, one in zip(answers, wanted, strict=True):
        assert answer.status in {200, 409}
        kept |= one if answer.status == 200 else {}
    assert kept
    assert (await User.get(id=user.id)).defaults == kept


# Deleted


async def fill(stage: Stage, user: User) -> None:
    """Give an account everything that belongs to one."""
    now = stage.clock.now()
    await stage.key("tasks:read", user=user)
    await stage.link(user)
    await stage.add(
        ActionLink(
            id=new_id("link"),
            user_id=user.id,
            purpose=ActionLink.RESET,
            email=user.email or "",
            created_at=now,
            expires_at=now + timedelta(hours=1),
        ),
        Identity(
            id=new_id("identity"),
            user_id=user.id,
            provider="github",
            issuer="https://github.com",
            subject=user.id,
            email=user.email or "",
            created_at=now,
        ),
        RecoveryCode(id=new_id("recovery"), user_id=user.id, sha256="0" * 64, created_at=now),
        Notification(
            id=new_id("notification"), user_id=user.id, kind="key.created", created_at=now
        ),
    )


async def test_a_deleted_account_leaves_a_tombstone_that_names_nobody(
    stage: Stage, user: User
) -> None:
    await fill(stage, user)
    await User.filter(id=user.id).update(name="Anna", timezone="Europe/Berlin", totp_sealed=b"x")
    client = await stage.signed_in(user)
    answer = await client.delete("/api/me", json={"password": PASSWORD})
    assert answer.status == 204, await answer.text()
    left = await User.get(id=user.id)
    assert (left.state, left.email, left.name, left.timezone) == ("deleted", None, "", "UTC")
    assert (left.password_hash, left.totp_sealed, left.verified_at) == (None, None, None)
    for model in (ActionLink, SignInLink, Identity, RecoveryCode, Notification):
        assert not await model.filter(user_id=user.id).exists(), model
    key = await ApiKey.get(user_id=user.id)
    assert key.revoked_at is not None
    assert key.name == ""
    assert (await Session.get(user_id=user.id)).revoked_because == "own_wish"
    assert (await client.get("/api/me")).status == 401
    line = await AuditLine.get(event="user.deleted")
    assert (line.subject, line.data) == (user.id, {"because": "own_wish"})
    command = await OutboxRow.get(topic="sweeper.erase")
    assert json.loads(bytes(command.body))["user_id"] == user.id


async def test_the_cookie_is_taken_back_with_the_account(stage: Stage, user: User) -> None:
    client = await stage.signed_in(user)
    answer = await client.delete("/api/me", json={"password": PASSWORD})
    assert "limner_session" in answer.cookies
    assert answer.cookies["limner_session"].value == ""


async def test_without_the_password_an_account_stays(stage: Stage, user: User) -> None:
    client = await stage.signed_in(user)
    missing = await problem(await client.delete("/api/me"))
    assert (missing["status"], missing["errors"][0]["pointer"]) == (422, "/password")
    wrong = await problem(await client.delete("/api/me", json={"password": "not it"}))
    assert (wrong["status"], wrong["code"]) == (403, "password_wrong")
    assert (await User.get(id=user.id)).state == "active"


async def test_passwords_cannot_be_guessed_here(stage: Stage, user: User) -> None:
    client = await stage.bearer(user)
    for _ in range(TRIES_BURST):
        assert (await client.delete("/api/me", json={"password": "not it"})).status == 403
    answer = await client.delete("/api/me", json={"password": PASSWORD})
    assert answer.status == 429
    assert int(answer.headers["Retry-After"]) >= 1
    assert (await User.get(id=user.id)).state == "active"


async def test_a_cache_that_is_away_stops_nobody(
    stage: Stage, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await stage.bearer(user)

    async def away(*_: Any) -> None:
        raise EngineUnavailable("away")

    monkeypatch.setattr(stage.front.cache, "take", away)
    assert (await client.post("/api/me/export")).status == 200
    assert (await client.delete("/api/me", json={"password": PASSWORD})).status == 204


async def test_without_a_password_the_sign_in_must_be_fresh(stage: Stage) -> None:
    user = await stage.user()
    client, script = await stage.signed_in(user), await stage.key("account:write", user=user)
    stage.clock.advance(RECENT_S + 1)
    for one in (client, await stage.client(script)):
        found = await problem(await one.delete("/api/me"))
        assert (found["status"], found["code"]) == (403, "sign_in_again")
    fresh = await stage.signed_in(user)
    stage.clock.advance(RECENT_S)
    assert (await fresh.delete("/api/me")).status == 204


async def test_the_last_administrator_cannot_leave(stage: Stage) -> None:
    client = await stage.signed_in()
    found = await problem(await client.delete("/api/me"))
    assert (found["status"], found["code"]) == (409, "last_admin")
    assert (await client.get("/api/me")).status == 200
    await stage.user("admin")
    assert (await client.delete("/api/me")).status == 204


@pytest.mark.parametrize("by", ["own_wish", "administrator"])
async def test_a_deleted_account_has_its_address_forgotten_if_it_was_confirmed(
    stage: Stage, user: User, by: str
) -> None:
    claimed = await stage.user()
    await User.filter(id=user.id).update(verified_at=stage.clock.now())
    for one in (user, claimed):
        if by == "own_wish":
            deleted = await (await stage.signed_in(one)).delete(
                "/api/me", json={"password": PASSWORD} if one is user else {}
            )
        else:
            deleted = await (await stage.admin()).delete(f"/api/users/{one.id}")
        assert deleted.status == 204
    command = await OutboxRow.get(topic="sweeper.forget")
    said = json.loads(bytes(command.body))
    assert said == {"address": user.email, "until": "2026-11-22T12:00:00Z"}
    assert await OutboxRow.filter(topic="sweeper.erase").count() == 2


# Exported


async def mailed(stage: Stage, user: User) -> None:
    """Confirm an address, and store a mail to it, one to another, and a suppression."""
    now = stage.clock.now()
    await User.filter(id=user.id).update(verified_at=now)
    for recipient in ((user.email or "").upper(), "ben@example.com"):
        ident = new_id("mail")
        mail = MailboxMail(
            id=ident,
            message_id=f"<{ident}@x.test>",
            sender="limner@example.org",
            recipient=recipient,
            raw_key=f"mailbox/{ident}.eml",
            size_bytes=1,
            created_at=now,
        )
        await stage.add(mail)
    row = Suppression(id="s", address=user.email or "", reason="unsubscribed", created_at=now)
    await stage.add(row)


async def test_the_export_is_one_json_file_with_everything_and_no_secret(
    stage: Stage, user: User
) -> None:
    await fill(stage, user)
    other = await stage.task()
    task = await stage.task(user_id=user.id, prompt="a heron 😀 \u2028")
    await stage.add(
        Job(id=new_id("job"), state="queued", user_id=user.id, task_id=task.id, prompt="a heron")
    )
    await mailed(stage, user)
    client = await stage.signed_in(user)
    answer = await client.post("/api/me/export")
    assert answer.status == 200
    assert answer.content_type == "application/json"
    assert "attachment" in answer.headers["Content-Disposition"]
    text = await answer.text()
    found = json.loads(text)
    assert found["account"]["email"] == user.email
    assert found["account"]["recovery_codes_left"] == 1
    assert [one["id"] for one in found["tasks"]] == [task.id]
    assert found["tasks"][0]["email"] == "anna@example.com"
    counts = {name: len(rows) for name, rows in found.items() if isinstance(rows, list)}
    assert counts == {
        "sessions": 1,
        "api_keys": 1,
        "identities": 1,
        "links": 1,
        "notifications": 1,
        "sources": 0,
        "comments": 1,
        "tasks": 1,
        "jobs": 1,
        "timelines": 2,
        "deliveries": 0,
        "mailbox": 1,
        "suppressions": 1,
        "audit": counts["audit"],
    }
    assert counts["audit"] >= 2
    key = await ApiKey.get(user_id=user.id)
    for secret in ("argon2", key.sha256, "sha256", "totp_sealed", other.id):
        assert secret not in text
    assert await AuditLine.exists(event="user.exported", subject=user.id)


async def test_who_only_claims_an_address_is_not_told_what_was_sent_to_it(
    stage: Stage, user: User
) -> None:
    await mailed(stage, user)
    await User.filter(id=user.id).update(verified_at=None)
    client = await stage.signed_in(user)
    found = await (await client.post("/api/me/export")).json()
    assert found["mailbox"] == found["suppressions"] == []


async def test_an_export_is_read_in_batches(
    stage: Stage, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limner.storage.sql.reading.BATCH", 2)
    tasks = [await stage.task(user_id=user.id) for _ in range(5)]
    sizes = []
    whole = export_module._rows

    def counted(batch: Any) -> bytes:
        sizes.append(len(batch))
        return whole(batch)

    monkeypatch.setattr(export_module, "_rows", counted)
    client = await stage.bearer(user)
    found = json.loads(await (await client.post("/api/me/export")).text())
    assert {one["id"] for one in found["tasks"]} == {task.id for task in tasks}
    assert max(sizes) == 2


async def test_exports_are_few(stage: Stage, user: User) -> None:
    client = await stage.bearer(user)
    for _ in range(export_module.EXPORTS_BURST):
        assert (await client.post("/api/me/export")).status == 200
    assert (await client.post("/api/me/export")).status == 429


async def test_an_export_that_breaks_off_does_not_look_whole(
    stage: Stage, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> AsyncIterator[bytes]:
        yield b'{"exported_at": '
        raise EngineUnavailable("away")

    monkeypatch.setattr(export_module, "pieces", broken)
    client = await stage.bearer(user)
    answer = await client.post("/api/me/export")
    with pytest.raises(ClientPayloadError):
        await answer.read()

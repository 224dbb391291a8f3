"""The second factor: set up with proof, counted once, limited, and taken away with proof."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyotp
import pytest
from aiohttp.test_utils import TestClient, make_mocked_request

from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable
from limner.core.unit import Commit
from limner.http.api import totp
from limner.http.auth.callers import Caller
from limner.http.auth.confirmation import confirm_identity
from limner.http.auth.passwords import hash_password
from limner.http.auth.second_factor import TRIES_BURST, check_code
from limner.http.call import Call
from limner.storage.sql.accounts import User
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.messaging import OutboxRow
from limner.storage.sql.notifications import Notification
from limner.storage.sql.recovery_codes import CODES, RecoveryCode, drop_second_factor
from tests.fakes.front import Stage, problem, staged

PASSWORD = "a heron at the window"
STEP_S = 30

Client = TestClient[Any, Any]


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


@pytest.fixture
async def client(stage: Stage, user: User) -> Client:
    """Give a browser of the account."""
    return await stage.signed_in(user)


def code(stage: Stage, secret: str, *, steps: int = 0) -> str:
    """Give the code of an authenticator whose clock is so many steps off."""
    at = stage.clock.now() + timedelta(seconds=STEP_S * steps)
    return pyotp.TOTP(secret).at(at)


async def begun(client: Client) -> str:
    answer = await client.post("/api/me/totp", json={"password": PASSWORD})
    assert answer.status == 200, await answer.text()
    secret: str = (await answer.json())["secret"]
    return secret


async def confirmed(stage: Stage, client: Client) -> tuple[str, list[str]]:
    secret = await begun(client)
    answer = await client.post("/api/me/totp/confirm", json={"code": code(stage, secret)})
    assert answer.status == 200, await answer.text()
    return secret, (await answer.json())["recovery_codes"]


async def proven(client: Client, typed: str) -> int:
    """Give the status of asking for new recovery codes with a code."""
    body = {"password": PASSWORD, "code": typed}
    return (await client.post("/api/me/totp/recovery-codes", json=body)).status


async def test_a_secret_is_given_as_text_as_link_and_as_picture(
    stage: Stage, client: Client, user: User
) -> None:
    answer = await client.post("/api/me/totp", json={"password": PASSWORD})
    found = await answer.json()
    assert answer.headers["Cache-Control"] == "no-store"
    link = urlsplit(found["otpauth_url"])
    assert (link.scheme, link.netloc) == ("otpauth", "totp")
    assert parse_qs(link.query) == {"secret": [found["secret"]], "issuer": ["Limner"]}
    assert len(found["secret"]) == 32
    assert found["qr_svg"].startswith("<svg")
    assert found["qr_svg"].rstrip().endswith("</svg>")
    stored = await User.get(id=user.id)
    assert stored.totp_enabled_at is None
    assert stored.totp_sealed is not None
    assert found["secret"].encode() not in bytes(stored.totp_sealed)
    assert (await (await client.get("/api/me")).json())["totp_enabled"] is False


async def test_setting_up_needs_the_password(client: Client, user: User) -> None:
    for body, status in (({}, 422), ({"password": "not it"}, 403)):
        assert (await client.post("/api/me/totp", json=body)).status == status
    assert (await User.get(id=user.id)).totp_sealed is None


async def test_a_code_of_the_authenticator_puts_it_in_force(
    stage: Stage, client: Client, user: User
) -> None:
    secret = await begun(client)
    wrong = await problem(await client.post("/api/me/totp/confirm", json={"code": "000000"}))
    assert (wrong["status"], wrong["code"]) == (422, "totp_invalid")
    answer = await client.post("/api/me/totp/confirm", json={"code": code(stage, secret)})
    codes = (await answer.json())["recovery_codes"]
    assert answer.headers["Cache-Control"] == "no-store"
    assert len(set(codes)) == CODES
    assert all(len(one.replace("-", "")) == 24 for one in codes)
    hashes = [row.sha256 for row in await RecoveryCode.filter(user_id=user.id)]
    assert len(hashes) == CODES
    assert not any(one.replace("-", "") in "".join(hashes) for one in codes)
    assert (await (await client.get("/api/me")).json())["totp_enabled"] is True


async def test_every_change_is_audited_told_and_mailed(
    stage: Stage, client: Client, user: User
) -> None:
    _, codes = await confirmed(stage, client)
    assert await proven(client, codes[0]) == 200
    stage.clock.advance(1)
    renewed = await client.post(
        "/api/me/totp/recovery-codes", json={"password": PASSWORD, "code": codes[1]}
    )
    assert renewed.status == 422
    kinds = ["user.totp_enabled", "user.recovery_code_used", "user.recovery_codes_renewed"]
    for kind in kinds:
        assert await AuditLine.filter(event=kind, subject=user.id).count() == 1
        assert await Notification.filter(kind=kind, user_id=user.id).count() == 1
    mails = await OutboxRow.filter(topic="mailer.account")
    bodies = [json.loads(bytes(mail.body)) for mail in mails]
    assert [body["kind"] for body in bodies] == ["second-factor-changed"] * 2


async def test_begun_anew_the_former_secret_counts_no_more(stage: Stage, client: Client) -> None:
    first, second = await begun(client), await begun(client)
    body = {"code": code(stage, first)}
    assert (await client.post("/api/me/totp/confirm", json=body)).status == 422
    body = {"code": code(stage, second)}
    assert (await client.post("/api/me/totp/confirm", json=body)).status == 200


async def test_it_is_set_up_once_and_confirmed_once(stage: Stage, client: Client) -> None:
    missing = await problem(await client.post("/api/me/totp/confirm", json={"code": "123456"}))
    assert (missing["status"], missing["code"]) == (409, "totp_not_begun")
    secret, _ = await confirmed(stage, client)
    assert (await client.post("/api/me/totp", json={"password": PASSWORD})).status == 409
    body = {"code": code(stage, secret, steps=1)}
    assert (await client.post("/api/me/totp/confirm", json=body)).status == 409


async def test_a_code_counts_once_and_one_step_around(stage: Stage, client: Client) -> None:
    secret, _ = await confirmed(stage, client)
    # The step that confirmed has counted.
    assert await proven(client, code(stage, secret)) == 422
    stage.clock.advance(10 * STEP_S)
    assert await proven(client, code(stage, secret, steps=2)) == 422
    assert await proven(client, code(stage, secret, steps=-2)) == 422
    assert await proven(client, code(stage, secret, steps=-1)) == 200
    assert await proven(client, f" {code(stage, secret)[:3]} {code(stage, secret)[3:]}") == 200
    # An earlier step does not count after a later one.
    assert await proven(client, code(stage, secret, steps=-1)) == 422
    assert await proven(client, code(stage, secret, steps=1)) == 200


@pytest.mark.parametrize(
    "typed", ["12345", "1234567", "abcdef", "１２３４５６", "-12345", "0" * 64]
)
async def test_what_is_no_code_does_not_count(stage: Stage, client: Client, typed: str) -> None:
    await confirmed(stage, client)
    assert await proven(client, typed) == 422


async def test_a_recovery_code_signs_once_however_it_is_typed(
    stage: Stage, client: Client, user: User
) -> None:
    secret, codes = await confirmed(stage, client)
    stage.clock.advance(STEP_S)
    body = {"password": PASSWORD, "code": codes[3].upper().replace("-", " ")}
    renewed = await client.post("/api/me/totp/recovery-codes", json=body)
    assert renewed.status == 200
    fresh = (await renewed.json())["recovery_codes"]
    # New ones replace the old ones, used or not.
    assert await proven(client, codes[4]) == 422
    assert set(fresh).isdisjoint(codes)
    assert await RecoveryCode.filter(user_id=user.id).count() == CODES
    assert await proven(client, code(stage, secret)) == 200


async def test_codes_cannot_be_guessed(stage: Stage, client: Client) -> None:
    secret, _ = await confirmed(stage, client)
    stage.clock.advance(STEP_S)
    # Confirming was a try, too.
    statuses = [await proven(client, "000000") for _ in range(TRIES_BURST)]
    assert statuses.count(422) >= TRIES_BURST - 1
    assert await proven(client, code(stage, secret)) == 429
    stage.clock.advance(60)
    assert await proven(client, code(stage, secret)) == 200


async def test_a_cache_that_is_away_stops_no_owner_and_lets_nobody_guess_for_ever(
    stage: Stage, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, _ = await confirmed(stage, client)
    stage.clock.advance(STEP_S)

    async def away(*_: Any) -> None:
        raise EngineUnavailable("away")

    monkeypatch.setattr(stage.front.cache, "take", away)
    assert await proven(client, code(stage, secret)) == 200
    statuses = [await proven(client, "000000") for _ in range(2 * TRIES_BURST)]
    assert statuses.count(422) < TRIES_BURST, "the process counts by itself"
    assert statuses[-1] == 429


async def test_it_is_taken_away_with_password_and_code(
    stage: Stage, client: Client, user: User
) -> None:
    secret, _ = await confirmed(stage, client)
    stage.clock.advance(STEP_S)
    good = code(stage, secret)
    for body, status in (
        ({"password": PASSWORD, "code": "000000"}, 422),
        ({"password": "not it", "code": good}, 403),
        ({"code": good}, 422),
        ({"password": PASSWORD}, 422),
    ):
        assert (await client.delete("/api/me/totp", json=body)).status == status, body
    answer = await client.delete("/api/me/totp", json={"password": PASSWORD, "code": good})
    assert answer.status == 204, await answer.text()
    left = await User.get(id=user.id)
    assert (left.totp_sealed, left.totp_enabled_at, left.totp_last_step) == (None, None, 0)
    assert not await RecoveryCode.filter(user_id=user.id).exists()
    assert await AuditLine.exists(event="user.totp_disabled")
    again = await client.delete("/api/me/totp", json={"password": PASSWORD, "code": good})
    assert again.status == 409


def call_of(stage: Stage) -> Call:
    """Give a call that comes by no route."""
    request = make_mocked_request("POST", "/", app=stage.server.app)
    return Call(request, stage.front, Caller())


async def test_of_two_uses_of_one_code_at_once_one_counts(
    stage: Stage, client: Client, user: User
) -> None:
    secret, codes = await confirmed(stage, client)
    stage.clock.advance(STEP_S)
    call = call_of(stage)
    for typed in (code(stage, secret), codes[0]):
        row = await User.get(id=user.id)
        works = [stage.work(), stage.work()]
        assert [await check_code(call, work, row, typed) for work in works] == [True, True]
        outcomes = [await stage.front.units.commit(work) for work in works]
        assert sorted(outcomes) == [Commit.DONE, Commit.STALE]
        assert await AuditLine.filter(event="user.recovery_code_used").count() <= 1


async def test_an_account_without_a_second_factor_has_no_code(stage: Stage, user: User) -> None:
    call = call_of(stage)
    assert await check_code(call, stage.work(), user, "123456") is False


async def test_a_secret_of_another_account_opens_nothing(
    stage: Stage, client: Client, user: User
) -> None:
    secret, _ = await confirmed(stage, client)
    other = await stage.user()
    stolen = await User.get(id=user.id)
    await User.filter(id=other.id).update(
        totp_sealed=stolen.totp_sealed,
        totp_enabled_at=stolen.totp_enabled_at,
        password_hash=stolen.password_hash,
    )
    stage.clock.advance(STEP_S)
    theirs = await stage.signed_in(other)
    assert await proven(theirs, code(stage, secret)) == 503


@pytest.mark.parametrize("asked", ["begin", "renew", "remove"])
async def test_an_account_that_is_deleted_meanwhile_gets_no_second_factor_again(
    stage: Stage, client: Client, user: User, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    secret = "" if asked == "begin" else (await confirmed(stage, client))[0]

    async def deleting(*given: Any) -> None:
        await confirm_identity(*given)
        admin = await stage.admin()
        assert (await admin.delete(f"/api/users/{user.id}")).status == 204

    monkeypatch.setattr(totp, "confirm_identity", deleting)
    stage.clock.advance(STEP_S)
    body = {"password": PASSWORD} | ({"code": code(stage, secret)} if secret else {})
    if asked == "remove":
        answer = await client.delete("/api/me/totp", json=body)
    else:
        path = "/api/me/totp" if asked == "begin" else "/api/me/totp/recovery-codes"
        answer = await client.post(path, json=body)
    assert answer.status == 409
    left = await User.get(id=user.id)
    assert (left.state, left.totp_sealed, left.totp_last_step) == ("deleted", None, 0)
    assert not await RecoveryCode.filter(user_id=user.id).exists()


@pytest.mark.parametrize(
    ("state", "ended"),
    [("active", Commit.DONE), ("disabled", Commit.DONE), ("deleted", Commit.STALE)],
)
async def test_a_second_factor_is_taken_away_unless_the_account_is_gone(
    stage: Stage, client: Client, user: User, state: str, ended: Commit
) -> None:
    await confirmed(stage, client)
    seen = await User.get(id=user.id)
    await User.filter(id=user.id).update(state=state)
    work = stage.work()
    drop_second_factor(work, seen)
    assert await stage.front.units.commit(work) is ended
    left = await User.get(id=user.id)
    assert left.totp_enabled is (ended is Commit.STALE)

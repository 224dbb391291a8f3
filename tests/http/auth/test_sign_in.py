"""Signing in with a password: one answer for whoever is not let in, and the work behind it."""

import asyncio
import math
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import bcrypt
import pyotp
import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, make_mocked_request

from limner.core.clock import HeldClock
from limner.core.errors import Busy, Unauthenticated
from limner.core.ids import new_id
from limner.http.auth import passwords
from limner.http.auth.callers import Caller
from limner.http.auth.passwords import hash_password
from limner.http.auth.second_factor import sealed_name
from limner.http.auth.sign_in import right_password, second_step
from limner.http.call import Call
from limner.storage.sql.accounts import User
from limner.storage.sql.sessions import Session
from tests.fakes.front import Stage, problem, staged
from tests.fakes.nasty_strings import NASTY_STRINGS

ANNA = "anna@example.org"
GOOD = "correct horse battery"
TRIES = 200

Client = TestClient[Any, Any]


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        await opened.settings(
            login_limit_per_account_per_min=100_000, login_limit_per_address_per_min=100_000
        )
        yield opened


async def account(stage: Stage, email: str = ANNA, **fields: Any) -> User:
    """Store a verified account with a password."""
    ident = new_id("user")
    user = User(
        **{
            "id": ident,
            "user_id": ident,
            "state": "active",
            "email": email,
            "verified_at": stage.clock.now(),
            "password_hash": await hash_password(GOOD),
            **fields,
        }
    )
    await stage.add(user)
    return user


async def log_in(client: Client, email: str = ANNA, password: str = GOOD, **more: Any) -> Any:
    return await client.post("/api/auth/login", json={"email": email, "password": password, **more})


async def code(answer: ClientResponse) -> tuple[int, str]:
    return answer.status, (await problem(answer))["code"]


async def test_the_right_password_gives_a_pair_of_tokens(stage: Stage) -> None:
    user = await account(stage)
    answer = await log_in(await stage.client())
    pair = await answer.json()
    assert (answer.status, pair["token_type"]) == (200, "Bearer")
    assert answer.headers["Cache-Control"] == "no-store"
    client = await stage.client(pair["access_token"])
    assert (await client.get("/api/tasks")).status == 200
    assert (await User.get(id=user.id)).last_sign_in_at == stage.clock.now()


async def test_whatever_is_wrong_the_answer_is_the_same(stage: Stage) -> None:
    await account(stage)
    await account(stage, "disabled@example.org", state="disabled")
    await account(stage, "none@example.org", password_hash=None)
    await account(stage, "broken@example.org", password_hash="broken")
    client = await stage.client()
    said = set()
    for email, password in (
        (ANNA, "not this one"),
        (ANNA, ""),
        ("nobody@example.org", GOOD),
        ("disabled@example.org", GOOD),
        ("none@example.org", GOOD),
        ("none@example.org", ""),
        ("broken@example.org", GOOD),
        ("no address", GOOD),
        ("", GOOD),
    ):
        answer = await log_in(client, email, password)
        body = await problem(answer)
        del body["request_id"]
        headers = sorted(set(answer.headers) - {"RateLimit"})
        said.add((answer.status, str(body), *headers))
    ((status, body_text, *_),) = said
    assert status == 401
    assert "invalid_credentials" in body_text


async def test_an_address_that_is_not_confirmed_opens_nothing_and_says_nothing(
    stage: Stage,
) -> None:
    user = await account(stage, verified_at=None)
    client = await stage.client()
    said = [
        await (await log_in(client, email, password)).json()
        for email in (ANNA, "nobody@example.org")
        for password in (GOOD, "wrong one")
    ]
    assert {(one["code"], one["detail"]) for one in said} == {
        (
            "invalid_credentials",
            "the address or the password is wrong, or the address is not confirmed yet",
        )
    }
    assert not await Session.exists(user_id=user.id)


async def test_a_second_factor_is_asked_for_after_the_password_and_each_code_counts_once(
    stage: Stage,
) -> None:
    secret, user_id = pyotp.random_base32(), new_id("user")
    unsaved = User(id=user_id)
    sealed = stage.front.sealer.seal(sealed_name(unsaved), secret.encode())
    await account(
        stage,
        id=user_id,
        user_id=user_id,
        totp_sealed=sealed,
        totp_enabled_at=stage.clock.now(),
    )
    now = pyotp.TOTP(secret).at(stage.clock.now())
    client = await stage.client()
    assert await code(await log_in(client, password="wrong one", totp=now)) == (
        401,
        "invalid_credentials",
    )
    assert await code(await log_in(client)) == (401, "totp_required")
    assert await code(await log_in(client, totp="")) == (401, "totp_required")
    assert await code(await log_in(client, totp="000000")) == (401, "totp_invalid")
    answers = await asyncio.gather(*(log_in(client, totp=now) for _ in range(3)))
    assert sorted(answer.status for answer in answers) == [200, 401, 401]
    assert await code(await log_in(client, totp=now)) == (401, "totp_invalid")


async def test_an_account_without_a_second_factor_needs_no_second_step(stage: Stage) -> None:
    user = await account(stage)
    request = make_mocked_request("POST", "/", app=stage.server.app)
    call = Call(request, stage.front, Caller())
    assert await second_step(call, user, "") is user
    assert await second_step(call, user) is user


async def test_the_right_password_alone_asks_for_no_code_and_wrong_ones_read_the_same(
    stage: Stage,
) -> None:
    sealed = stage.front.sealer.seal("totp:x", b"A")
    user = await account(stage, totp_sealed=sealed, totp_enabled_at=stage.clock.now())
    call = Call(make_mocked_request("POST", "/", app=stage.server.app), stage.front, Caller())
    assert (await right_password(call, ANNA, GOOD)).id == user.id
    with pytest.raises(Unauthenticated) as caught:
        await second_step(call, user)
    assert caught.value.code == "totp_required"
    for email, password in ((ANNA, "wrong"), ("nobody@example.org", GOOD)):
        with pytest.raises(Unauthenticated) as caught:
            await right_password(call, email, password)
        assert caught.value.code == "invalid_credentials"


async def test_a_hash_of_another_system_is_replaced_at_the_first_sign_in(stage: Stage) -> None:
    old = bcrypt.hashpw(GOOD.encode(), bcrypt.gensalt(4)).decode()
    user = await account(stage, password_hash=old)
    client = await stage.client()
    assert (await log_in(client, password="wrong one")).status == 401
    assert (await User.get(id=user.id)).password_hash == old
    answers = await asyncio.gather(*(log_in(client) for _ in range(3)))
    assert [answer.status for answer in answers] == [200, 200, 200]
    stored = (await User.get(id=user.id)).password_hash
    assert stored is not None
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert (await log_in(client)).status == 200


async def test_a_password_that_is_changed_while_its_hash_is_replaced_opens_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = bcrypt.hashpw(GOOD.encode(), bcrypt.gensalt(4)).decode()
    user = await account(stage, password_hash=old)
    changed = await hash_password("another horse entirely")
    verify, seen = passwords.verify, []

    async def overtaken(stored: str | None, password: str) -> passwords.Verdict:
        verdict = await verify(stored, password)
        seen.append(verdict.ok)
        if len(seen) == 1:
            work = stage.work()
            work.change(user, password_hash=changed)
            await stage.front.units.commit(work)
        return verdict

    monkeypatch.setattr(passwords, "verify", overtaken)
    assert await code(await log_in(await stage.client())) == (401, "invalid_credentials")
    assert seen == [True, False]
    assert (await User.get(id=user.id)).password_hash == changed


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"email": ANNA},
        {"email": ANNA, "password": 7},
        {"email": ANNA, "password": GOOD, "remember": True},
        {"email": "a" * 321, "password": GOOD},
        {"email": ANNA, "password": "x" * 1025},
        {"email": ANNA, "password": GOOD, "totp": "1" * 65},
    ],
)
async def test_a_body_that_does_not_fit_is_a_fault(stage: Stage, body: dict[str, Any]) -> None:
    answer = await (await stage.client()).post("/api/auth/login", json=body)
    assert answer.status == 422
    assert (await problem(answer))["errors"]


async def test_text_that_breaks_programs_is_only_a_wrong_credential(stage: Stage) -> None:
    client = await stage.client()
    for text in NASTY_STRINGS[::3]:
        answer = await log_in(client, text[:320], text[:1024], totp=text[:64])
        assert await code(answer) == (401, "invalid_credentials"), text


async def test_where_too_many_passwords_wait_a_sign_in_is_told_when_to_come_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> object:
        raise Busy("too many passwords are being checked", retry_after_s=1.0)

    monkeypatch.setattr(passwords.Threads, "run", full)
    answer = await log_in(await stage.client())
    assert answer.status == 503
    assert answer.headers["Retry-After"] == "1"


def mann_whitney_p(one: list[float], other: list[float]) -> float:
    """Give the two-sided p of the Mann-Whitney U test, by its normal approximation.

    Ties are rare among times and get their order's rank.
    """
    ranked = sorted([(value, 0) for value in one] + [(value, 1) for value in other])
    ranks = sum(place for place, (_, whose) in enumerate(ranked, 1) if whose == 0)
    n, m = len(one), len(other)
    u = ranks - n * (n + 1) / 2
    z = (u - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
    return math.erfc(abs(z) / math.sqrt(2))


def test_the_test_of_ranks_tells_shifted_samples_from_equal_ones() -> None:
    even = [float(n) for n in range(0, 400, 2)]
    odd = [float(n) for n in range(1, 401, 2)]
    assert mann_whitney_p(even, odd) > 0.5
    assert mann_whitney_p(even, [value + 60 for value in odd]) < 0.01
    assert mann_whitney_p([1.0, 2.0, 3.0], [1.5, 2.5, 3.5]) == pytest.approx(0.5127, abs=1e-3)


@pytest.mark.timeout(400)
async def test_an_unknown_address_costs_what_a_known_one_does(stage: Stage) -> None:
    """Counted is this process's time on the processor, which other programs do not stretch."""
    await account(stage)
    client = await stage.client()
    spent: dict[str, list[float]] = {ANNA: [], "nobody@example.org": []}
    for _ in range(5):
        await log_in(client, password="not this one")
    for _ in range(TRIES):
        for email, times in spent.items():
            begun = time.process_time()
            answer = await log_in(client, email, "not this one")
            await answer.read()
            times.append(time.process_time() - begun)
            assert answer.status == 401
    known, unknown = spent.values()
    middle = statistics.median(known)
    difference = abs(middle - statistics.median(unknown)) / middle
    p = mann_whitney_p(known, unknown)
    print(f"known {middle:.4f} s, difference {difference:.2%}, p {p:.3f}")
    assert middle > 0.01, "no slow hash was computed"
    assert difference < 0.05
    assert p > 0.01 or difference < 0.01

"""Nobody learns by an answer whether an address has an account (ASVS 5.0, 6.3.8).

The time that an answer takes is compared in ``tests/http/auth/test_sign_in.py``.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient

from limner.core.clock import HeldClock
from limner.http.auth import csrf
from limner.http.auth.passwords import hash_password
from limner.http.table import ROUTES
from limner.storage.sql.accounts import User
from limner.storage.sql.identities import Identity
from tests.fakes.front import Stage, staged
from tests.fakes.pages import csrf_token

Client = TestClient[Any, Any]
GOOD = "a heron at the window"
PAGE = {"Accept": "text/html"}
WHO = ("known", "plain", "doubt", "ended", "clean", "nobod")
"""Accounts as they can be, and nobody; names of one length, so that lengths say nothing."""
PROGRAMS: dict[str, dict[str, Any]] = {
    "/api/auth/login": {"password": "not the password"},
    "/api/auth/register": {"password": GOOD + " 2", "name": "X"},
    "/api/auth/verify-email/resend": {},
    "/api/auth/password/forgot": {},
}
FORMS: dict[str, dict[str, str]] = {
    "/login": {"password": "not the password"},
    "/register": {"password": GOOD + " 2", "name": "X"},
    "/verify-email/resend": {},
    "/reset-password": {},
}
SIGNED_IN = {
    "/api/auth/email/change": {"password": GOOD},
    "/account/security/email": {"password": GOOD},
}
# Who sends an address here may see all accounts anyway.
ADMINISTRATORS = {"POST /api/users", "POST /api/erasure", "POST /api/tasks/{id}/approve"}
VARYING = {"ratelimit", "x-request-id", "date"}


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        await opened.settings(login_limit_per_address_per_min=10_000)
        hashed = await hash_password(GOOD)
        for who, state, verified, password in [
            ("known", "active", True, hashed),
            ("plain", "active", True, None),
            ("doubt", "active", False, hashed),
            ("ended", "disabled", True, hashed),
        ]:
            ident = f"user_{who}"
            user = User(id=ident, user_id=ident, state=state, email=address_of(who), name="N")
            user.password_hash = password
            user.verified_at = clock.now() if verified else None
            await opened.add(user)
        await opened.add(
            Identity(
                id="identity_1",
                user_id="user_plain",
                provider="oidc",
                issuer="https://i.test",
                subject="s",
                email=address_of("plain"),
                created_at=clock.now(),
            )
        )
        yield opened


def address_of(who: str) -> str:
    return f"{who}@example.org"


async def said(answer: ClientResponse, who: str) -> tuple[Any, ...]:
    """Give all that an answer tells, without what differs by the request."""
    text = (await answer.text()).replace(answer.headers["X-Request-Id"], "REQUEST")
    headers = [one for one in answer.headers.items() if one[0].lower() not in VARYING]
    text = text.replace(address_of(who), "ADDRESS").replace(address_of(who).upper(), "ADDRESS")
    return answer.status, text, *sorted(headers)


def test_every_route_that_takes_an_address_is_in_a_table() -> None:
    taking = {
        f"{route.method} {route.path}"
        for route in ROUTES
        if route.body is not None and "email" in route.body.model_fields
    }
    ours = {f"POST {path}" for path in (*PROGRAMS, "/api/auth/email/change")}
    assert taking == ours | ADMINISTRATORS


@pytest.mark.parametrize("path", PROGRAMS)
async def test_a_program_is_told_the_same_for_every_address(stage: Stage, path: str) -> None:
    client = await stage.client()
    answers = set()
    for who in WHO:
        for email in (address_of(who), address_of(who).upper()):
            answer = await client.post(path, json={"email": email, **PROGRAMS[path]})
            answers.add(await said(answer, who))
    assert len(answers) == 1, answers


async def test_who_registers_an_address_learns_nothing_by_signing_in(stage: Stage) -> None:
    client = await stage.client()
    answers = set()
    for who in WHO:
        body = {"email": address_of(who), "password": GOOD + " 3"}
        assert (await client.post("/api/auth/register", json=body)).status == 201
        answers.add(await said(await client.post("/api/auth/login", json=body), who))
    assert len(answers) == 1, answers


@pytest.mark.parametrize("path", FORMS)
async def test_a_page_shows_the_same_for_every_address(stage: Stage, path: str) -> None:
    client = await stage.client()
    shown = await (await client.get("/login", headers=PAGE)).text()
    token = csrf_token(shown)
    answers = set()
    for who in WHO:
        data = {"email": address_of(who), csrf.FIELD: token, **FORMS[path]}
        answer = await client.post(path, data=data, headers=PAGE, allow_redirects=False)
        answers.add(await said(answer, who))
    assert len(answers) == 1, answers
    ((status, *_),) = answers
    assert status == (401 if path == "/login" else 303)


@pytest.mark.parametrize("path", SIGNED_IN)
async def test_who_is_signed_in_learns_nothing_of_another_address(stage: Stage, path: str) -> None:
    user = await User.get(id="user_known")
    client = await stage.signed_in(user)
    answers = set()
    for who in ("plain", "doubt", "ended", "nobod"):
        body = {"email": address_of(who), **SIGNED_IN[path]}
        sent: dict[str, Any] = {"json": body} if path.startswith("/api/") else {"data": body}
        answer = await client.post(path, headers=PAGE, allow_redirects=False, **sent)
        answers.add(await said(answer, who))
    assert len(answers) == 1, answers
    ((status, *_),) = answers
    assert status == (202 if path.startswith("/api/") else 303)


async def test_a_limit_is_reached_after_the_same_number_of_attempts(stage: Stage) -> None:
    client = await stage.client()
    counts = {}
    for who in ("known", "nobod", "ended"):
        body = {"email": address_of(who), "password": "not the password"}
        statuses = [(await client.post("/api/auth/login", json=body)).status for _ in range(12)]
        counts[who] = statuses
    assert len({tuple(one) for one in counts.values()}) == 1, counts
    assert set(counts["known"]) == {401, 429}


@pytest.mark.parametrize("role", ["user", "tutor"])
async def test_who_is_no_administrator_asks_for_no_accounts(stage: Stage, role: str) -> None:
    client = await stage.bearer(await stage.user(role))
    answers = set()
    for who in ("known", "nobod"):
        requests: list[tuple[str, str, dict[str, Any]]] = [
            ("GET", "/api/users", {"params": {"email": address_of(who)}}),
            ("POST", "/api/users", {"json": {"email": address_of(who)}}),
            ("POST", "/api/erasure", {"json": {"email": address_of(who)}}),
            ("GET", "/api/users/user_known", {}),
        ]
        for method, path, sent in requests:
            answer = await client.request(method, path, **sent)
            answers.add((path, *await said(answer, who)))
    assert {status for _, status, *_ in answers} == {403}
    assert len(answers) == 4, "one for each request, whoever it asks about"

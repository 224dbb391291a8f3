"""Who may call what: every route against every kind of caller, and a row for every route."""

from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from limner.core.clock import HeldClock
from limner.http.auth import csrf
from limner.http.routes import ANY, OPEN, Route
from limner.http.table import ROUTES
from limner.storage.sql.accounts import (
    ROLE_SCOPES,
    SCOPES,
    ApiKey,
    create_key,
    revoke_key,
)
from limner.storage.sql.sessions import revoke_sessions
from tests.fakes.front import Stage, staged

# What each route asks for. A new route without a row here fails the test below.
TABLE = {
    ("GET", "/sign-in/{token}"): OPEN,
    ("POST", "/api/auth/register"): OPEN,
    ("POST", "/api/auth/verify-email"): OPEN,
    ("POST", "/api/auth/verify-email/resend"): OPEN,
    ("POST", "/api/auth/login"): OPEN,
    ("POST", "/api/auth/password/forgot"): OPEN,
    ("POST", "/api/auth/password/reset"): OPEN,
    ("POST", "/api/auth/password/change"): "account:write",
    ("POST", "/api/auth/email/change"): "account:write",
    ("POST", "/api/auth/logout"): ANY,
    ("POST", "/api/auth/refresh"): OPEN,
    ("GET", "/.well-known/jwks.json"): OPEN,
    ("GET", "/api/sessions"): "account:read",
    ("DELETE", "/api/sessions"): "account:write",
    ("GET", "/api/sessions/{id}"): "account:read",
    ("DELETE", "/api/sessions/{id}"): "account:write",
    ("GET", "/api/keys"): "account:read",
    ("POST", "/api/keys"): "account:write",
    ("GET", "/api/keys/{id}"): "account:read",
    ("DELETE", "/api/keys/{id}"): "account:write",
    ("GET", "/api/me"): ANY,
    ("PATCH", "/api/me"): "account:write",
    ("DELETE", "/api/me"): "account:write",
    ("POST", "/api/me/export"): "account:read",
    ("PUT", "/api/me/avatar"): "account:write",
    ("DELETE", "/api/me/avatar"): "account:write",
    ("POST", "/api/me/totp"): "account:write",
    ("POST", "/api/me/totp/confirm"): "account:write",
    ("POST", "/api/me/totp/recovery-codes"): "account:write",
    ("DELETE", "/api/me/totp"): "account:write",
    ("GET", "/api/notifications"): "account:read",
    ("POST", "/api/notifications/read"): "account:write",
    ("POST", "/api/notifications/read-all"): "account:write",
    ("GET", "/api/users"): "users:read",
    ("POST", "/api/users"): "users:write",
    ("GET", "/api/users/{id}"): "users:read",
    ("PATCH", "/api/users/{id}"): "users:write",
    ("DELETE", "/api/users/{id}"): "users:write",
    ("POST", "/api/erasure"): "admin",
    ("GET", "/auth/{name}/login"): OPEN,
    ("GET", "/auth/{name}/callback"): OPEN,
    ("POST", "/auth/{name}/link"): "account:write",
    ("GET", "/api/identities"): "account:read",
    ("DELETE", "/api/identities/{id}"): "account:write",
    ("GET", "/api/sources"): "sources:read",
    ("POST", "/api/sources"): "sources:write",
    ("GET", "/api/sources/{id}"): "sources:read",
    ("PATCH", "/api/sources/{id}"): "sources:write",
    ("DELETE", "/api/sources/{id}"): "sources:write",
    ("POST", "/api/sources/{id}/poll"): "sources:write",
    ("GET", "/api/comments"): "sources:read",
    ("GET", "/api/comments/{id}"): "sources:read",
    ("GET", "/api/tasks"): "tasks:read",
    ("GET", "/api/tasks/{id}"): "tasks:read",
    ("POST", "/api/tasks/{id}/retry"): "tasks:write",
    ("POST", "/api/tasks/{id}/cancel"): "tasks:write",
    ("POST", "/api/tasks/{id}/approve"): "tasks:write",
    ("POST", "/api/tasks/{id}/reject"): "tasks:write",
    ("GET", "/api/tasks/{id}/stream"): "tasks:read",
    ("GET", "/api/generate/{id}/stream"): "generate:read",
    ("GET", "/api/stream"): ANY,
    ("POST", "/api/generate/image"): "generate:write",
    ("GET", "/api/generate"): "generate:read",
    ("GET", "/api/generate/{id}"): "generate:read",
    ("POST", "/api/generate/{id}/cancel"): "generate:write",
    ("DELETE", "/api/generate/{id}"): "generate:write",
    ("GET", "/api/models"): "generate:read",
    ("GET", "/api/deliveries"): "tasks:read",
    ("GET", "/api/deliveries/{id}"): "tasks:read",
    ("POST", "/api/deliveries/{id}/resend"): "tasks:write",
    ("POST", "/api/deliveries/{id}/resolve"): "tasks:write",
    ("POST", "/api/intent/test"): "tasks:write",
    ("GET", "/api/providers"): "providers:read",
    ("POST", "/api/providers"): "providers:write",
    ("GET", "/api/providers/{id}"): "providers:read",
    ("PATCH", "/api/providers/{id}"): "providers:write",
    ("DELETE", "/api/providers/{id}"): "providers:write",
    ("POST", "/api/providers/{id}/test"): "providers:write",
    ("POST", "/api/providers/{id}/callback/{signed}"): OPEN,
    ("GET", "/api/mailbox"): "mailbox:read",
    ("DELETE", "/api/mailbox"): "mailbox:write",
    ("GET", "/api/mailbox/{id}"): "mailbox:read",
    ("DELETE", "/api/mailbox/{id}"): "mailbox:write",
    ("GET", r"/api/mailbox/{id}/attachments/{n:\d{1,4}}"): OPEN,
    ("GET", "/api/mailbox/{id}/html"): "mailbox:read",
    ("GET", "/api/settings"): "settings:read",
    ("PUT", "/api/settings"): "settings:write",
    ("GET", "/api/settings/history"): "settings:read",
    ("POST", "/api/settings/revert"): "settings:write",
    ("GET", "/api/settings/secrets"): "settings:read",
    ("PUT", "/api/settings/secrets/{name}"): "settings:write",
    ("GET", "/api/audit"): "audit:read",
    ("GET", "/api/audit/export"): "audit:read",
    ("GET", "/api/suppressions"): "suppressions:read",
    ("POST", "/api/suppressions"): "suppressions:write",
    ("GET", "/api/suppressions/{id}"): "suppressions:read",
    ("DELETE", "/api/suppressions/{id}"): "suppressions:write",
    ("GET", "/api/ops/actors"): "ops:read",
    ("GET", "/api/ops/queues"): "ops:read",
    ("GET", "/api/ops/dead-letters"): "ops:read",
    ("POST", "/api/ops/dead-letters/retry-all"): "ops:write",
    ("GET", "/api/ops/dead-letters/{id}"): "ops:read",
    ("POST", "/api/ops/dead-letters/{id}/retry"): "ops:write",
    ("POST", "/api/ops/dead-letters/{id}/discard"): "ops:write",
    ("GET", "/livez"): OPEN,
    ("GET", "/readyz"): OPEN,
    ("GET", "/healthz"): "ops:read",
    ("GET", "/metrics"): "ops:read",
    ("GET", "/o/{key:.+}"): OPEN,
    ("PUT", "/o/{key:.+}"): OPEN,
    ("GET", "/openapi.json"): OPEN,
    ("GET", "/asyncapi.json"): OPEN,
    ("GET", "/"): OPEN,
    ("GET", "/register"): OPEN,
    ("POST", "/register"): OPEN,
    ("GET", "/check-mail"): OPEN,
    ("POST", "/verify-email/resend"): OPEN,
    ("GET", "/verify-email"): OPEN,
    ("POST", "/verify-email"): OPEN,
    ("GET", "/reset-password"): OPEN,
    ("POST", "/reset-password"): OPEN,
    ("GET", "/login"): OPEN,
    ("POST", "/login"): OPEN,
    ("POST", "/login/code"): OPEN,
    ("POST", "/logout"): OPEN,
    ("GET", "/account"): "account:read",
    ("POST", "/account"): "account:write",
    ("POST", "/account/defaults"): "account:write",
    ("GET", "/account/data"): "account:read",
    ("POST", "/account/data/export"): "account:read",
    ("POST", "/account/data/delete"): "account:write",
    ("GET", "/account/security"): "account:read",
    ("POST", "/account/security/password"): "account:write",
    ("POST", "/account/security/password-link"): "account:write",
    ("POST", "/account/security/email"): "account:write",
    ("POST", "/account/security/second-factor"): "account:write",
    ("POST", "/account/security/second-factor/confirm"): "account:write",
    ("POST", "/account/security/second-factor/codes"): "account:write",
    ("POST", "/account/security/second-factor/remove"): "account:write",
    ("POST", "/account/security/identities/{id}/remove"): "account:write",
    ("GET", "/account/sessions"): "account:read",
    ("POST", "/account/sessions/end-others"): "account:write",
    ("POST", "/account/sessions/{id}/end"): "account:write",
    ("GET", "/account/keys"): "account:read",
    ("POST", "/account/keys"): "account:write",
    ("POST", "/account/keys/{id}/revoke"): "account:write",
    ("GET", "/account/notifications"): "account:read",
    ("POST", "/account/notifications/read-all"): "account:write",
    ("POST", "/account/notifications/{id}/read"): "account:write",
    ("GET", "/tasks"): "tasks:read",
    ("GET", "/tasks/{id}"): "tasks:read",
    ("GET", "/mailbox"): "mailbox:read",
    ("GET", "/mailbox/{id}"): "mailbox:read",
    ("GET", "/docs"): OPEN,
    ("GET", "/r/{signed}"): OPEN,
    ("GET", "/unsubscribe/{signed}"): OPEN,
    ("POST", "/unsubscribe/{signed}"): OPEN,
    ("GET", "/static/{name}"): OPEN,
}
# Open routes whose own credential, a signature in the link, is missing here.
UNSIGNED = {
    ("GET", "/sign-in/{token}"): 401,
    ("GET", r"/api/mailbox/{id}/attachments/{n:\d{1,4}}"): 401,
    ("GET", "/o/{key:.+}"): 403,
    ("PUT", "/o/{key:.+}"): 403,
}
# Routes that also want a password or, for an account without one, a fresh sign-in.
PROVEN = {("DELETE", "/api/me"), ("POST", "/api/me/totp")}
USER_MAY = {"sources:read", "sources:write", "tasks:read", "tasks:write"}
REFUSALS = {401, 403}
Made = Callable[[], Coroutine[Any, Any, TestClient[Any, Any]]]


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


def name_of(route: Route) -> tuple[str, str]:
    return route.method, route.path


def path_of(route: Route) -> str:
    path = route.path.replace(r"{n:\d{1,4}}", "0").replace("{key:.+}", "a/b")
    for name in ("id", "token", "signed", "name"):
        path = path.replace(f"{{{name}}}", "none")
    return path


async def statuses(
    stage: Stage, key: str | None, *, cookie: bool = False, by: Made | None = None
) -> dict[str, int]:
    """Call every route once and give what came back; ``by`` makes each route's client."""
    found = {}
    for route in ROUTES:
        # A client of its own for each: signing out must not change the next caller.
        made = by() if by else stage.signed_in() if cookie else stage.client(key)
        client = await made
        body: dict[str, str] | None = (
            {} if route.reads_body and route.method not in {"GET", "DELETE"} else None
        )
        answer = await client.request(
            route.method, path_of(route), json=body, allow_redirects=False
        )
        found[f"{route.method} {route.path}"] = answer.status
        await client.session.close()
    return found


def assert_each(found: dict[str, int], expected: dict[str, set[int] | None]) -> None:
    """Compare; None stands for anything but a refusal."""
    wrong = {
        name: status
        for name, status in found.items()
        if (status in REFUSALS if expected[name] is None else status not in (expected[name] or ()))
    }
    assert not wrong


def test_every_route_has_a_row_and_every_row_a_route() -> None:
    assert {name_of(route): route.access for route in ROUTES} == TABLE
    assert len(ROUTES) == len(TABLE)


def expectation(refusal: int | None, scopes: set[str]) -> dict[str, set[int] | None]:
    """Say what a caller may expect who holds ``scopes`` and is refused with ``refusal``."""
    expected: dict[str, set[int] | None] = {}
    for (method, path), access in TABLE.items():
        name = f"{method} {path}"
        is_allowed = access == OPEN or access in scopes or (access == ANY and refusal != 401)
        expected[name] = None if is_allowed or refusal is None else {refusal}
        if (method, path) in PROVEN and expected[name] is None:
            expected[name] = {200, 204, 403, 409}
        if (method, path) in UNSIGNED:
            expected[name] = {401, 403, 404}
    return expected


async def test_nobody_gets_what_is_open_and_nothing_else(stage: Stage) -> None:
    found = await statuses(stage, None)
    assert_each(found, expectation(401, set()))
    for (method, path), status in UNSIGNED.items():
        assert found[f"{method} {path}"] == status


async def test_a_revoked_key_is_nobody(stage: Stage) -> None:
    key = await stage.key("admin")
    work = stage.work()
    revoke_key(work, await ApiKey.get())
    await stage.front.units.commit(work)
    assert_each(await statuses(stage, key), expectation(401, set()))


async def test_an_expired_key_is_nobody(stage: Stage) -> None:
    key = await stage.key("admin", expires_s=60)
    stage.clock.advance(60)
    assert_each(await statuses(stage, key), expectation(401, set()))


async def test_the_key_of_a_disabled_account_is_nobody(stage: Stage) -> None:
    user = await stage.user("admin", state="disabled")
    assert_each(await statuses(stage, await stage.key("admin", user=user)), expectation(401, set()))


@pytest.mark.parametrize("credential", ["lim_" + "x" * 43, "nothing", "", "é"])
async def test_a_key_that_was_never_made_is_nobody(stage: Stage, credential: str) -> None:
    client = await stage.client()
    answer = await client.get(
        "/api/tasks", headers={"Authorization": f"Bearer {credential}".strip()}
    )
    assert answer.status == 401


async def test_another_scheme_is_refused_with_a_hint(stage: Stage) -> None:
    client = await stage.client()
    answer = await client.get("/api/tasks", headers={"Authorization": "Basic eDp5"})
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("scope", sorted(SCOPES - {"admin"}))
async def test_a_key_opens_its_own_scope_and_no_other(stage: Stage, scope: str) -> None:
    found = await statuses(stage, await stage.key(scope))
    assert_each(found, expectation(403, {scope}))


async def test_the_scope_admin_contains_every_other(stage: Stage) -> None:
    assert_each(await statuses(stage, await stage.key("admin")), expectation(None, set(SCOPES)))


async def test_the_cookie_of_the_owner_opens_everything(stage: Stage) -> None:
    found = await statuses(stage, None, cookie=True)
    assert_each(found, expectation(None, set(SCOPES)))


@pytest.mark.parametrize("role", ["user", "tutor", "admin"])
@pytest.mark.parametrize("way", ["cookie", "access token"])
async def test_whoever_signs_in_may_what_their_role_may(stage: Stage, role: str, way: str) -> None:
    async def made() -> TestClient[Any, Any]:
        # A fresh sign-in is proof enough to delete the account, so each route has its own.
        user = await stage.user(role)
        return await (stage.signed_in(user) if way == "cookie" else stage.bearer(user))

    refusal = None if role == "admin" else 403
    expected = expectation(refusal, set(ROLE_SCOPES[role]))
    assert_each(await statuses(stage, None, by=made), expected)


async def test_the_access_token_of_a_disabled_account_is_nobody(stage: Stage) -> None:
    user = await stage.user("admin")
    token = (await stage.tokens(user)).access_token
    assert (await (await stage.client(token)).get("/api/settings")).status == 200
    work = stage.work()
    work.move(user, expected="active", to="disabled")
    await stage.front.units.commit(work)
    assert_each(await statuses(stage, token), expectation(401, set()))


async def test_a_revoked_session_is_nobody(stage: Stage) -> None:
    user = await stage.user("admin")
    browser, token = await stage.signed_in(user), (await stage.tokens(user)).access_token
    for client in (browser, await stage.client(token)):
        assert (await client.get("/api/settings")).status == 200
    work = stage.work()
    revoke_sessions(work, user.id, because="test")
    await stage.front.units.commit(work)
    jar = browser.session.cookie_jar
    cookie = "; ".join(f"{one.key}={one.value}" for one in jar)
    headers = {"Cookie": cookie, csrf.HEADER: browser.session.headers[csrf.HEADER]}
    by_cookie = await statuses(stage, None, by=lambda: stage.client(None, **headers))
    assert_each(by_cookie, expectation(401, set()))
    assert_each(await statuses(stage, token), expectation(401, set()))


async def test_the_role_bounds_what_a_key_can_do(stage: Stage) -> None:
    user = await stage.user("user")
    key = await stage.key(*USER_MAY, user=user)
    assert_each(await statuses(stage, key), expectation(403, USER_MAY))


async def test_a_role_that_drops_takes_its_scopes_along(stage: Stage) -> None:
    user = await stage.user("admin")
    work = stage.work()
    _, key = create_key(work, user, frozenset({"admin"}))
    await stage.front.units.commit(work)
    client = await stage.client(key)
    assert (await client.get("/api/settings")).status == 200
    work = stage.work()
    work.change(user, role="user")
    await stage.front.units.commit(work)
    assert (await client.get("/api/settings")).status == 403

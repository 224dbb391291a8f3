"""Fields that nobody may set by sending them along (ASVS 5.0, 8.2.3 and 15.3.3)."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from limner.core.clock import HeldClock
from limner.http.auth import csrf
from limner.http.routes import Route
from limner.http.table import ROUTES
from limner.storage.sql.accounts import ROLE_SCOPES, ApiKey, User
from limner.storage.sql.jobs import Job
from tests.fakes.front import Stage, problem, staged
from tests.http.security.belongings import (
    absent,
    all_rows,
    belongings,
    body_of,
    difference,
    kind_of,
    name_of,
    path_of,
)

EXTRA: dict[str, Any] = {
    "role": "admin",
    "is_owner": True,
    "is_admin": True,
    "plan": "unlimited",
    "credits": 10**9,
    "cost": 0,
    "user_id": "user_somebody",
    "owner": "user_somebody",
    "id": "task_mine",
    "state": "succeeded",
    "verified": True,
    "verified_at": "2026-01-01T00:00:00Z",
    "password_hash": "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$AAAA",
    "totp_enabled_at": None,
    "scopes": ["admin"],
    "scope": "admin",
    "version": 1,
    "created_at": "2020-01-01T00:00:00Z",
    "priority": 100,
    "outputs": [{"key": "jobs/a/1"}],
    "result_key": "jobs/a/1",
    "__proto__": {"role": "admin"},
    "constructor": {"role": "admin"},
    "pk": "x",
    "user_id__in": ["x"],
}
BODIES = [route for route in ROUTES if route.body is not None]
DOCUMENTED = [route for route in ROUTES if route.is_documented]
# Forms whose fields are names of scopes: anything else among them is left alone.
OPEN_FORMS = {"/account/keys"}
# What is asked of a stream, and a link's signature: other parameters are left alone.
OPEN_QUERIES = {"StreamQuery", "AttachmentQuery"}


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


def extra_for(route: Route) -> dict[str, Any]:
    """Give the fields that are none of a route's own."""
    own = route.body.model_fields if route.body else {}
    return {name: value for name, value in EXTRA.items() if name not in own}


async def test_a_field_too_many_is_named_and_nothing_of_the_body_counts(stage: Stage) -> None:
    admin = await stage.admin()
    mine = await belongings(stage, stage.owner)
    assert (await admin.get("/api/me")).status == 200
    before = await all_rows()
    wrong: dict[str, Any] = {}
    for route in BODIES:
        extra = extra_for(route)
        body = {**(body_of(route) or {}), **extra}
        answer = await admin.request(route.method, path_of(route, mine), json=body)
        if answer.status != 422:
            wrong[name_of(route)] = (answer.status, await answer.text())
            continue
        named = {fault["pointer"] for fault in (await problem(answer))["errors"]}
        missing = {f"/{name}" for name in extra} - named
        if missing:
            wrong[name_of(route)] = missing
    assert wrong == {}
    assert difference(before, await all_rows()) == {}


async def test_a_route_without_a_body_takes_none_of_these(stage: Stage) -> None:
    admin = await stage.admin()
    mine = await belongings(stage, stage.owner)
    assert (await admin.get("/api/me")).status == 200
    before = await all_rows()
    wrong = {}
    for route in DOCUMENTED:
        # What reads its body by itself takes no JSON, or nothing of what comes.
        if route.body or route.method == "GET" or not route.reads_body:
            continue
        answer = await admin.request(route.method, path_of(route, mine), json=EXTRA)
        if answer.status != 422:
            wrong[name_of(route)] = answer.status
    assert wrong == {}
    assert difference(before, await all_rows()) == {}


async def test_a_query_sets_and_filters_by_nothing_that_is_not_named(stage: Stage) -> None:
    user = await stage.user()
    client = await stage.client(await stage.key(*ROLE_SCOPES["user"], user=user))
    assert (await client.get("/api/me")).status == 200
    before = await all_rows()
    wrong = {}
    for route in DOCUMENTED:
        if route.access not in {"any", *ROLE_SCOPES["user"]} or kind_of(route) is not None:
            continue
        if route.query is not None and route.query.__name__ in OPEN_QUERIES:
            continue
        for name in ("role", "user_id", "user_id__in", "owner", "is_admin", "state__in"):
            asked: dict[str, Any] = {"params": {name: "admin"}}
            if route.method != "GET":
                asked["json"] = body_of(route) or {}
            answer = await client.request(route.method, path_of(route, absent()), **asked)
            if answer.status != 422:
                wrong[f"{name_of(route)}?{name}"] = answer.status
    assert wrong == {}
    assert difference(before, await all_rows()) == {}


async def test_a_form_with_a_field_too_many_changes_nothing(stage: Stage) -> None:
    browser = await stage.signed_in()
    mine = await belongings(stage, stage.owner)
    forms = [route for route in ROUTES if route.method == "POST" and not route.is_documented]
    forms = [
        route for route in forms if "{signed}" not in route.path and "/auth/" not in route.path
    ]
    assert (await browser.get("/api/me")).status == 200
    before = await all_rows()
    wrong = {}
    for route in forms:
        if route.path in OPEN_FORMS:
            continue
        for name in ("role", "user_id", "is_owner", "verified", "state", "id", "plan"):
            answer = await browser.post(
                path_of(route, mine), data={name: "admin"}, allow_redirects=False
            )
            if answer.status != 422:
                wrong[f"{name_of(route)} {name}"] = answer.status
    assert wrong == {}
    assert len(forms) > 20
    assert difference(before, await all_rows()) == {}


async def test_the_form_of_a_key_gives_no_more_than_who_sends_it_has(stage: Stage) -> None:
    user = await stage.user()
    browser = await stage.signed_in(user)
    good = {"name": "mine", "expires": "30", "scope.tasks:read": "on"}
    for more in ({"scope.admin": "on"}, {"scope.users:write": "on"}, {"scope.none": "on"}):
        answer = await browser.post("/account/keys", data={**good, **more})
        assert answer.status == 403
    assert await ApiKey.filter(user_id=user.id).count() == 0
    answer = await browser.post(
        "/account/keys", data={**good, "user_id": stage.owner.id, "scopes": "admin", "id": "x"}
    )
    assert answer.status == 200
    key = await ApiKey.get(user_id=user.id)
    assert (key.scopes, key.id != "x") == (["tasks:read"], True)


@pytest.mark.parametrize("way", ["key", "access token", "cookie"])
async def test_nobody_lifts_themselves_up(stage: Stage, way: str) -> None:
    user = await stage.user()
    client = (
        await stage.client(await stage.key(*ROLE_SCOPES["user"], user=user))
        if way == "key"
        else await (stage.bearer(user) if way == "access token" else stage.signed_in(user))
    )
    for method, path, body, status in [
        ("PATCH", f"/api/users/{user.id}", {"role": "admin"}, 403),
        ("POST", "/api/users", {"email": "x@x.test", "role": "admin"}, 403),
        ("POST", "/api/keys", {"name": "x", "scopes": ["admin"]}, 403),
        ("POST", "/api/keys", {"name": "x", "scopes": ["users:write"]}, 403),
        ("PATCH", "/api/me", {"name": "x", "role": "admin"}, 422),
        ("PATCH", "/api/me", {"defaults": {"role": "admin"}}, 422),
        ("PUT", "/api/settings", {"registration_is_open": True}, 403),
    ]:
        answer = await client.request(method, path, json=body)
        assert answer.status == status, (path, await answer.text())
    found = await User.get(id=user.id)
    assert (found.role, found.plan, found.is_owner, found.name) == ("user", "free", False, "")
    assert found.verified_at is None
    assert await User.all().count() == 2


async def test_whose_a_new_object_is_says_the_credential_alone(stage: Stage) -> None:
    user = await stage.user()
    client = await stage.bearer(user)
    for header in (
        "X-User-Id",
        "X-Forwarded-User",
        "X-Remote-User",
        "Remote-User",
        "X-Limner-User",
    ):
        client.session.headers[header] = stage.owner.id
    made = await client.post("/api/generate/image", json={"prompt": "a tree"})
    assert made.status == 202
    assert (await Job.get()).user_id == user.id
    assert (await client.get("/api/settings")).status == 403


async def test_a_name_that_comes_twice_is_a_fault_whichever_would_count(stage: Stage) -> None:
    admin = await stage.admin()
    raw = b'{"email": "a@x.test", "role": "user", "role": "admin"}'
    answer = await admin.post(
        "/api/users", data=raw, headers={"Content-Type": "application/json", csrf.HEADER: "x"}
    )
    assert answer.status == 422
    assert {"pointer": "/role", "detail": "the name occurs twice"} in (await problem(answer))[
        "errors"
    ]
    assert await User.all().count() == 1

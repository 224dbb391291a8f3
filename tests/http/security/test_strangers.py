"""What belongs to somebody does not exist for anybody else (ASVS 5.0, 8.2.2 and 8.4.1).

The table is made from the routes: a new route with an id fails until there is an object for it.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient

from limner.core.clock import HeldClock
from limner.http.listing import Listing
from limner.http.routes import ANY, OPEN, Route
from limner.http.table import ROUTES
from limner.storage.sql.accounts import ROLE_SCOPES, User
from tests.fakes.front import Stage, staged
from tests.fakes.sse import Listener
from tests.http.security.belongings import (
    KINDS,
    OWNED,
    UNNAMED,
    absent,
    all_rows,
    belongings,
    body_of,
    difference,
    kind_of,
    name_of,
    path_of,
)

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
WAYS = ("key", "access token", "cookie")
# What is not there is passed over, with the same answer for everybody.
PASSED_OVER = {"POST /account/notifications/{id}/read": 303}
# A link is the credential, or the answer is the same whatever the link says.
BY_LINK = {
    "POST /api/providers/{id}/callback/{signed}": 202,
    r"GET /api/mailbox/{id}/attachments/{n:\d{1,4}}": 403,
}
CONDITIONS: list[tuple[dict[str, str], str]] = [
    ({"Last-Event-ID": "0"}, ""),
    ({"Last-Event-ID": "1"}, ""),
    ({}, "?last_event_id=0"),
    ({"Prefer": "wait=5"}, ""),
    ({"If-None-Match": "*"}, ""),
    ({"Range": "bytes=0-9"}, ""),
]
STRICTLY_OWN = {"key", "session", "identity", "notification"}
NAMED = [route for route in ROUTES if "{id}" in route.path]
HEADS = {route.path: route for route in NAMED if route.method == "GET" and route.has_head}
LISTS = [
    route
    for route in ROUTES
    if route.query is not None and issubclass(route.query, Listing) and "{" not in route.path
]


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


@pytest.fixture
async def anna(stage: Stage) -> User:
    return await stage.user()


async def caller(stage: Stage, way: str, user: User) -> TestClient[Any, Any]:
    """Give a client of ``user``, whose credential has been used and noted before."""
    match way:
        case "key":
            client = await stage.client(await stage.key(*ROLE_SCOPES[user.role], user=user))
        case "access token":
            client = await stage.bearer(user)
        case _:
            client = await stage.signed_in(user)
    assert (await client.get("/api/me")).status == 200
    return client


async def told(answer: ClientResponse, ident: str) -> tuple[int, str, str]:
    """Give an answer without what names the request or the object."""
    text = (await answer.text()).replace(ident, "ID")
    if answer.content_type == "application/problem+json":
        found = json.loads(text)
        del found["request_id"]
        text = json.dumps(found, sort_keys=True)
    elif answer.content_type == "text/html":
        text = text.replace(answer.headers["X-Request-Id"], "REQUEST")
    return answer.status, answer.content_type, text


def may(user: User, route: Route) -> bool:
    """Whether an account's role may call a route."""
    return route.access in {OPEN, ANY, *ROLE_SCOPES[user.role]}


def expected(route: Route, user: User) -> int:
    """Give how a stranger is answered."""
    name = name_of(route)
    special = {**PASSED_OVER, **BY_LINK}
    if name in special:
        return special[name]
    return 404 if may(user, route) else 403


def test_every_path_with_a_part_has_an_object_or_a_reason() -> None:
    parts = {route.path for route in ROUTES if "{" in route.path}
    named = {path for path in parts if "{id}" in path}
    assert parts - named == UNNAMED
    assert {kind_of(route) for route in NAMED} == set(KINDS.values())
    assert {kind_of(route) for route in NAMED if route.access == "any"} <= OWNED
    assert {path.partition("{id}")[0] for path in named} == set(KINDS)


@pytest.mark.parametrize(("way", "role"), [*((way, "user") for way in WAYS), ("key", "tutor")])
async def test_the_objects_of_others_do_not_exist_and_stay_as_they_are(
    stage: Stage, anna: User, way: str, role: str
) -> None:
    ben = await stage.user(role)
    client = await caller(stage, way, ben)
    hers, nothing = await belongings(stage, anna), absent()
    before = await all_rows()
    wrong = {}
    for route in NAMED:
        sent: dict[str, Any] = {"json": body_of(route)} if route.method != "GET" else {}
        found = []
        for idents in (hers, nothing):
            kind = kind_of(route) or ""
            answer = await client.request(
                route.method, path_of(route, idents), allow_redirects=False, **as_form(route, sent)
            )
            found.append(await told(answer, idents[kind]))
        if found[0] != found[1] or found[0][0] != expected(route, ben):
            wrong[name_of(route)] = found
    assert wrong == {}
    assert difference(before, await all_rows()) == {}


def as_form(route: Route, sent: dict[str, Any]) -> dict[str, Any]:
    """Give what a page's form sends, where a route is a page's."""
    if route.is_documented or route.method == "GET":
        return sent
    return {"data": b"", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}


@pytest.mark.parametrize("way", WAYS)
async def test_no_other_method_opens_what_belongs_to_others(
    stage: Stage, anna: User, way: str
) -> None:
    ben = await stage.user()
    client = await caller(stage, way, ben)
    hers = await belongings(stage, anna)
    served = {(route.method, route.path) for route in ROUTES}
    before = await all_rows()
    wrong = {}
    for route in NAMED:
        for method in METHODS:
            if (method, route.path) in served:
                continue
            path = path_of(route, hers)
            answer = await client.request(method, path, json={}, allow_redirects=False)
            read = HEADS.get(route.path) if method == "HEAD" else None
            if answer.status != (expected(read, ben) if read else 405):
                wrong[f"{method} {route.path}"] = answer.status
    assert wrong == {}
    assert difference(before, await all_rows()) == {}


@pytest.mark.parametrize("way", WAYS)
async def test_nothing_is_replayed_waited_for_or_compared_for_strangers(
    stage: Stage, anna: User, way: str
) -> None:
    client = await caller(stage, way, await stage.user())
    hers = await belongings(stage, anna)
    wrong = {}
    for route in NAMED:
        if route.method != "GET" or kind_of(route) not in OWNED:
            continue
        for headers, query in CONDITIONS:
            if query and not route.path.endswith("/stream"):
                continue
            answer = await client.get(path_of(route, hers) + query, headers=headers)
            if answer.status != 404:
                wrong[f"{name_of(route)}{query} {headers}"] = answer.status
    assert wrong == {}


@pytest.mark.parametrize("way", WAYS)
async def test_no_list_and_no_export_shows_or_betrays_what_others_have(
    stage: Stage, anna: User, way: str
) -> None:
    ben = await stage.user()
    client = await caller(stage, way, ben)
    hers = await belongings(stage, anna)
    owned = {hers[kind] for kind in OWNED}
    secrets = {*owned, anna.id, anna.email or "", f"to-{anna.id}@x.test"}
    pages = [route for route in ROUTES if route.method == "GET" and "{" not in route.path]
    wrong = {}
    for route in pages:
        if route.media == "text/event-stream":
            continue
        answer = await client.get(route.path)
        assert answer.status == (200 if may(ben, route) else 403), route.path
        text = await answer.text()
        wrong[route.path] = [secret for secret in secrets if secret in text]
    answer = await client.post("/api/me/export")
    assert answer.status == 200
    export = await answer.text()
    wrong["export"] = [secret for secret in secrets if secret in export]
    assert {path: found for path, found in wrong.items() if found} == {}


async def test_no_filter_of_a_list_finds_what_others_have(stage: Stage, anna: User) -> None:
    ben = await stage.user()
    client = await caller(stage, "key", ben)
    hers = await belongings(stage, anna)
    values = (
        *hers.values(),
        anna.id,
        anna.email or "",
        f"to-{anna.id}@x.test",
        "source_1",
        "Anna",
        "mine",
    )
    looked = 0
    for route in LISTS:
        for name in set(route.query.model_fields) - {"limit", "cursor"} if route.query else ():
            for value in values:
                answer = await client.get(route.path, params={name: value})
                if answer.status != 200:
                    assert answer.status == (422 if may(ben, route) else 403), route.path
                    continue
                looked += 1
                assert (await answer.json())["data"] == [], (route.path, name, value)
    assert looked > 100


async def test_ids_in_a_body_touch_nothing_of_others(stage: Stage, anna: User) -> None:
    client = await caller(stage, "cookie", await stage.user())
    hers = await belongings(stage, anna)
    before = await all_rows()
    answer = await client.post("/api/notifications/read", json={"ids": [hers["notification"]]})
    assert (answer.status, await answer.json()) == (200, {"unread": 0})
    assert (await client.post("/api/notifications/read-all")).status == 200
    assert difference(before, await all_rows()) == {}


async def test_a_key_of_the_same_name_replays_nothing_of_others(stage: Stage, anna: User) -> None:
    ben = await stage.user()
    same = {"Idempotency-Key": '"the same"'}
    body = {"name": "x", "scopes": ["tasks:read"]}
    made = []
    for user in (anna, ben):
        client = await caller(stage, "access token", user)
        answer = await client.post("/api/keys", json=body, headers=same)
        assert answer.status == 201
        assert "Idempotency-Replayed" not in answer.headers
        made.append((await answer.json())["key"])
    assert made[0] != made[1]


async def test_ones_own_stream_never_carries_what_happens_to_others(
    stage: Stage, anna: User
) -> None:
    ben = await stage.user()
    client = await caller(stage, "key", ben)
    hers = await belongings(stage, anna)
    async with client.get("/api/stream") as answer:
        heard = Listener(answer)
        task = await stage.task("pending", user_id=anna.id)
        await stage.move(task, "cancelled")
        mine = await stage.task("pending", user_id=ben.id)
        await stage.move(mine, "cancelled")
        events = [await heard.until("status") for _ in range(2)]
    text = str(events)
    assert mine.id in text
    assert task.id not in text
    assert not [ident for ident in hers.values() if ident in text]


async def test_an_administrator_sees_everybodys_objects_but_no_credentials(
    stage: Stage, anna: User
) -> None:
    client = await stage.admin()
    hers = await belongings(stage, anna, "cancelled")
    found = {}
    for route in NAMED:
        name = name_of(route)
        if route.method != "GET" or name in BY_LINK or route.media == "text/event-stream":
            continue
        found[name] = (await client.get(path_of(route, hers))).status
    strict = {name_of(route) for route in NAMED if kind_of(route) in STRICTLY_OWN}
    assert {name: status for name, status in found.items() if name not in strict} == {
        name: 200 for name in found if name not in strict
    }
    assert {found[name] for name in strict if name in found} == {404}
    for path in (f"/api/sessions/{hers['session']}", f"/api/keys/{hers['key']}"):
        assert (await client.delete(path)).status == 404

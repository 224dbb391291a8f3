"""Text that breaks programs, through every field, parameter and header: kept whole, or refused.

(ASVS 5.0, 1.5 and 2.2.) A request carries as many of the texts as it has fields; over all requests
each field has had each text.
"""

import base64
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from aiohttp.test_utils import TestClient
from yarl import URL

from limner.core.clock import HeldClock
from limner.core.tunables import Tunables
from limner.http.auth import csrf, passwords
from limner.http.listing import encode_cursor
from limner.http.routes import Route
from limner.http.table import ROUTES
from tests.fakes.front import Stage, staged
from tests.fakes.nasty_strings import NASTY_STRINGS
from tests.http.security.belongings import (
    absent,
    belongings,
    body_of,
    name_of,
    path_of,
)

Client = TestClient[Any, Any]
LOGIN_LIMITS = ("login_limit_per_account_per_min", "login_limit_per_address_per_min")
TEXTS = tuple(text for text in NASTY_STRINGS if text)
# What a client library lets through in a header; the rest never is HTTP.
HEADER_TEXTS = tuple(text for text in TEXTS if text.isprintable() and len(text) < 1000)
PATH_TEXTS = (
    "\x00",
    "a\nb\r\nc",
    "\u202e帮我🐈",
    "'; DROP TABLE tasks; --",
    "../../etc/passwd",
    "{{7*7}}",
    "%s%n",
    "a" * 300,
    "NaN",
)
BYTES = ("%ff", "%ed%a0%80", "%c0%af", "%00")
HEADERS = (
    *("Accept", "Accept-Language", "If-None-Match", "Last-Event-ID", "Prefer", "Range", "Referer"),
    *("User-Agent", "X-CSRF-Token", "X-Forwarded-For", "X-Request-Id", "traceparent", "Origin"),
    *("Idempotency-Key", "If-Range", "If-Modified-Since", "Cookie", "Forwarded"),
)
EDGES = (
    "0001-01-01T00:00:00+14:00",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999-14:00",
    "9999-12-31T23:59:59Z",
    "0000-00-00T00:00:00Z",
    "2026-11-22T12:00:00+99:99",
    "-2026-11-22T12:00:00Z",
)


@pytest.fixture
async def stage(
    migrated_file: Path, tmp_path: Path, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Stage]:
    """Serve a front whose limits for sign-ins hide no text, and whose hashes are cheap."""
    monkeypatch.setattr(passwords, "PASSES", 1)
    monkeypatch.setattr(passwords, "MEMORY_KIB", 64)
    monkeypatch.setattr(passwords, "_hasher", passwords._hasher.__wrapped__)
    async with staged(migrated_file, tmp_path, clock) as opened:
        await opened.settings(**dict.fromkeys(LOGIN_LIMITS, 100_000))
        yield opened


def is_wrong(status: int) -> bool:
    """Whether an answer is an error of ours, or a limit's that hid the text from its handler."""
    return status >= 500 or status == 429


def filled(names: Sequence[str], turn: int) -> dict[str, str]:
    """Give each name a text; in as many turns as there are texts, each name has each."""
    return {name: TEXTS[(turn + place * 7) % len(TEXTS)] for place, name in enumerate(names)}


BODIES = [route for route in ROUTES if route.body is not None]
PARTS = 4
"""In how many tests the bodies are divided, so that none is long."""


def names_in(route: Route) -> list[str]:
    """Give the fields of a route's body; those of the settings are the settings' own."""
    own = list(route.body.model_fields) if route.body else []
    return list(Tunables.model_fields) if own == ["root"] else own


@pytest.mark.parametrize("part", range(PARTS))
async def test_no_text_in_any_field_of_a_body_is_an_error_of_ours(stage: Stage, part: int) -> None:
    admin = await stage.admin()
    mine = await belongings(stage, stage.owner)
    wrong: dict[str, Any] = {}
    for route in BODIES[part::PARTS]:
        wrong |= await faults_of(admin, route, path_of(route, mine))
    assert wrong == {}


async def faults_of(admin: Client, route: Route, path: str) -> dict[str, Any]:
    """Give the bodies that a route answered with an error of ours."""
    names = names_in(route)
    good = body_of(route) or {}
    wrong: dict[str, Any] = {}
    for turn in range(len(TEXTS)):
        # All fields at once, and one of them in a body that fits otherwise.
        ones = [{**good, name: TEXTS[turn]} for name in names[turn % len(names) :: len(TEXTS)]]
        for body in (filled(names, turn), *ones):
            answer = await admin.request(route.method, path, json=body)
            if is_wrong(answer.status):
                wrong[f"{name_of(route)} {turn}"] = (body, await answer.text())
    return wrong


FORMS = [
    route
    for route in ROUTES
    if route.method == "POST"
    and not route.is_documented
    and not {"{signed}", "{name}"} & set(route.path.split("/"))
]
FIELDS = ("email", "name", "password", "token", "code", "ticket", "next", "expires", "timezone")


async def test_no_text_in_a_form_is_an_error_of_ours(stage: Stage) -> None:
    browser = await stage.signed_in()
    page = {"Accept": "text/html"}
    wrong = {}
    for place, route in enumerate(FORMS):
        path = path_of(route, absent())
        for turn in range(place % 3, len(TEXTS), 3):
            for field in (FIELDS[turn % len(FIELDS)], TEXTS[turn][:50]):
                answer = await browser.post(
                    path,
                    data=urlencode({field: TEXTS[turn]}),
                    headers={**page, "Content-Type": csrf.FORM_TYPE},
                    allow_redirects=False,
                )
                if is_wrong(answer.status):
                    wrong[f"{path} {field}"] = answer.status
    assert wrong == {}


async def test_no_text_in_a_path_is_an_error_of_ours(stage: Stage) -> None:
    admin = await stage.admin()
    paths = {
        route.path.replace(r"{n:\d{1,4}}", "0").replace("{key:.+}", "{key}")
        for route in ROUTES
        if "{" in route.path and "stream" not in route.path
    }
    wrong = {}
    for path in sorted(paths):
        for text in (*(quote(one, safe="") for one in PATH_TEXTS), *BYTES):
            whole = path
            for part in ("id", "name", "token", "signed", "key"):
                whole = whole.replace(f"{{{part}}}", text)
            for method in ("GET", "DELETE"):
                url = URL(whole, encoded=True)
                answer = await admin.request(method, url, allow_redirects=False)
                if answer.status >= 500:
                    wrong[f"{method} {whole}"] = await answer.text()
    assert wrong == {}


QUERIES = [route for route in ROUTES if route.query is not None and "{" not in route.path]


async def test_no_text_in_a_query_is_an_error_of_ours(stage: Stage) -> None:
    admin = await stage.admin()
    await belongings(stage, stage.owner)
    wrong = {}
    for route in QUERIES:
        if route.query is None or route.media == "text/event-stream":
            continue
        for place, name in enumerate(route.query.model_fields):
            # Fields of one kind are in many lists: each list has a third of the texts for each.
            for text in TEXTS[(place + len(route.path)) % 3 :: 3]:
                answer = await admin.get(route.path, params={name: text[:2000]})
                if answer.status >= 500:
                    wrong[f"{route.path}?{name}={text}"] = await answer.text()
    assert wrong == {}


@pytest.mark.parametrize("path", ["/api/tasks", "/"])
async def test_no_text_in_a_header_is_an_error_of_ours(stage: Stage, path: str) -> None:
    admin = await stage.admin()
    wrong = {}
    for turn in range(len(HEADER_TEXTS)):
        for place, name in enumerate(HEADERS):
            text = HEADER_TEXTS[(turn + place) % len(HEADER_TEXTS)]
            answer = await admin.get(path, headers={name: text})
            if answer.status >= 500:
                wrong[name] = text
    assert wrong == {}


async def test_no_time_at_the_edge_of_the_calendar_is_an_error_of_ours(stage: Stage) -> None:
    admin = await stage.admin()
    wrong = {}
    for at in EDGES:
        body = {"name": "x", "scopes": ["tasks:read"], "expires_at": at}
        answer = await admin.post("/api/keys", json=body)
        if answer.status not in {201, 422}:
            wrong[f"expires_at {at}"] = await answer.text()
        for name in ("since", "until"):
            for path in ("/api/audit", "/api/audit/export"):
                answer = await admin.get(path, params={name: at})
                if answer.status not in {200, 422}:
                    wrong[f"{path} {name} {at}"] = await answer.text()
    assert wrong == {}


PAGED = (
    *("/api/tasks", "/api/keys", "/api/audit", "/api/sessions", "/api/notifications"),
    *("/api/users", "/api/settings/history", "/account/keys", "/tasks", "/mailbox"),
)


async def test_no_cursor_is_an_error_of_ours(stage: Stage) -> None:
    browser = await stage.signed_in()
    await belongings(stage, stage.owner)
    good = encode_cursor(stage.clock.now(), "task_1")
    wrong = {}
    for at in EDGES:
        cursor = encode_cursor(stage.clock.now(), "x")
        forged = _forged(f"{at} task_1")
        for path in PAGED:
            for one in (forged, forged[:-1], cursor + "é", good * 3):
                answer = await browser.get(path, params={"cursor": one})
                if answer.status not in {200, 422}:
                    wrong[f"{path} {at} {one}"] = (answer.status, await answer.text())
    assert wrong == {}


def _forged(plain: str) -> str:
    return base64.urlsafe_b64encode(plain.encode()).decode().rstrip("=")


async def returned(
    admin: Client, method: str, path: str, body: dict[str, Any], back: str
) -> dict[str, Any] | None:
    """Send a body and read the object back, or give None for a refusal."""
    answer = await admin.request(method, path, json=body)
    assert answer.status in {200, 201, 202, 422}, (path, body, await answer.text())
    if answer.status == 422:
        return None
    where = back or URL(answer.headers["Location"]).path
    found: dict[str, Any] = await (await admin.get(where)).json()
    return found


async def test_any_text_comes_back_as_it_went_in_or_is_refused(stage: Stage) -> None:
    admin = await stage.admin()
    mine = await belongings(stage, stage.owner)
    user, source = f"/api/users/{mine['user']}", f"/api/sources/{mine['source']}"
    provider = f"/api/providers/{mine['provider']}"
    kept = dict.fromkeys(("key", "me", "user", "job", "source", "task", "provider", "settings"), 0)
    for text in TEXTS:
        task = await stage.task("needs_review")
        review = f"/api/tasks/{task.id}"
        words = {"keywords": [text]}
        trips: list[tuple[str, str, str, dict[str, Any], str]] = [
            ("key", "POST", "/api/keys", {"name": text, "scopes": ["tasks:read"]}, ""),
            ("me", "PATCH", "/api/me", {"name": text}, "/api/me"),
            ("me", "PATCH", "/api/me", {"defaults": words}, "/api/me"),
            ("user", "PATCH", user, {"name": text}, user),
            ("job", "POST", "/api/generate/image", {"prompt": text, "negative_prompt": text}, ""),
            ("source", "PATCH", source, {"name": text, "options": {text: text}}, source),
            ("task", "POST", f"{review}/approve", {"prompt": text, "email": "a@x.test"}, review),
            ("provider", "PATCH", provider, {"request": {"x": [text]}}, provider),
            ("provider", "PATCH", provider, {"headers": {"X-Words": text}}, provider),
            ("settings", "PUT", "/api/settings", words, "/api/settings"),
        ]
        for what, method, path, body, back in trips:
            found = await returned(admin, method, path, body, back)
            if found is not None:
                kept[what] += 1
                assert_same(what, body, found)
    assert min(kept.values()) > 10, kept


def assert_same(what: str, body: dict[str, Any], found: dict[str, Any]) -> None:
    """Compare what was sent with what is there; a prompt may lose space at its ends."""
    if what == "settings":
        assert found["keywords"]["value"] == body["keywords"]
        return
    for name in set(body) - {"scopes"}:
        shown = found[name]
        if name == "defaults":
            shown = {"keywords": shown["keywords"]}
        if name in {"prompt", "negative_prompt"} and shown != body[name]:
            assert shown == body[name].strip(), name
            continue
        assert shown == body[name], name


async def test_a_secret_of_any_text_is_stored_and_never_shown(stage: Stage) -> None:
    admin = await stage.admin()
    kept = 0
    for text in TEXTS:
        answer = await admin.put("/api/settings/secrets/acme", json={"value": text})
        assert answer.status in {204, 422}
        if answer.status == 204:
            kept += 1
            assert await stage.front.secrets.get("acme") == text
    assert kept > 10
    shown = await (await admin.get("/api/settings/secrets")).json()
    assert [set(one) for one in shown["data"]] == [{"name", "updated_at"}]


@pytest.mark.parametrize("number", [10**30, -(10**30), 1e308, -1, 0, 2**63, 2**31])
async def test_no_number_is_an_error_of_ours(stage: Stage, number: float) -> None:
    admin = await stage.admin()
    wrong = {}
    for route in BODIES:
        for name in names_in(route):
            body = {**(body_of(route) or {}), name: number}
            answer = await admin.request(route.method, path_of(route, absent()), json=body)
            if answer.status >= 500:
                wrong[f"{name_of(route)} {name}"] = await answer.text()
    assert wrong == {}


@pytest.mark.parametrize("number", [2**53 - 1, 2**53, 2**63, 10**30])
async def test_a_setting_of_any_size_is_refused_or_can_be_read_again(
    stage: Stage, number: int
) -> None:
    admin = await stage.admin()
    kept = 0
    for name in Tunables.model_fields:
        answer = await admin.put("/api/settings", json={name: number})
        assert answer.status in {200, 422}, (name, await answer.text())
        stage.front.tunables.forget()
        assert (await admin.get("/api/settings")).status == 200, name
        if answer.status == 200:
            kept += 1
            assert (await answer.json())[name]["value"] == number
    # JavaScript knows no larger one exactly, and so none is taken.
    assert (kept > 0) == (number < 2**53)

"""Headers of every answer of every route, whatever became of it (ASVS 5.0, 3.3 and 3.4)."""

import asyncio
import io
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient
from multidict import CIMultiDictProxy

from limner.core.clock import HeldClock
from limner.core.settings import HttpSettings
from limner.http.table import ROUTES
from tests.fakes.front import Stage, staged
from tests.http.security.belongings import absent, belongings, body_of, name_of, path_of

HTTP, HTTPS = "http", "https://x.test"
FRIEND = "https://friend.test"
SECRET = "hunter2 is what broke"
PAGE = {"Accept": "text/html"}
JSON = {"Accept": "application/json"}
BOTH = pytest.mark.parametrize("stage", [HTTP, HTTPS], indirect=True, ids=["http", "https"])
WAYS = pytest.mark.parametrize(
    ("stage", "accept"), [(HTTP, PAGE), (HTTPS, JSON)], indirect=["stage"], ids=["page", "json"]
)
# What may be kept by a browser, and for how long at most.
KEPT = ("/static/", "/o/", "/.well-known/jwks.json", "/openapi.json", "/asyncapi.json", "/docs")


@pytest.fixture
async def stage(
    request: pytest.FixtureRequest, migrated_file: Path, tmp_path: Path, clock: HeldClock
) -> AsyncIterator[Stage]:
    """A front whose address is http, or https where a test asks for that."""
    url = getattr(request, "param", HTTP)
    more: dict[str, Any] = {"public_url": url} if url == HTTPS else {}
    async with staged(migrated_file, tmp_path, clock, **more) as opened:
        yield opened


def faults(headers: CIMultiDictProxy[str], path: str, *, https: bool) -> list[str]:
    """Give what is missing in, or wrong with, the headers of an answer."""
    policy = headers.get("Content-Security-Policy", "")
    scripts = policy.replace("style-src 'unsafe-inline'", "")
    is_framed = path.startswith("/api/mailbox/") and path.endswith("/html")
    wanted = {
        "policy": policy.startswith("default-src 'none'"),
        "no inline scripts": "unsafe" not in scripts and "*" not in policy,
        "frames": "frame-ancestors 'none'" in policy or "sandbox" in policy,
        "frame options": headers.get("X-Frame-Options") == ("SAMEORIGIN" if is_framed else "DENY")
        or is_framed,
        "nosniff": headers.get("X-Content-Type-Options") == "nosniff",
        "referrer": headers.get("Referrer-Policy") in {"same-origin", "no-referrer"},
        "opener": headers.get("Cross-Origin-Opener-Policy") == "same-origin",
        "resource": headers.get("Cross-Origin-Resource-Policy") in {"same-origin", "cross-origin"},
        "permissions": "Permissions-Policy" in headers,
        "transport": ("Strict-Transport-Security" in headers) is https,
        "request": bool(headers.get("X-Request-Id")),
        "no server": "Server" not in headers and "X-Powered-By" not in headers,
        "no origin": "Access-Control-Allow-Origin" not in headers,
        "no credentials": "Access-Control-Allow-Credentials" not in headers,
        "not kept": path.startswith(KEPT) or headers.get("Cache-Control") == "no-store",
        "one of each": all(
            len(headers.getall(name)) == 1
            for name in ("Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy")
            if name in headers
        ),
    }
    found = [name for name, holds in wanted.items() if not holds]
    return found + [
        fault
        for cookie in headers.getall("Set-Cookie", [])
        for fault in faults_of_cookie(cookie, https=https)
    ]


def faults_of_cookie(cookie: str, *, https: bool) -> list[str]:
    """Give what is wrong with a cookie (RFC 6265bis)."""
    words = {word.strip().lower() for word in cookie.split(";")[1:]}
    wanted = {
        "name": cookie.startswith("__Host-limner_" if https else "limner_"),
        "http only": "httponly" in words,
        "same site": bool({"samesite=lax", "samesite=strict"} & words),
        "path": "path=/" in words,
        "no domain": not any(word.startswith("domain") for word in words),
        "secure": ("secure" in words) is https,
    }
    return [f"cookie {name}: {cookie}" for name, holds in wanted.items() if not holds]


async def asked(
    client: TestClient[Any, Any], method: str, path: str, **more: Any
) -> ClientResponse:
    """Give an answer's head; a stream is not read."""
    answer = await client.request(method, path, allow_redirects=False, **more)
    if answer.content_type != "text/event-stream":
        await answer.read()
    answer.close()
    return answer


async def sweep(
    stage: Stage, client: TestClient[Any, Any], idents: Mapping[str, str], **headers: str
) -> tuple[dict[str, Any], set[int]]:
    """Ask every route; give what is wrong with the headers, and the statuses that were seen."""
    https = stage.front.settings.base_url == HTTPS
    wrong, statuses = {}, set()
    for route in ROUTES:
        path = path_of(route, idents)
        body: dict[str, Any] = {"json": body_of(route) or {}} if route.method != "GET" else {}
        answer = await asked(client, route.method, path, headers=headers, **body)
        statuses.add(answer.status)
        found = faults(answer.headers, path, https=https)
        if found:
            wrong[f"{name_of(route)} {answer.status}"] = found
    return wrong, statuses


@WAYS
async def test_every_route_for_nobody(stage: Stage, accept: dict[str, str]) -> None:
    client = await stage.client()
    wrong, statuses = await sweep(stage, client, absent(), **accept)
    assert wrong == {}
    assert statuses >= {200, 401, 403, 404}


async def test_every_route_for_an_administrator_and_objects_that_are_there(stage: Stage) -> None:
    client = await stage.admin()
    wrong, statuses = await sweep(stage, client, await belongings(stage, stage.owner))
    assert wrong == {}
    assert statuses >= {200, 201, 202, 204, 404, 409, 415, 422}


@pytest.mark.parametrize("stage", [HTTPS], indirect=True, ids=["https"])
async def test_every_route_for_who_may_not_and_for_objects_that_are_not_there(
    stage: Stage,
) -> None:
    user = await stage.user()
    client = await stage.client(await stage.key("tasks:read", user=user))
    wrong, statuses = await sweep(stage, client, absent())
    assert wrong == {}
    assert statuses >= {403, 404}


@WAYS
async def test_every_route_that_fails_by_a_bug_tells_nothing_but_its_id(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, accept: dict[str, str]
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError(SECRET)

    client = await stage.admin()
    monkeypatch.setattr("limner.http.routes.authorise", fail)
    https = stage.front.settings.base_url == HTTPS
    wrong = {}
    for route in ROUTES:
        path = path_of(route, absent())
        answer = await client.request(route.method, path, headers=accept, allow_redirects=False)
        text = await answer.text()
        found = faults(answer.headers, path, https=https)
        for leak in (SECRET, "RuntimeError", "Traceback", "limner/http", "site-packages"):
            if leak in text:
                found.append(leak)
        if answer.status != 500 or found or answer.headers["X-Request-Id"] not in text:
            wrong[name_of(route)] = (answer.status, found)
    assert wrong == {}


@pytest.mark.parametrize("method", ["TRACE", "OPTIONS", "PROPFIND", "DELETE", "HEAD"])
async def test_every_path_by_a_method_that_it_may_not_have(stage: Stage, method: str) -> None:
    client = await stage.client()
    https = stage.front.settings.base_url == HTTPS
    wrong = {}
    for path in sorted({path_of(route, absent()) for route in ROUTES} | {"/nothing", "/api/none"}):
        answer = await asked(client, method, path)
        found = faults(answer.headers, path, https=https)
        if found or answer.status >= 500:
            wrong[path] = (answer.status, found)
    assert wrong == {}


@BOTH
async def test_signed_media_a_stream_and_an_oversized_body(stage: Stage) -> None:
    admin, https = await stage.admin(), stage.front.settings.base_url == HTTPS
    objects = stage.front.objects
    await objects.put("jobs/a/1", b"<svg onload='x'/>", "image/svg+xml", size_limit_bytes=100)
    url = stage.path(await objects.presign("GET", "jobs/a/1", 60))
    media = await asked(admin, "GET", url)
    assert (media.status, faults(media.headers, "/o/", https=https)) == (200, [])
    assert "sandbox" in media.headers["Content-Security-Policy"]
    assert media.headers["Content-Disposition"].startswith("attachment")
    assert media.headers["Content-Type"] == "application/octet-stream"
    assert media.headers["Cache-Control"].startswith("private")
    task = await stage.task()
    for path in (f"/api/tasks/{task.id}/stream", "/api/stream"):
        answer = await asked(admin, "GET", path)
        assert (answer.status, faults(answer.headers, path, https=https)) == (200, [])
    large = io.BytesIO(b" " * (1 << 20) + b"{}")
    headers = {"Content-Type": "application/json"}
    answer = await asked(admin, "POST", "/api/intent/test", data=large, headers=headers)
    assert (answer.status, faults(answer.headers, "/api/", https=https)) == (413, [])


@BOTH
async def test_cookies_are_bound_to_the_host_wherever_they_are_given(stage: Stage) -> None:
    client, https = await stage.client(), stage.front.settings.base_url == HTTPS
    given = [
        await asked(client, "GET", "/login", headers=PAGE),
        await asked(client, "GET", f"/sign-in/{await stage.link()}"),
    ]
    cookies = [cookie for answer in given for cookie in answer.headers.getall("Set-Cookie", [])]
    assert len(cookies) >= 2
    assert [fault for one in cookies for fault in faults_of_cookie(one, https=https)] == []
    values = [one.partition("=")[2].partition(";")[0].strip('"') for one in cookies]
    # A cookie is either taken back, or holds 256 random bits.
    assert {len(value) for value in values} <= {0, 43}


@pytest.fixture
async def open_stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    """A front that lets pages of one other origin call."""
    http = HttpSettings(cors_origins=(FRIEND,))
    async with staged(migrated_file, tmp_path, clock, http=http) as opened:
        yield opened


# origin: whether it may read answers
ORIGINS = {
    FRIEND: True,
    "https://evil.test": False,
    "https://friend.test.evil.test": False,
    "https://evilfriend.test": False,
    "https://friend.test:8443": False,
    "http://friend.test": False,
    "HTTPS://FRIEND.TEST": False,
    "null": False,
    "*": False,
    "": False,
}


@pytest.mark.parametrize("origin", ORIGINS)
async def test_only_a_configured_origin_reads_answers_and_never_with_cookies(
    open_stage: Stage, origin: str
) -> None:
    admin, browser = await open_stage.admin(), await open_stage.signed_in()
    wrong = {}
    paths = [
        "/",
        "/api/tasks",
        "/api/me",
        "/nothing",
        "/o/a/b",
        "/livez",
        "/openapi.json",
        "/login",
    ]
    for path in paths:
        for client in (admin, browser):
            for method in ("GET", "POST", "OPTIONS"):
                asking = {"Access-Control-Request-Method": "POST"} if method == "OPTIONS" else {}
                answer = await asked(client, method, path, headers={"Origin": origin, **asking})
                allowed = answer.headers.get("Access-Control-Allow-Origin")
                is_wrong = (
                    allowed != (FRIEND if ORIGINS[origin] else None)
                    or "Access-Control-Allow-Credentials" in answer.headers
                    or "Origin" not in answer.headers.get("Vary", "")
                )
                if is_wrong:
                    wrong[f"{method} {path}"] = dict(answer.headers)
    assert wrong == {}


@pytest.mark.parametrize("host", ["evil.test", "evil.test:80", "x.test@evil.test", "evil.test/"])
async def test_no_answer_takes_an_address_from_what_the_client_calls_us(
    open_stage: Stage, host: str
) -> None:
    client = await open_stage.admin()
    headers = {"Host": host, "X-Forwarded-Host": host, "X-Forwarded-Proto": "https", **JSON}
    async with asyncio.timeout(30):
        for path in ("/", "/api/tasks", "/nothing", "/openapi.json", "/api/models", "/login"):
            answer = await client.get(path, headers=headers, allow_redirects=False)
            assert "evil.test" not in await answer.text(), path
            assert "evil.test" not in str(answer.headers), path
        task = await open_stage.task()
        shown = await (await client.get(f"/api/tasks/{task.id}", headers=headers)).json()
    assert shown["status_url"].startswith(open_stage.front.settings.base_url)

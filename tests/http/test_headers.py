"""Headers on every answer, ids in and out, other origins, and what goes into log and metrics."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from limner.core.clock import HeldClock
from limner.core.settings import HttpSettings
from limner.storage.sql.audit import AuditLine
from tests.fakes.front import Stage, problem, staged

OWN = "http://app.test"


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


def assert_secure(headers: Any, *, https: bool = False) -> None:
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.replace("style-src 'unsafe-inline'", "")
    assert "frame-ancestors 'none'" in policy or "sandbox" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    # Browsers send "Origin: null" with our own forms where this is no-referrer.
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["X-Request-Id"]
    assert ("Strict-Transport-Security" in headers) is https
    assert "Server" not in headers
    assert headers.get("Access-Control-Allow-Origin") != "*"


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        ("/", "text/html", 200),
        ("/docs", "text/html", 200),
        ("/tasks", "text/html", 200),
        ("/static/page.js", "*/*", 200),
        ("/api/tasks", "*/*", 200),
        ("/api/settings", "*/*", 200),
        ("/openapi.json", "*/*", 200),
        ("/livez", "*/*", 200),
        ("/nothing", "*/*", 404),
        ("/nothing", "text/html", 404),
        ("/api/nothing", "*/*", 404),
        ("/api/tasks/none", "*/*", 404),
        ("/o/a/b", "*/*", 403),
        ("/r/none", "text/html", 404),
        ("/unsubscribe/none", "text/html", 404),
        ("/sign-in/none", "text/html", 401),
    ],
)
async def test_every_answer_carries_the_security_headers(
    stage: Stage, path: str, accept: str, status: int
) -> None:
    admin = await stage.admin()
    answer = await admin.get(path, headers={"Accept": accept})
    assert answer.status == status
    assert_secure(answer.headers)


async def test_a_bug_carries_the_security_headers_too(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: str) -> None:
        raise RuntimeError

    monkeypatch.setattr(stage.front.intent, "test", fail)
    admin = await stage.admin()
    answer = await admin.post("/api/intent/test", json={"text": "x"})
    assert answer.status == 500
    assert_secure(answer.headers)


async def test_a_stream_carries_the_security_headers_too(stage: Stage) -> None:
    task = await stage.task("cancelled")
    admin = await stage.admin()
    answer = await admin.get(f"/api/tasks/{task.id}/stream")
    assert answer.status == 200
    assert_secure(answer.headers)


@pytest.mark.parametrize("path", ["/api/tasks", "/tasks", "/api/nothing", "/r/none", "/livez"])
async def test_no_cache_keeps_what_is_personal(stage: Stage, path: str) -> None:
    admin = await stage.admin()
    assert (await admin.get(path)).headers["Cache-Control"] == "no-store"


async def test_over_https_browsers_are_told_to_stay_there(
    migrated_file: Path, tmp_path: Path, clock: HeldClock
) -> None:
    async with staged(migrated_file, tmp_path, clock, public_url="https://x.test") as stage:
        answer = await (await stage.client()).get("/")
        assert_secure(answer.headers, https=True)


@pytest.mark.parametrize(
    ("objects_url", "signed", "expected"),
    [
        ("", True, "img-src 'self' http://app.test;"),
        ("s3://b?endpoint=https://s3.test:9000", False, "img-src 'self' https://s3.test:9000;"),
        ("s3://b?endpoint=http://in&public_endpoint=https://cdn.test", False,
         "img-src 'self' https://cdn.test;"),
        ("s3://b?endpoint=https%3A%2F%2Fs3.test%3A9000", False,
         "img-src 'self' https://s3.test:9000;"),
        ("s3://b?region=x", False, "img-src 'self' https:;"),
        ("s3://b", False, "img-src 'self' https:;"),
    ],
)  # fmt: skip
async def test_pictures_may_come_from_the_object_store(
    migrated_file: Path,
    tmp_path: Path,
    clock: HeldClock,
    objects_url: str,
    signed: bool,
    expected: str,
) -> None:
    async with staged(
        migrated_file,
        tmp_path,
        clock,
        public_url=OWN,
        objects_url=objects_url,
        signed=signed,
    ) as stage:
        answer = await (await stage.client()).get("/")
        assert expected in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc.DEF_1-2", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("é", False)],
)
async def test_a_request_id_that_is_one_is_kept(stage: Stage, given: str, kept: bool) -> None:
    client = await stage.client()
    found = (await client.get("/livez", headers={"X-Request-Id": given})).headers["X-Request-Id"]
    assert (found == given) is kept
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", found)


async def test_what_a_request_does_carries_its_ids(stage: Stage) -> None:
    admin = await stage.admin()
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"X-Request-Id": "r-1", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    answer = await admin.post(
        "/api/sources", json={"name": "x", "connector": "demo"}, headers=headers
    )
    assert answer.status == 201
    line = await AuditLine.get(event="source.created")
    assert (line.request_id, line.trace_id, line.actor) == ("r-1", trace, stage.owner.id)


async def test_one_request_leaves_nothing_for_the_next_on_the_connection(stage: Stage) -> None:
    admin = await stage.admin()
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        await admin.get("/api/tasks")
        await admin.get("/docs", headers={"Authorization": "Bearer none"})
    first, second = [line for line in lines if line["event"] == "request"]
    assert first["user_id"] == stage.owner.id
    assert "user_id" not in second
    assert first["request_id"] != second["request_id"]


async def test_log_and_metrics_know_the_route_and_never_the_link(stage: Stage) -> None:
    admin = await stage.admin()
    task = await stage.task()
    canary = "canary" * 8
    with capture_logs() as lines:
        await admin.get(f"/api/tasks/{task.id}")
        await admin.get(f"/r/{canary}")
        await admin.get(f"/sign-in/{canary}")
        await admin.get(f"/{canary}?token={canary}")
        await admin.request("PROPFIND", f"/{canary}")
    metrics = await (await admin.get("/metrics")).text()
    assert canary not in str(lines)
    assert canary not in metrics
    assert task.id not in metrics
    wanted = 'limner_http_requests_total{method="GET",route="/api/tasks/{id}",status="200"} 1.0'
    assert wanted in metrics
    assert 'method="other",route="unmatched",status="404"' in metrics
    assert {line["route"] for line in lines if line["event"] == "request"} >= {"/r/{signed}"}


FOREIGN: list[tuple[dict[str, str], bool]] = [
    ({}, True),
    ({"Sec-Fetch-Site": "same-origin"}, True),
    ({"Sec-Fetch-Site": "none"}, True),
    ({"Sec-Fetch-Site": "cross-site"}, False),
    ({"Sec-Fetch-Site": "same-site"}, False),
    ({"Sec-Fetch-Site": "cross-site", "Origin": "own"}, False),
    ({"Origin": "own"}, True),
    ({"Origin": "https://evil.test"}, False),
    ({"Origin": "null"}, False),
    ({"Origin": "http://127.0.0.1.evil.test"}, False),
]


@pytest.mark.parametrize(("headers", "allowed"), FOREIGN)
async def test_a_change_that_another_site_asks_a_browser_for_is_refused(
    stage: Stage, headers: dict[str, str], allowed: bool
) -> None:
    browser = await stage.signed_in()
    own = stage.front.settings.base_url
    sent = {name: own if value == "own" else value for name, value in headers.items()}
    answer = await browser.post("/api/intent/test", json={"text": "draw"}, headers=sent)
    assert answer.status == (200 if allowed else 403)
    assert (await browser.get("/api/tasks", headers=sent)).status == 200


async def test_a_key_is_nothing_that_a_browser_sends_by_itself(stage: Stage) -> None:
    admin = await stage.admin()
    answer = await admin.post(
        "/api/intent/test", json={"text": "draw"}, headers={"Origin": "https://evil.test"}
    )
    assert answer.status == 200


@pytest.fixture
async def open_stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    http = HttpSettings(cors_origins=("https://friend.test",))
    async with staged(migrated_file, tmp_path, clock, http=http) as opened:
        yield opened


ASKED = {"Access-Control-Request-Method": "POST"}


async def test_a_configured_origin_may_call_but_without_the_cookie(open_stage: Stage) -> None:
    admin = await open_stage.admin()
    friend = {"Origin": "https://friend.test"}
    answer = await admin.get("/api/tasks", headers=friend)
    assert answer.headers["Access-Control-Allow-Origin"] == "https://friend.test"
    assert "ETag" in answer.headers["Access-Control-Expose-Headers"]
    assert "Access-Control-Allow-Credentials" not in answer.headers
    asked = await admin.options("/api/tasks", headers={**friend, **ASKED})
    assert asked.status == 204
    assert "POST" in asked.headers["Access-Control-Allow-Methods"]


async def test_another_origin_may_not_call(open_stage: Stage) -> None:
    admin = await open_stage.admin()
    foreign = {"Origin": "https://evil.test"}
    answer = await admin.get("/api/tasks", headers=foreign)
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert answer.headers["Vary"] == "Origin"
    assert (await admin.options("/api/tasks", headers={**foreign, **ASKED})).status == 405


async def test_a_configured_origin_may_sign_in_but_never_with_a_cookie(open_stage: Stage) -> None:
    friend = {"Origin": "https://friend.test", "Sec-Fetch-Site": "cross-site"}
    body = {"refresh_token": (await open_stage.tokens()).refresh_token}
    visitor, browser = await open_stage.client(), await open_stage.signed_in()
    refused = await browser.post("/api/auth/refresh", json=body, headers=friend)
    assert (refused.status, (await problem(refused))["code"]) == (403, "foreign_origin")
    assert (await visitor.post("/api/auth/refresh", json=body, headers=friend)).status == 200
    evil = {**friend, "Origin": "https://evil.test"}
    assert (await visitor.post("/api/auth/refresh", json=body, headers=evil)).status == 403


async def test_behind_a_proxy_our_public_origin_is_our_own(
    migrated_file: Path, tmp_path: Path, clock: HeldClock
) -> None:
    async with staged(migrated_file, tmp_path, clock, public_url="https://x.test") as stage:
        client, body = await stage.client(), {"refresh_token": "x"}
        for origin, status in (("https://x.test", 401), ("https://y.test", 403)):
            headers = {"Origin": origin}
            answer = await client.post("/api/auth/refresh", json=body, headers=headers)
            assert answer.status == status


async def test_media_of_users_is_served_in_a_sandbox(stage: Stage) -> None:
    objects = stage.front.objects
    await objects.put("jobs/a/1-0", b"<svg/>", "image/svg+xml", size_limit_bytes=100)
    url = await objects.presign("GET", "jobs/a/1-0", 60)
    answer = await (await stage.client()).get(stage.path(url))
    assert answer.status == 200
    assert_secure(answer.headers)
    assert "sandbox" in answer.headers["Content-Security-Policy"]


async def test_by_default_no_other_origin_may_call(stage: Stage) -> None:
    admin = await stage.admin()
    headers = {"Origin": "https://friend.test", **ASKED}
    answer = await admin.options("/api/tasks", headers=headers)
    assert (await problem(answer))["status"] == 405
    assert "Access-Control-Allow-Origin" not in answer.headers

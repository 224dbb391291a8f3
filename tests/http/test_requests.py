"""What comes in: bodies, types, fields, queries, ids; and how faults are told."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from structlog.testing import capture_logs

from limner.core.clock import HeldClock
from limner.core.errors import (
    Ambiguous,
    EngineUnavailable,
    LimnerError,
    NotConfigured,
    Permanent,
    TooMany,
)
from limner.http import body as bodies
from limner.storage.sql.suppressions import Suppression
from tests.fakes.front import PROVIDER, Stage, problem, staged
from tests.fakes.nasty_strings import NASTY_STRINGS

JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


def nested(levels: int) -> str:
    return '{"name":"x","connector":"demo","options":' + '{"a":' * levels + "1" + "}" * levels + "}"


BODIES: list[tuple[str, str | bytes, dict[str, str], int, str, list[str]]] = [
    ("no JSON", "{", JSON, 400, "not_json", []),
    ("not finite", '{"name": NaN}', JSON, 400, "not_json", []),
    ("too deep", nested(70), JSON, 400, "json_too_deep", []),
    ("a list", "[]", JSON, 422, "invalid", [""]),
    ("nothing at all", "", JSON, 400, "not_json", []),
    ("another type", "{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type", []),
    ("a form", "a=1", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "", []),
    ("compressed", b"\x1f\x8b", {**JSON, "Content-Encoding": "x-gzip"}, 400, "bad_request", []),
    ("too large", b" " * (1 << 20) + b"{}", JSON, 413, "too_large", []),
    ("all faults at once", '{"name":"","x/~":1,"interval_s":1}', JSON, 422, "invalid",
     ["/name", "/connector", "/interval_s", "/x~1~0"]),
    ("an unknown field", '{"name":"x","connector":"demo","role":"admin"}', JSON, 422, "invalid",
     ["/role"]),
    ("a name twice", '{"name":"x","name":"y","connector":"demo","options":{"a":{"b":1,"b":2}}}',
     JSON, 422, "invalid", ["/name", "/options/a/b"]),
    ("a name twice in a list", '{"name":"x","connector":"demo","options":{"l":[1,{"b":1,"b":2}]}}',
     JSON, 422, "invalid", ["/options/l/1/b"]),
    ("text for a number", '{"name":"x","connector":"demo","interval_s":"5"}', JSON, 422, "invalid",
     ["/interval_s"]),
    ("an unknown connector", '{"name":"x","connector":"y"}', JSON, 422, "invalid", ["/connector"]),
    ("an option that lacks", '{"name":"x","connector":"http"}', JSON, 422, "invalid",
     ["/options/url"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "headers", "status", "code", "pointers"),
    [row[1:] for row in BODIES],
    ids=[row[0] for row in BODIES],
)
async def test_a_body_that_does_not_fit_is_refused_with_all_its_faults(
    stage: Stage,
    content: str | bytes,
    headers: dict[str, str],
    status: int,
    code: str,
    pointers: list[str],
) -> None:
    admin = await stage.admin()
    data = io.BytesIO(content.encode() if isinstance(content, str) else content)
    answer = await admin.post(
        "/api/sources", data=data, headers=headers, skip_auto_headers=["Content-Encoding"]
    )
    found = await problem(answer)
    assert answer.status == status, found
    assert found["code"] == (code or found["code"])
    assert sorted(fault["pointer"] for fault in found.get("errors", [])) == sorted(pointers)
    assert await (await admin.get("/api/sources")).json() == {"data": [], "next_cursor": None}


async def test_a_problem_says_what_where_and_which_request(stage: Stage) -> None:
    client = await stage.client()
    answer = await client.get("/api/tasks/none", headers={"X-Request-Id": "abc-1"})
    assert await problem(answer) == {
        "type": f"{stage.front.settings.base_url}/docs#problem-unauthenticated",
        "title": "Unauthorized",
        "status": 401,
        "detail": "sign in, or send an API key",
        "instance": "/api/tasks/none",
        "code": "unauthenticated",
        "request_id": "abc-1",
    }


async def test_a_body_in_chunks_over_the_limit_is_cut_off(stage: Stage) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 65_536

    admin = await stage.admin()
    answer = await admin.post("/api/sources", data=endless(), headers=JSON)
    assert (await problem(answer))["code"] == "too_large"


async def test_a_body_that_dawdles_is_given_up(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "READ_LIMIT_S", 0.05)
    release = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b'{"name":'
        await release.wait()
        yield b'"x"}'

    admin = await stage.admin()
    sending = asyncio.create_task(admin.post("/api/sources", data=slow(), headers=JSON))
    answer = await asyncio.wait_for(sending, 5)
    release.set()
    assert (await problem(answer))["status"] == 408


async def test_a_long_body_is_read_off_the_loop_and_stored_whole(stage: Stage) -> None:
    admin = await stage.admin()
    options = {"note": "x" * 100_000}
    made = await admin.post(
        "/api/sources", json={"name": "x", "connector": "demo", "options": options}
    )
    assert made.status == 201
    assert (await (await admin.get(stage.path(made.headers["Location"]))).json())[
        "options"
    ] == options


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/tasks?limit=0", 422),
        ("/api/tasks?limit=201", 422),
        ("/api/tasks?limit=x", 422),
        ("/api/tasks?state=lost", 422),
        ("/api/tasks?stat=failed", 422),
        ("/api/tasks?limit=1&limit=2", 422),
        ("/api/tasks?cursor=%00", 422),
        ("/api/tasks?cursor=bm90aGluZw", 422),
        ("/api/tasks?cursor=MjAyNi0xMS0yMlQxMjowMDowMCB0YXNrX3g", 422),
        ("/api/tasks/none?x=1", 422),
        ("/api/audit?since=2026-11-22T12:00:00", 422),
        ("/api/tasks/%2e%2e%2fetc", 404),
        ("/api/tasks/" + "x" * 500, 404),
        ("/api/tasks/a%00b", 404),
        ("/api/nothing", 404),
    ],
)
async def test_a_query_or_path_that_does_not_fit_is_refused(
    stage: Stage, path: str, status: int
) -> None:
    admin = await stage.admin()
    answer = await admin.get(path)
    assert (await problem(answer))["status"] == status


async def test_a_method_that_is_not_there_names_those_that_are(stage: Stage) -> None:
    admin = await stage.admin()
    answer = await admin.put("/api/tasks", json={})
    assert (await problem(answer))["code"] == "method_not_allowed"
    assert answer.headers["Allow"] == "GET,HEAD"


async def test_a_post_without_fields_takes_no_body_or_an_empty_one_only(stage: Stage) -> None:
    admin = await stage.admin()
    task = await stage.task("failed")
    wrong = await admin.post(f"/api/tasks/{task.id}/retry", json={"force": True})
    assert [fault["pointer"] for fault in (await problem(wrong))["errors"]] == ["/force"]
    assert (await admin.post(f"/api/tasks/{task.id}/retry", json={})).status == 202


ERRORS: list[tuple[LimnerError, int, str, str]] = [
    (EngineUnavailable("database: mysql://root@db is gone"), 503, "engine_unavailable", "2"),
    (TooMany("slowly", retry_after_s=3.2), 429, "rate_limited", "4"),
    (NotConfigured("set LIMNER_LLM_URL"), 503, "not_configured", ""),
    (Ambiguous("no answer"), 502, "ambiguous", ""),
    (Permanent("no"), 400, "permanent", ""),
    (LimnerError("table users has no column x"), 500, "internal", ""),
]


@pytest.mark.parametrize(("error", "status", "code", "retry_after"), ERRORS)
async def test_an_error_of_ours_becomes_a_problem_without_what_is_inside(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    error: LimnerError,
    status: int,
    code: str,
    retry_after: str,
) -> None:
    async def fail(_: str) -> dict[str, Any]:
        raise error

    monkeypatch.setattr(stage.front.intent, "test", fail)
    admin = await stage.admin()
    answer = await admin.post("/api/intent/test", json={"text": "x"})
    found = await problem(answer)
    assert (answer.status, found["code"]) == (status, code)
    assert answer.headers.get("Retry-After", "") == retry_after
    assert not {"mysql", "users"} & set(found["detail"].replace(":", " ").split())


async def test_a_bug_tells_only_the_request_id(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: str) -> dict[str, Any]:
        raise KeyError("canary-secret")

    monkeypatch.setattr(stage.front.intent, "test", fail)
    admin = await stage.admin()
    answer = await admin.post("/api/intent/test", json={"text": "x"})
    found = await problem(answer)
    assert (answer.status, found["code"]) == (500, "internal")
    assert found["request_id"] == answer.headers["X-Request-Id"]
    assert "canary" not in json.dumps(found)
    assert "Traceback" not in json.dumps(found)


async def test_a_client_that_is_gone_is_no_bug_of_ours(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: str) -> dict[str, Any]:
        raise ConnectionResetError

    monkeypatch.setattr(stage.front.intent, "test", fail)
    admin = await stage.admin()
    with capture_logs() as lines:
        await admin.post("/api/intent/test", json={"text": "x"})
    assert [(line["event"], line["status"]) for line in lines] == [("request", 499)]


async def test_a_redirect_of_the_server_is_passed_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: str) -> dict[str, Any]:
        raise web.HTTPFound("/docs")

    monkeypatch.setattr(stage.front.intent, "test", away)
    admin = await stage.admin()
    answer = await admin.post("/api/intent/test", json={"text": "x"}, allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (302, "/docs")


async def test_any_text_comes_back_as_it_went_in_or_is_refused(stage: Stage) -> None:
    admin = await stage.admin()
    for text in NASTY_STRINGS:
        await assert_harmless(stage, admin, text)


async def assert_harmless(stage: Stage, admin: TestClient[Any, Any], text: str) -> None:
    source = {"name": text, "connector": "demo", "external_id": text, "options": {text: [text]}}
    made = await admin.post("/api/sources", json=source)
    if made.status == 422:
        assert {fault["pointer"] for fault in (await problem(made))["errors"]} <= {
            "/name",
            "/external_id",
        }
    else:
        assert made.status == 201
        found = await (await admin.get(stage.path(made.headers["Location"]))).json()
        assert {name: found[name] for name in source} == source
    for method, path, body in [
        ("POST", "/api/providers", {**PROVIDER, "name": text}),
        ("POST", "/api/providers", {**PROVIDER, "base_url": text}),
        ("POST", "/api/suppressions", {"address": text}),
        ("POST", "/api/keys", {"name": text, "scopes": [text]}),
        ("PUT", "/api/settings", {"keywords": [text]}),
        ("PUT", "/api/settings", {text: 1}),
        ("PUT", "/api/settings/secrets/x", {"value": text}),
        ("POST", "/api/intent/test", {"text": text}),
    ]:
        answer = await admin.request(method, path, json=body)
        assert answer.status < 500, (method, path, text)
    for query in ("email", "state", "provider", "cursor"):
        answer = await admin.get("/api/tasks", params={query: text})
        assert answer.status < 500, (query, text)
    answer = await admin.get("/api/tasks", headers={"X-Request-Id": "x"}, params={text: "1"})
    # A line that is too long is refused before it is read as a request.
    assert answer.status in {200, 422, 431}


async def test_a_lone_surrogate_in_a_body_is_never_an_error_of_ours(stage: Stage) -> None:
    admin = await stage.admin()
    for content in (
        rb'{"address":"a\ud800@x.test"}',
        rb'{"\ud800":1,"\ud800":2,"address":"a@x.test"}',
    ):
        answer = await admin.post("/api/suppressions", data=content, headers=JSON)
        assert (await problem(answer))["status"] == 422
    assert await Suppression.all().count() == 0

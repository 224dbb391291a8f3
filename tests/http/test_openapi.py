"""The description of the REST interface: valid, whole, and true to what is served."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from jsonschema import Draft202012Validator  # type: ignore[import-untyped] # ships no types
from openapi_spec_validator import validate

from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable
from limner.http.auth import callers
from limner.http.limits import Rate, Rates
from limner.http.openapi import document
from limner.http.routes import Route
from limner.http.table import ROUTES
from tests.fakes.front import PROVIDER, staged

GUARDED = {"401", "403", "422", "429", "503"}
CHANGING = {*GUARDED, "400", "408", "413", "415"}


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return document(ROUTES, "1.2.3", "http://x.test")


def test_it_is_valid_openapi(described: dict[str, Any]) -> None:
    validate(described)
    assert described["openapi"] == "3.1.0"
    assert described["info"]["version"] == "1.2.3"
    assert described["servers"] == [{"url": "http://x.test"}]


def test_every_route_of_the_api_is_in_it(described: dict[str, Any]) -> None:
    found = {
        (method.upper(), path) for path, methods in described["paths"].items() for method in methods
    }
    expected = {
        (route.method, re.sub(r"\{(\w+):.*\}", r"{\1}", route.path))
        for route in ROUTES
        if route.is_documented
    }
    assert found == expected
    assert all(route.is_documented for route in ROUTES if route.path.startswith("/api/"))


def test_every_operation_has_a_name_of_its_own(described: dict[str, Any]) -> None:
    names = [one["operationId"] for path in described["paths"].values() for one in path.values()]
    assert len(names) == len(set(names))


def test_access_is_described(described: dict[str, Any]) -> None:
    paths = described["paths"]
    assert paths["/livez"]["get"]["security"] == []
    assert paths["/api/tasks"]["get"]["security"][0] == {"key": ["tasks:read"]}
    assert paths["/api/stream"]["get"]["security"][0] == {"key": []}


@pytest.mark.parametrize(
    ("method", "path", "statuses"),
    [
        ("get", "/api/tasks", {"200", *GUARDED}),
        ("get", "/api/tasks/{id}", {"200", "304", "404", *GUARDED}),
        ("post", "/api/sources", {"201", "409", *CHANGING}),
        ("post", "/api/tasks/{id}/retry", {"202", "404", "409", *CHANGING}),
        ("get", "/livez", {"200", "422"}),
        ("get", "/readyz", {"200", *GUARDED}),
        ("get", "/healthz", {"200", *GUARDED}),
        ("post", "/api/deliveries/{id}/resend", {"202", "404", "409", *CHANGING}),
    ],
)
def test_every_answer_is_described(
    described: dict[str, Any], method: str, path: str, statuses: set[str]
) -> None:
    assert set(described["paths"][path][method]["responses"]) == statuses


def examples(described: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Give each example with its place and its schema."""
    for path, methods in described["paths"].items():
        for method, one in methods.items():
            place = f"{method} {path}"
            for parameter in one["parameters"]:
                yield f"{place} {parameter['name']}", parameter["schema"], parameter["example"]
            bodies = one.get("requestBody", {}).get("content", {})
            answers = [answer.get("content", {}) for answer in one["responses"].values()]
            for content in (bodies, *answers):
                for form in content.values():
                    if "$ref" in form["schema"]:
                        yield place, form["schema"], form["example"]
    for name, answer in described["components"]["responses"].items():
        (form,) = answer["content"].values()
        yield name, form["schema"], form["example"]
    for name, header in described["components"]["headers"].items():
        yield name, header["schema"], header["example"]


def test_everything_has_an_example_that_fits(described: dict[str, Any]) -> None:
    found = list(examples(described))
    assert len(found) > len(ROUTES)
    for place, schema, example in found:
        whole = {**schema, "components": described["components"]}
        faults = [fault.message for fault in Draft202012Validator(whole).iter_errors(example)]
        assert not faults, place


@pytest.mark.parametrize("route", [one for one in ROUTES if one.body], ids=lambda one: one.path)
def test_the_example_of_a_body_is_one_that_is_taken(
    described: dict[str, Any], route: Route
) -> None:
    path = re.sub(r"\{(\w+):.*\}", r"{\1}", route.path)
    body = described["paths"][path][route.method.lower()]["requestBody"]
    example = body["content"]["application/json"]["example"]
    assert route.body is not None
    route.body.model_validate_json(json.dumps(example), strict=True)


def test_every_answer_names_its_headers(described: dict[str, Any]) -> None:
    paths = described["paths"]
    made = paths["/api/sources"]["post"]["responses"]["201"]["headers"]
    assert {"Location", "Idempotency-Replayed", "X-Request-Id", "RateLimit"} <= set(made)
    assert "ETag" in paths["/api/tasks/{id}"]["get"]["responses"]["200"]["headers"]
    assert "Link" in paths["/api/tasks"]["get"]["responses"]["200"]["headers"]
    for status in ("409", "429", "503"):
        problem = described["components"]["responses"][f"Problem{status}"]
        assert "Retry-After" in problem["headers"], status
    again = paths["/api/deliveries/{id}/resend"]["post"]["responses"]["202"]["headers"]
    assert {"Location", "Idempotency-Replayed"} <= set(again)
    taken = paths["/api/users"]["post"]["responses"]["409"]["headers"]
    assert "Retry-After" in taken, "also where the sentence is one of its own"


def test_whoever_may_wait_is_told_so(described: dict[str, Any]) -> None:
    waiting = set()
    for path, methods in described["paths"].items():
        for method, one in methods.items():
            if any(parameter["name"] == "Prefer" for parameter in one["parameters"]):
                good = min(one["responses"])
                assert "Preference-Applied" in one["responses"][good]["headers"], path
                waiting.add(f"{method} {path}")
    assert waiting == {
        "post /api/generate/image",
        "get /api/generate/{id}",
        "post /api/generate/{id}/cancel",
        "delete /api/generate/{id}",
        "get /api/tasks/{id}",
        "post /api/tasks/{id}/retry",
        "post /api/tasks/{id}/approve",
    }


def test_every_tag_is_described(described: dict[str, Any]) -> None:
    assert [tag["name"] for tag in described["tags"] if not tag["description"]] == []


def test_unknown_fields_are_faults_in_the_schema_too(described: dict[str, Any]) -> None:
    for name in ("SourceIn", "ProviderIn", "Approval", "KeyIn", "SettingsIn"):
        assert described["components"]["schemas"][name]["additionalProperties"] is False


def test_every_setting_can_be_put_or_reset(described: dict[str, Any]) -> None:
    properties = described["components"]["schemas"]["SettingsIn"]["properties"]
    interval = properties["poll_interval_s"]
    assert interval["anyOf"][0]["minimum"] == 5
    assert interval["anyOf"][1] == {"type": "null"}


async def test_answers_are_as_described(
    described: dict[str, Any], migrated_file: Path, tmp_path: Path, clock: HeldClock
) -> None:
    async with staged(migrated_file, tmp_path, clock) as stage:
        admin = await stage.admin()
        task = await stage.task()
        source = await (
            await admin.post("/api/sources", json={"name": "x", "connector": "demo"})
        ).json()
        provider = await (await admin.post("/api/providers", json=PROVIDER)).json()
        await admin.put("/api/settings", json={"poll_interval_s": 60})
        paths = {
            "/api/sources/{id}": f"/api/sources/{source['id']}",
            "/api/providers/{id}": f"/api/providers/{provider['id']}",
            "/api/tasks/{id}": f"/api/tasks/{task.id}",
            "/api/comments/{id}": f"/api/comments/{task.comment_id}",
        }
        checked = 0
        for route in [one for one in ROUTES if one.method == "GET" and one.answer is not None]:
            path = paths.get(route.path, route.path)
            if "{" in path:
                continue
            answer = await admin.get(path)
            assert answer.status == 200, path
            _assert_valid(described, route, await answer.json())
            checked += 1
        assert checked >= 15


def _assert_valid(described: dict[str, Any], route: Route, content: Any) -> None:
    operation = described["paths"][route.path]["get"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    whole = {**schema, "components": described["components"]}
    Draft202012Validator(whole).validate(content)


@pytest.mark.parametrize(
    ("path", "scope", "status", "content_type"),
    [
        ("/readyz", None, 503, "text/plain"),
        ("/readyz?verbose", None, 401, "application/problem+json"),
        ("/readyz?verbose", "tasks:read", 403, "application/problem+json"),
        ("/readyz?verbose", "ops:read", 503, "application/health+json"),
        ("/readyz?verbose&verbose", None, 422, "application/problem+json"),
        ("/healthz", "ops:read", 503, "application/health+json"),
        ("/healthz", "tasks:read", 403, "application/problem+json"),
    ],
)
@pytest.mark.parametrize("is_ready", [False, True])
async def test_probes_of_every_outcome_answer_as_described(
    described: dict[str, Any],
    migrated_file: Path,
    tmp_path: Path,
    clock: HeldClock,
    path: str,
    scope: str | None,
    status: int,
    content_type: str,
    is_ready: bool,
) -> None:
    if is_ready and status == 503:
        status = 200
    async with staged(migrated_file, tmp_path, clock) as stage:
        stage.is_ready = is_ready
        client = await stage.client(await stage.key(scope) if scope else None)
        answer = await client.get(path)
        await answer.read()
    assert (answer.status, answer.content_type) == (status, content_type)
    _assert_described(described, path, answer)


async def test_probes_that_are_refused_for_now_answer_as_described(
    described: dict[str, Any],
    migrated_file: Path,
    tmp_path: Path,
    clock: HeldClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*_: Any) -> None:
        raise EngineUnavailable("The database is out of reach")

    few = Rates(Rate("account", 1, 1), Rate("anonymous", 1, 1))
    async with staged(migrated_file, tmp_path, clock, rates=few) as stage:
        client, nobody = await stage.admin(), await stage.client()
        for path in ("/readyz?verbose", "/healthz"):
            with monkeypatch.context() as patched:
                patched.setattr(callers, "find_key", fail)
                away = await client.get(path)
            assert (away.status, away.content_type) == (503, "application/problem+json")
            _assert_described(described, path, away)
            await nobody.get(path)
            often = await nobody.get(path)
            assert (often.status, often.content_type) == (429, "application/problem+json")
            _assert_described(described, path, often)
        for _ in range(3):
            assert (await nobody.get("/livez?verbose")).status == 422, "the probe itself goes on"


def _assert_described(described: dict[str, Any], path: str, answer: ClientResponse) -> None:
    one = described["paths"][path.partition("?")[0]]["get"]["responses"][str(answer.status)]
    if "$ref" in one:
        one = described["components"]["responses"][one["$ref"].rpartition("/")[2]]
    assert answer.content_type in one["content"]
    told = set(answer.headers) & set(described["components"]["headers"])
    assert told <= set(one["headers"])


def test_a_scope_that_does_not_exist_cannot_be_asked_for() -> None:
    async def handler(_: Any) -> None:
        return None

    with pytest.raises(ValueError, match="no scope"):
        Route("GET", "/x", handler, "x", "everything")

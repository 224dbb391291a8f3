"""What another site makes a browser send changes nothing (ASVS 5.0, 3.5.1 to 3.5.3 and 3.3).

Every route that changes something is asked by the owner's own browser, for objects that are there
and with bodies that fit, so that only the origin or the token can be what refuses it.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from limner.core.clock import HeldClock
from limner.http.auth import csrf
from limner.http.routes import OPEN, Route
from limner.http.table import ROUTES
from limner.storage.sql.accounts import digest
from tests.fakes.front import Stage, problem, staged
from tests.fakes.pages import csrf_token
from tests.http.security.belongings import (
    all_rows,
    belongings,
    body_of,
    changes,
    difference,
    name_of,
    path_of,
)

CHANGES = [route for route in ROUTES if changes(route)]
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": csrf.FORM_TYPE}
EVIL = "https://evil.test"
FOREIGN, UNPROVEN = (403, "foreign_origin"), (403, "csrf")
Attack = Callable[[str, Route], dict[str, Any]]
"""Gives what is sent, for the token of the browser's pages."""


def plain(route: Route) -> bytes:
    return json.dumps(body_of(route) or {}).encode()


def sent(route: Route, token: str | None = None, **headers: str) -> dict[str, Any]:
    """Give a request that is as it should be, but for ``headers``."""
    kind = JSON if route.is_documented else FORM
    token_header = {} if token is None else {csrf.HEADER: token}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    data = plain(route) if route.is_documented else b""
    return {"data": data, "headers": {**kind, **token_header, **named}}


def typed(route: Route, content_type: str, data: bytes, **headers: str) -> dict[str, Any]:
    return {"data": data, "headers": {"Content-Type": content_type, **headers}}


# name: (what is sent, the status and the code of the answer)
ATTACKS: dict[str, tuple[Attack, tuple[int, str]]] = {
    "foreign origin": (lambda token, route: sent(route, token, Origin=EVIL), FOREIGN),
    "null origin": (lambda token, route: sent(route, token, Origin="null"), FOREIGN),
    "cross-site": (lambda token, route: sent(route, token, Sec_Fetch_Site="cross-site"), FOREIGN),
    "same-site": (lambda token, route: sent(route, token, Sec_Fetch_Site="same-site"), FOREIGN),
    "no token": (lambda _, route: sent(route), UNPROVEN),
    "wrong token": (lambda token, route: sent(route, token[:-2] + "xx"), UNPROVEN),
    "text/plain": (lambda _, route: typed(route, "text/plain", plain(route)), UNPROVEN),
    "text/plain with the token": (
        lambda token, route: typed(route, "text/plain", plain(route), **{csrf.HEADER: token}),
        (415, "unsupported_media_type"),
    ),
    "JSON as a form": (
        lambda _, route: typed(route, csrf.FORM_TYPE, plain(route) + b"="),
        UNPROVEN,
    ),
    "a form of several parts": (
        lambda _, route: typed(route, "multipart/form-data; boundary=x", b"--x--\r\n"),
        UNPROVEN,
    ),
    "claims to be a GET": (
        lambda _, route: sent(route, X_HTTP_Method_Override="GET", X_Method_Override="GET"),
        UNPROVEN,
    ),
}


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


async def signed_in(stage: Stage) -> tuple[TestClient[Any, Any], str]:
    """Give the owner's browser without its token, and the token."""
    browser = await stage.signed_in()
    token = browser.session.headers.popone(csrf.HEADER)
    assert (await browser.get("/api/me")).status == 200
    return browser, token


def test_the_table_has_every_route_that_changes_something() -> None:
    assert len(CHANGES) > 60
    left_out = {name_of(route) for route in ROUTES if route.method not in csrf.SAFE_METHODS} - {
        name_of(route) for route in CHANGES
    }
    assert left_out == {
        "POST /api/providers/{id}/callback/{signed}",
        "POST /unsubscribe/{signed}",
        "PUT /o/{key:.+}",
    }


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_forged_request_is_refused_on_every_route_and_changes_nothing(
    stage: Stage, attack: str
) -> None:
    browser, token = await signed_in(stage)
    mine = await belongings(stage, stage.owner)
    make, refusal = ATTACKS[attack]
    before = await all_rows()
    wrong = {}
    for route in CHANGES:
        path = path_of(route, mine)
        answer = await browser.request(
            route.method, path, allow_redirects=False, **make(token, route)
        )
        found = (answer.status, (await problem(answer))["code"])
        # Whether there is such a provider is asked before the body is read.
        is_unknown = refusal[0] == 415 and route.path == "/auth/{name}/link"
        expected = (404, "not_found") if is_unknown else refusal
        if found != expected:
            wrong[name_of(route)] = found
    assert wrong == {}
    assert difference(before, await all_rows()) == {}
    assert (await browser.get("/api/me")).status == 200, "the session lives on"


async def tokens(stage: Stage) -> dict[str, str]:
    """Give tokens that were made for something else."""
    other, own_other = await stage.signed_in(await stage.user()), await stage.signed_in()
    signer = stage.front.signer
    return {
        "of another account": other.session.headers[csrf.HEADER],
        "of another session of the same account": own_other.session.headers[csrf.HEADER],
        "of a visitor": signer.token(csrf.PURPOSE, {"visitor": digest("x")}),
        "for another purpose": signer.token("result", {"session": "x"}),
        "empty": "",
    }


async def test_a_token_that_was_made_for_something_else_opens_no_route(stage: Stage) -> None:
    forged = await tokens(stage)
    browser, _ = await signed_in(stage)
    mine = await belongings(stage, stage.owner)
    before = await all_rows()
    wrong = {}
    for route in CHANGES:
        for what, token in forged.items():
            path = path_of(route, mine)
            answer = await browser.request(route.method, path, **sent(route, token))
            if answer.status != 403 or (await problem(answer))["code"] != "csrf":
                wrong[f"{name_of(route)} {what}"] = answer.status
    assert wrong == {}
    assert difference(before, await all_rows()) == {}


CLAIMS = ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override")


READS = [route for route in ROUTES if route.method == "GET" and "{id}" in route.path]
LENIENT = {"text/event-stream", "application/octet-stream"}
"""What the routes give that overlook a parameter they do not know, as pages do."""


async def test_no_header_makes_a_read_a_change(stage: Stage) -> None:
    browser, token = await signed_in(stage)
    mine = await belongings(stage, stage.owner)
    before = await all_rows()
    for route in READS:
        for name in CLAIMS:
            asked = {name: "DELETE", csrf.HEADER: token}
            answer = await browser.get(path_of(route, mine), headers=asked)
            answer.close()
            assert answer.status == 200, (route.path, name)
    assert difference(before, await all_rows()) == {}


async def test_no_parameter_makes_a_read_a_change(stage: Stage) -> None:
    browser, token = await signed_in(stage)
    mine = await belongings(stage, stage.owner)
    before = await all_rows()
    for route in READS:
        answer = await browser.get(
            path_of(route, mine), params={"_method": "DELETE"}, headers={csrf.HEADER: token}
        )
        answer.close()
        is_strict = route.is_documented and route.media not in LENIENT
        assert answer.status == (422 if is_strict else 200), route.path
    assert difference(before, await all_rows()) == {}


async def test_a_field_of_a_form_claims_no_other_method(stage: Stage) -> None:
    browser, token = await signed_in(stage)
    mine = await belongings(stage, stage.owner)
    before = await all_rows()
    data = {"_method": "DELETE", csrf.FIELD: token}
    for path in (f"/api/sources/{mine['source']}", f"/api/keys/{mine['key']}", "/account"):
        answer = await browser.post(path, data=data)
        assert answer.status == (422 if path == "/account" else 405), path
    assert difference(before, await all_rows()) == {}


VISITORS = [route for route in CHANGES if route.access == OPEN]
FORMS = [route for route in VISITORS if not route.is_documented]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": EVIL},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_a_visitor_is_made_to_change_nothing_either(
    stage: Stage, headers: Mapping[str, str]
) -> None:
    visitor = await stage.client()
    before = await all_rows()
    for route in VISITORS:
        request = sent(route)
        request["headers"].update(headers)
        answer = await visitor.request(route.method, route.path, **request)
        assert (answer.status, (await problem(answer))["code"]) == (403, "foreign_origin")
        assert "Set-Cookie" not in answer.headers
    assert difference(before, await all_rows()) == {}


async def token_of_page(client: TestClient[Any, Any]) -> str:
    """Give the token that a page for visitors carries."""
    text = await (await client.get("/login", headers={"Accept": "text/html"})).text()
    return csrf_token(text)


async def test_nobody_is_signed_in_by_the_form_of_somebody_elses_page(stage: Stage) -> None:
    """Login CSRF: the attacker's own token fits no cookie of the victim's browser."""
    attacker, victim, fresh = [await stage.client() for _ in range(3)]
    stolen = await token_of_page(attacker)
    own = await token_of_page(victim)
    assert stolen
    assert stolen != own
    before = await all_rows()
    for route in FORMS:
        for client, token in [(victim, stolen), (victim, ""), (fresh, stolen), (fresh, "x")]:
            data = {csrf.FIELD: token, "email": "a@x.test", "password": "a heron at the window"}
            answer = await client.post(route.path, data=data, allow_redirects=False)
            assert (answer.status, (await problem(answer))["code"]) == (403, "csrf"), route.path
            assert "limner_session" not in answer.headers.get("Set-Cookie", "")
    assert difference(before, await all_rows()) == {}
    # With its own token the same form is read, so that it was the token that refused it.
    data = {csrf.FIELD: own, "email": "a@x.test", "password": "a heron at the window"}
    answer = await victim.post("/login", data=data, allow_redirects=False)
    assert answer.status == 401

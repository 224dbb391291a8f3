"""Changes with a cookie need a token that only our own pages know (ASVS 5.0, 3.5.1 to 3.5.3)."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from aiohttp import ClientSession, CookieJar, web
from aiohttp.test_utils import TestClient, TestServer
from pydantic import Field

from limner.core.clock import HeldClock
from limner.http.auth import csrf
from limner.http.body import Form
from limner.http.call import CALLER, FRONT, Call
from limner.http.server import build_application
from limner.http.table import ROUTES
from limner.storage.sql.accounts import digest
from limner.storage.sql.sessions import Session
from tests.fakes.front import Stage, code_of, problem, staged
from tests.http.security.belongings import all_rows, belongings, path_of

FORM = {"Content-Type": csrf.FORM_TYPE}
# A one-time link, and a sign-in elsewhere that is begun or comes back: both by the interface.
CHANGED_BY_GET = {"/sign-in/{token}", "/auth/{name}/login", "/auth/{name}/callback"}
WISH = {"text": "draw a tree"}


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


@pytest.fixture
async def browser(stage: Stage) -> TestClient[Any, Any]:
    return await stage.signed_in()


class Wish(Form):
    """What the page of these tests asks."""

    text: Annotated[str, Field(max_length=20)]
    count: int = 1


async def show(request: web.Request) -> web.Response:
    """Show a form with its token, as pages do."""
    call = Call(request, request.app[FRONT], request[CALLER])
    assert csrf.token_for(call) == csrf.token_for(request), "a page may ask twice"
    return web.Response(text=csrf.token_for(call))


async def take(request: web.Request) -> web.Response:
    """Take the form."""
    call = Call(request, request.app[FRONT], request[CALLER])
    wish = await csrf.read_form(call, Wish)
    return web.json_response(wish.model_dump())


@pytest.fixture
async def pages(stage: Stage) -> AsyncIterator[TestServer]:
    """The front with one page more, which has a form."""
    application = build_application(stage.front)
    application.router.add_get("/form", show)
    application.router.add_post("/form", take)
    server = TestServer(application, host="127.0.0.1")
    async with server:
        yield server


@pytest.fixture
async def visitor(pages: TestServer) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(pages) as client:
        yield client


@pytest.mark.parametrize(
    "token",
    [None, "", "x", "é", "x" * 5000, "null"],
)
async def test_a_change_without_a_valid_token_is_refused(
    browser: TestClient[Any, Any], token: str | None
) -> None:
    browser.session.headers.popall(csrf.HEADER)
    headers = {} if token is None else {csrf.HEADER: token}
    answer = await browser.post("/api/intent/test", json=WISH, headers=headers)
    assert await code_of(answer, 403) == "csrf"
    assert (await browser.get("/api/tasks", headers=headers)).status == 200


async def test_a_change_with_the_token_is_done(browser: TestClient[Any, Any]) -> None:
    assert (await browser.post("/api/intent/test", json=WISH)).status == 200


async def test_the_token_of_another_session_is_none(stage: Stage) -> None:
    mine, other = await stage.signed_in(), await stage.signed_in()
    stolen = {csrf.HEADER: other.session.headers[csrf.HEADER]}
    answer = await mine.post("/api/intent/test", json=WISH, headers=stolen)
    assert await code_of(answer, 403) == "csrf"


async def test_what_was_signed_for_something_else_is_no_token(
    stage: Stage, browser: TestClient[Any, Any]
) -> None:
    session = await Session.get()
    for purpose, payload in [
        ("result", {"session": session.id}),
        ("csrf", {"session": "session_other"}),
        ("csrf", {"visitor": digest("x")}),
        ("csrf", {}),
    ]:
        headers = {csrf.HEADER: stage.front.signer.token(purpose, payload)}
        assert (await browser.post("/api/intent/test", json=WISH, headers=headers)).status == 403


async def test_a_new_session_makes_the_old_tokens_void(
    stage: Stage, browser: TestClient[Any, Any]
) -> None:
    answer = await browser.get(f"/sign-in/{await stage.link()}", allow_redirects=False)
    assert answer.status == 303
    assert (await browser.post("/api/intent/test", json=WISH)).status == 403


@pytest.mark.parametrize("kind", ["key", "token"])
async def test_what_no_browser_sends_by_itself_needs_no_token(stage: Stage, kind: str) -> None:
    client = await stage.admin() if kind == "key" else await stage.bearer()
    assert (await client.post("/api/intent/test", json=WISH)).status == 200


async def test_no_get_of_the_table_changes_anything_but_where_sign_ins_begin(
    stage: Stage, browser: TestClient[Any, Any]
) -> None:
    mine = await belongings(stage, stage.owner)
    before = await all_rows()
    assert before["tasks"]
    for route in ROUTES:
        if route.method != "GET" or route.path in CHANGED_BY_GET:
            continue
        path = path_of(route, mine)
        answer = await browser.get(path, allow_redirects=False)
        answer.close()
        assert answer.status == 200 if "{id}" in route.path else answer.status < 500, path
    assert await all_rows() == before


@pytest.mark.parametrize("content_type", ["text/plain", "text/plain; charset=utf-8", "x/y", ""])
async def test_json_of_another_type_is_refused_with_and_without_a_token(
    browser: TestClient[Any, Any], content_type: str
) -> None:
    sent: dict[str, Any] = {
        "data": b'{"text": "draw a tree"}',
        "headers": {"Content-Type": content_type},
    }
    assert (await browser.post("/api/intent/test", **sent)).status == 415
    browser.session.headers.popall(csrf.HEADER)
    assert (await browser.post("/api/intent/test", **sent)).status == 403


async def test_a_form_is_no_way_into_the_api(browser: TestClient[Any, Any]) -> None:
    token = browser.session.headers.popone(csrf.HEADER)
    sent = {**WISH, csrf.FIELD: token}
    assert (await browser.post("/api/intent/test", data=sent)).status == 415
    assert (await browser.post("/api/intent/test", data=WISH)).status == 403


@pytest.mark.parametrize(
    "header", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "_method"]
)
async def test_headers_that_claim_another_method_mean_nothing(
    stage: Stage, browser: TestClient[Any, Any], header: str
) -> None:
    session = await Session.get()
    for claimed in ("DELETE", "POST", "GET"):
        answer = await browser.get("/api/sessions", headers={header: claimed})
        assert answer.status == 200
        assert (await browser.get(f"/api/sessions?_method={claimed}")).status == 422
    browser.session.headers.popall(csrf.HEADER)
    answer = await browser.delete(f"/api/sessions/{session.id}", headers={header: "GET"})
    assert answer.status == 403, "nor does a claimed GET make a change harmless"
    assert (await Session.get()).revoked_at is None


async def test_a_signed_path_needs_neither_token_nor_origin(
    stage: Stage, browser: TestClient[Any, Any]
) -> None:
    browser.session.headers.popall(csrf.HEADER)
    signed = stage.front.signer.token("unsubscribe", {"address": "a@x.test"})
    headers = {"Origin": "https://mail.test", "Sec-Fetch-Site": "cross-site"}
    answer = await browser.post(f"/unsubscribe/{signed}", headers=headers)
    assert answer.status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Sec-Fetch-Site": "same-origin"}, 401),
        ({"Origin": "own"}, 401),
        ({"Origin": "https://evil.test"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "own"}, 403),
    ],
)
async def test_another_site_cannot_make_a_visitor_ask_for_a_change_either(
    stage: Stage, headers: dict[str, str], status: int
) -> None:
    client = await stage.client()
    own = stage.front.settings.base_url
    sent = {name: own if value == "own" else value for name, value in headers.items()}
    answer = await client.post("/api/auth/refresh", json={"refresh_token": "x"}, headers=sent)
    assert answer.status == status


async def test_a_visitors_form_is_bound_to_a_cookie_of_its_browser(
    visitor: TestClient[Any, Any],
) -> None:
    shown = await visitor.get("/form")
    token, cookie = await shown.text(), shown.headers["Set-Cookie"]
    assert cookie.startswith("limner_visitor=")
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Max-Age" not in cookie, "it ends with the browser"
    answer = await visitor.post("/form", data={"text": "a tree", "count": "2", csrf.FIELD: token})
    assert answer.status == 200
    assert await answer.json() == {"text": "a tree", "count": 2}
    again = await visitor.get("/form")
    assert "Set-Cookie" not in again.headers
    assert (await again.text()) == token


async def test_a_visitors_form_without_its_cookie_or_token_is_refused(
    pages: TestServer, visitor: TestClient[Any, Any]
) -> None:
    token = await (await visitor.get("/form")).text()
    sent = {"text": "a tree", csrf.FIELD: token}
    async with ClientSession(pages.make_url("/"), cookie_jar=CookieJar(unsafe=True)) as other:
        assert (await other.post("/form", data=sent)).status == 403
        await other.get("/form")
        assert (await other.post("/form", data=sent)).status == 403, "its own cookie, not mine"
    assert (await visitor.post("/form", data={"text": "a tree"})).status == 403
    by_header = await visitor.post("/form", data={"text": "a tree"}, headers={csrf.HEADER: token})
    assert by_header.status == 200


async def test_over_https_the_visitors_cookie_is_bound_to_host_and_encryption(
    migrated_file: Path, tmp_path: Path, clock: HeldClock
) -> None:
    async with staged(migrated_file, tmp_path, clock, public_url="https://x.test") as stage:
        application = build_application(stage.front)
        application.router.add_get("/form", show)
        server = TestServer(application, host="127.0.0.1")
        client: TestClient[Any, Any] = TestClient(server)
        async with client:
            cookie = (await client.get("/form")).headers["Set-Cookie"]
    assert cookie.startswith("__Host-limner_visitor=")
    assert "Secure" in cookie


async def test_a_signed_in_form_carries_its_token_as_a_field(
    stage: Stage, pages: TestServer, visitor: TestClient[Any, Any]
) -> None:
    answer = await visitor.get(f"/sign-in/{await stage.link()}", allow_redirects=False)
    assert answer.status == 303
    shown = await visitor.get("/form")
    assert "Set-Cookie" not in shown.headers, "the session is enough to be bound to"
    sent = {"text": "a tree", csrf.FIELD: await shown.text()}
    assert (await visitor.post("/form", data=sent)).status == 200
    assert (await visitor.post("/form", data={"text": "a tree"})).status == 403
    sent[csrf.FIELD] = "x"
    assert (await visitor.post("/form", data=sent)).status == 403


async def test_signing_in_takes_the_visitors_cookie_back(
    stage: Stage, visitor: TestClient[Any, Any]
) -> None:
    token = await (await visitor.get("/form")).text()
    answer = await visitor.get(f"/sign-in/{await stage.link()}", allow_redirects=False)
    cookies = answer.headers.getall("Set-Cookie")
    assert any(one.startswith("limner_visitor=") and "Max-Age=0" in one for one in cookies)
    sent = {"text": "a tree", csrf.FIELD: token}
    assert (await visitor.post("/form", data=sent)).status == 403


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"text=a&text=b", FORM, 422),
        (b"text=a&more=b", FORM, 422),
        (b"text=" + b"a" * 21, FORM, 422),
        (b"count=1", FORM, 422),
        (b"text=a&count=x", FORM, 422),
        (b"text=%ff", FORM, 400),
        (b"text=\xff", FORM, 400),
        (b"&".join(b"f%d=1" % n for n in range(300)), FORM, 400),
        (b"text=" + b"a" * 70_000, FORM, 413),
        (b"{}", {"Content-Type": "application/json"}, 415),
        (b"text=a", {"Content-Type": "text/plain"}, 415),
        (b"text=a", {**FORM, "Content-Encoding": "gzip"}, 400),
    ],
)
async def test_a_form_that_does_not_fit_is_refused_with_its_faults(
    visitor: TestClient[Any, Any], body: bytes, headers: dict[str, str], status: int
) -> None:
    token = await (await visitor.get("/form")).text()
    answer = await visitor.post("/form", data=body, headers={**headers, csrf.HEADER: token})
    assert answer.status == status, await answer.text()
    found = await problem(answer)
    assert status != 422 or found["errors"]


async def test_a_program_posts_a_form_without_a_token(
    stage: Stage, visitor: TestClient[Any, Any]
) -> None:
    headers = {"Authorization": f"Bearer {await stage.key('admin')}"}
    answer = await visitor.post("/form", data={"text": "a tree"}, headers=headers)
    assert answer.status == 200

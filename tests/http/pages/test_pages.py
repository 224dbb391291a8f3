"""Pages: what they show, to whom, escaped, and the links that come with mails."""

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable
from limner.http.limits import Rate, Rates
from limner.http.pages.docs import problems
from limner.http.pages.rendering import duration
from limner.http.pages.static import static_files
from limner.storage.sql.suppressions import Suppression, is_suppressed
from limner.storage.sql.tasks import Task
from tests.fakes.front import Stage, staged
from tests.fakes.nasty_strings import NASTY_STRINGS
from tests.http.api.test_mailbox import keep

HTML = {"Accept": "text/html"}
VOID = {"meta", "link", "img", "input", "br"}


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


class Outline(HTMLParser):
    """Keeps what a page is made of and fails on what it must not have."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.addresses: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.attributes.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)
        assert not any(name.startswith("on") or name == "style" for name in found), attrs
        assert tag != "style"
        assert tag != "script" or found.get("src", "")
        for name in ("src", "href", "action", "poster"):
            if found.get(name):
                self.addresses.append(str(found[name]))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


async def outline(client: Any, path: str, status: int = 200) -> Outline:
    answer = await client.get(path, headers=HTML)
    assert answer.status == status, path
    assert answer.content_type == "text/html"
    text = await answer.text()
    assert text.startswith('<!doctype html>\n<html lang="en">')
    for part in ("<title>", 'name="viewport"', '<meta charset="utf-8">'):
        assert part in text
    return Outline(text)


def link(stage: Stage, purpose: str, payload: dict[str, str], ttl_s: int | None = 3600) -> str:
    ends = None if ttl_s is None else stage.clock.now() + timedelta(seconds=ttl_s)
    return stage.front.signer.token(purpose, payload, ends)


async def result(stage: Stage, **fields: Any) -> Task:
    for key, content_type in (("r/a.png", "image/png"), ("r/a.webm", "video/webm")):
        await stage.front.objects.put(key, b"bytes", content_type, size_limit_bytes=100)
    defaults = {"result_key": "r/a.png", "result_type": "image/png"}
    return await stage.task("emailed", **{**defaults, **fields})


async def test_all_pages_are_sound_and_take_nothing_from_elsewhere(stage: Stage) -> None:
    picture = await result(stage)
    video = await result(
        stage, media="video", result_key="r/a.webm", result_type="video/webm", poster_key="r/a.png"
    )
    review = await stage.task("needs_review")
    failed = await stage.task("failed", error="no <b>")
    mail = await keep(stage)
    tasks = [f"/tasks/{task.id}" for task in (picture, video, review, failed)]
    links = [f"/r/{link(stage, 'result', {'task': task.id})}" for task in (picture, video)]
    unsubscribe = f"/unsubscribe/{link(stage, 'unsubscribe', {'address': 'a@x.test'}, None)}"
    browser = await stage.signed_in()
    base = stage.front.settings.base_url
    for path in ["/", "/tasks", "/tasks?state=failed", *tasks, "/mailbox", f"/mailbox/{mail.id}",
                 "/docs", *links, unsubscribe]:  # fmt: skip
        page = await outline(browser, path)
        for address in page.addresses:
            assert address.startswith(("/", base, "#")), (path, address)
            assert not address.startswith("//")


async def test_every_file_that_a_page_names_is_there(stage: Stage) -> None:
    browser = await stage.signed_in()
    task = await stage.task()
    mail = await keep(stage)
    named = {"/static/page.js"}
    mails = ["/mailbox", f"/mailbox/{mail.id}"]
    for path in ["/", "/tasks", f"/tasks/{task.id}", *mails, "/docs", "/account"]:
        found = (await outline(browser, path)).addresses
        named |= {address for address in found if address.startswith("/static/")}
    assert {name.removeprefix("/static/") for name in named} == set(static_files())
    for name in named:
        answer = await browser.get(name)
        assert answer.status == 200
        tag = {"If-None-Match": answer.headers["ETag"]}
        assert (await browser.get(name, headers=tag)).status == 304
    assert (await browser.get("/static/none.js")).status == 404
    assert (await browser.get("/static/..%2frendering.py")).status == 404


async def test_whoever_is_not_signed_in_is_told_how_to(stage: Stage) -> None:
    client = await stage.client()
    for path in ("/tasks", "/mailbox", "/tasks/none"):
        page = await outline(client, path, 401)
        assert "run.py serve" in page.text
        assert "run.py key create" in page.text
    assert "run.py serve" in (await outline(client, "/")).text
    assert "Sign out" not in (await outline(client, "/")).text
    assert "Limner 1.2.3" in (await outline(client, "/")).text
    answer = await client.get("/tasks")
    assert answer.content_type == "application/problem+json"


async def test_the_overview_counts_what_the_caller_may_see(stage: Stage) -> None:
    await stage.task("failed")
    await stage.task("emailed", user_id="user_other")
    assert "2 in all" in (await outline(await stage.signed_in(), "/")).text
    limited = await stage.client(await stage.key("tasks:read"))
    assert "1 in all" in (await outline(limited, "/")).text
    other = await stage.client(await stage.key("sources:read"))
    assert "in all" not in (await outline(other, "/")).text


async def test_an_error_is_a_page_for_a_browser(stage: Stage) -> None:
    browser = await stage.signed_in()
    page = await outline(browser, "/nothing", 404)
    assert "Not Found" in page.text
    page = await outline(browser, "/tasks/none", 404)
    assert "There is no such task." in page.text
    await outline(browser, "/tasks?state=lost", 422)
    answer = await browser.get("/api/nothing", headers=HTML)
    assert answer.content_type == "application/problem+json"


async def test_a_bug_is_a_page_with_the_request_id_only(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> None:
        raise RuntimeError("canary")

    monkeypatch.setattr("limner.http.pages.overview.counts_by_state", fail)
    browser = await stage.signed_in()
    answer = await browser.get("/", headers=HTML)
    text = await answer.text()
    assert answer.status == 500
    assert "canary" not in text
    assert answer.headers["X-Request-Id"] in text


async def test_an_error_page_says_when_to_come_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> None:
        raise EngineUnavailable("mysql://root@db is gone")

    monkeypatch.setattr("limner.http.pages.overview.counts_by_state", fail)
    answer = await (await stage.signed_in()).get("/", headers=HTML)
    text = Outline(await answer.text()).text
    assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
    assert answer.content_type == "text/html"
    assert "This cannot be done right now. Try again in a minute." in text
    assert "mysql" not in text


async def test_a_browser_that_asks_too_often_reads_when_to_come_back(
    migrated_file: Path, tmp_path: Path, clock: HeldClock
) -> None:
    slow = Rates(Rate("account", 0.1, 1), Rate("anonymous", 0.1, 1))
    async with staged(migrated_file, tmp_path, clock, rates=slow) as stage:
        client = await stage.client()
        assert (await client.get("/", headers=HTML)).status == 200
        answer = await client.get("/", headers=HTML)
        text = Outline(await answer.text()).text
        assert (answer.status, answer.headers["Retry-After"]) == (429, "10")
        assert "Too many requests." in text


async def test_a_method_that_a_page_has_not_names_those_it_has(stage: Stage) -> None:
    browser = await stage.signed_in()
    answer = await browser.put("/tasks", headers=HTML)
    text = Outline(await answer.text()).text
    assert (answer.status, answer.headers["Allow"]) == (405, "GET,HEAD")
    assert "Go back to the page you came from." in text


ACTIONS = [
    ("pending", {"cancel"}),
    ("needs_review", {"cancel", "reject", "approve"}),
    ("running", {"cancel"}),
    ("unknown", {"retry", "cancel"}),
    ("failed", {"retry"}),
    ("emailed", set()),
]


@pytest.mark.parametrize(("state", "actions"), ACTIONS)
async def test_a_task_offers_what_can_be_done_about_it(
    stage: Stage, state: str, actions: set[str]
) -> None:
    task = await stage.task(state)
    text = await (await (await stage.signed_in()).get(f"/tasks/{task.id}")).text()
    assert set(re.findall(rf"/api/tasks/{task.id}/(\w+)\"", text)) == actions
    reader = await stage.client(await stage.key("tasks:read"))
    text = await (await reader.get(f"/tasks/{task.id}")).text()
    assert set(re.findall(rf"/api/tasks/{task.id}/(\w+)\"", text)) == set()


async def test_the_table_filters_and_pages(stage: Stage) -> None:
    for number in range(51):
        await stage.task("failed" if number else "emailed", prompt=f"wish {number}.")
    browser = await stage.signed_in()
    assert "wish 0." in (await outline(browser, "/tasks?state=emailed")).text
    assert "wish 1." not in (await outline(browser, "/tasks?state=emailed")).text
    page = await outline(browser, "/tasks?utm_source=x")
    assert "wish 50." in page.text
    older = next(address for address in page.addresses if "cursor=" in address)
    assert "wish 0." in (await outline(browser, older)).text


async def test_any_text_is_shown_and_never_becomes_markup(stage: Stage) -> None:
    browser = await stage.signed_in()
    for text in NASTY_STRINGS:
        task = await stage.task("needs_review", prompt=text[:2000], error=text[:1000])
        page = await outline(browser, f"/tasks/{task.id}")
        assert page.attributes, text
    await outline(browser, "/tasks")


async def test_the_link_of_a_mail_shows_the_picture_with_a_link_made_now(stage: Stage) -> None:
    task = await result(stage)
    client = await stage.client()
    page = await outline(client, f"/r/{link(stage, 'result', {'task': task.id})}")
    (address,) = {one for one in page.addresses if "/o/" in one}
    answer = await client.get(stage.path(address))
    assert (answer.status, await answer.read()) == (200, b"bytes")
    assert "works for 1 hour" in page.text
    assert "a red circle" in page.text


async def test_a_link_that_has_ended_says_so_kindly(stage: Stage) -> None:
    task = await result(stage)
    path = f"/r/{link(stage, 'result', {'task': task.id})}"
    stage.clock.advance(3600)
    page = await outline(await stage.client(), path, 410)
    assert "This link has ended" in page.text
    assert "For a new link" in page.text


@pytest.mark.parametrize("payload", [{"task": "task_none"}, {}])
async def test_a_link_to_nothing_says_so(stage: Stage, payload: dict[str, str]) -> None:
    client = await stage.client()
    await outline(client, f"/r/{link(stage, 'result', payload)}", 410)
    await outline(client, "/r/nothing", 404)


async def test_looking_at_the_unsubscribe_link_changes_nothing(stage: Stage) -> None:
    path = f"/unsubscribe/{link(stage, 'unsubscribe', {'address': 'Anna@Example.com'}, None)}"
    client = await stage.client()
    page = await outline(client, path)
    assert "Anna@Example.com" in page.text
    assert not await is_suppressed("anna@example.com")


@pytest.mark.parametrize(
    ("data", "headers"),
    [
        ({"List-Unsubscribe": "One-Click"}, {}),
        (b"", {}),
        (b'{"a":1}', {"Content-Type": "application/json"}),
    ],
)
async def test_one_click_or_the_button_ends_the_mails_however_often(
    stage: Stage, data: Any, headers: dict[str, str]
) -> None:
    path = f"/unsubscribe/{link(stage, 'unsubscribe', {'address': 'Anna@Example.com'}, None)}"
    client = await stage.client()
    for _ in range(2):
        answer = await client.post(path, data=data, headers=headers)
        assert answer.status == 200
    (row,) = await Suppression.all()
    assert (row.address, row.reason) == ("anna@example.com", "unsubscribed")


async def test_an_unsubscribe_link_that_is_none_changes_nothing(stage: Stage) -> None:
    client = await stage.client()
    assert (await client.get("/unsubscribe/none")).status == 404
    assert (await client.post("/unsubscribe/none")).status == 404
    token = link(stage, "result", {"address": "a@x.test"})
    assert (await client.post(f"/unsubscribe/{token}")).status == 404
    big = await client.post("/unsubscribe/none", data=b"x" * 5000)
    assert big.status == 413
    assert await Suppression.all().count() == 0


async def test_every_problem_of_an_answer_is_explained_where_its_type_leads(stage: Stage) -> None:
    client = await stage.client()
    text = await (await client.get("/docs")).text()
    answer = await (await client.get("/api/tasks")).json(content_type=None)
    assert f'id="{answer["type"].partition("#")[2]}"' in text
    codes = {code for _, code, _ in problems()}
    assert codes >= {"not_found", "invalid", "conflict", "rate_limited", "bad_request", "internal"}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (60, "1 minute"),
        (3600, "1 hour"),
        (5400, "90 minutes"),
        (7200, "2 hours"),
        (604_800, "7 days"),
        (90, "2 minutes"),
    ],
)
def test_durations_are_told_in_words(seconds: int, words: str) -> None:
    assert duration(seconds) == words

"""Where I am signed in: listed, ended one by one or all others, and nobody else's."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from limner.core.clock import HeldClock
from limner.core.message import Event
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.sessions import Session
from tests.fakes.front import Stage, problem, staged

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0"


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


async def listed(client: Any) -> list[dict[str, Any]]:
    answer = await client.get("/api/sessions")
    assert answer.status == 200
    found: list[dict[str, Any]] = (await answer.json())["data"]
    return found


async def test_all_living_sessions_are_listed_and_the_one_that_asks_is_marked(
    stage: Stage,
) -> None:
    browser = await stage.client(**{"User-Agent": FIREFOX})
    await browser.get(f"/sign-in/{await stage.link()}", allow_redirects=False)
    stage.clock.advance(1)
    program = await stage.bearer()
    await stage.signed_in(await stage.user())
    in_browser = await listed(browser)
    assert [(one["kind"], one["current"]) for one in in_browser] == [
        ("token", False),
        ("web", True),
    ]
    mine = in_browser[1]
    assert (mine["device"], mine["address"]) == ("Firefox on Linux", "127.0.0.1")
    assert mine["signed_in_by"] == "link"
    assert set(mine) == {
        "id",
        "kind",
        "current",
        "device",
        "address",
        "signed_in_by",
        "created_at",
        "last_seen_at",
        "expires_at",
    }
    assert [one["current"] for one in await listed(program)] == [True, False]
    assert [one["current"] for one in await listed(await stage.admin())] == [False, False]


async def test_what_has_ended_is_not_listed(stage: Stage) -> None:
    await stage.settings(session_idle_s=300)
    await stage.signed_in()
    stage.clock.advance(300)
    gone = await stage.signed_in()
    await gone.post("/api/auth/logout")
    admin = await stage.admin()
    assert await listed(admin) == []


async def test_the_list_has_pages(stage: Stage) -> None:
    for _ in range(3):
        await stage.tokens()
        stage.clock.advance(1)
    admin, found, path = await stage.admin(), [], "/api/sessions?limit=2"
    answer = await (await admin.get(path)).json()
    found += answer["data"]
    answer = await (await admin.get(f"{path}&cursor={answer['next_cursor']}")).json()
    found += answer["data"]
    assert len({one["id"] for one in found}) == 3
    assert answer["next_cursor"] is None


async def test_one_session_can_be_ended_and_works_no_more(stage: Stage) -> None:
    mine, lost = await stage.signed_in(), await stage.bearer()
    assert (await lost.get("/api/tasks")).status == 200
    ident = (await Session.get(kind=Session.TOKEN)).id
    assert (await mine.delete(f"/api/sessions/{ident}")).status == 204
    assert (await lost.get("/api/tasks")).status == 401
    assert (await mine.get("/api/tasks")).status == 200
    assert (await mine.delete(f"/api/sessions/{ident}")).status == 204, "it stays ended"
    line = await AuditLine.get(event="session.revoked")
    assert (line.subject, line.data["because"]) == (ident, "ended_by_owner")


async def test_all_others_can_be_ended_at_once(stage: Stage) -> None:
    mine, others = await stage.signed_in(), [await stage.signed_in(), await stage.bearer()]
    assert (await mine.delete("/api/sessions")).status == 204
    assert (await mine.get("/api/tasks")).status == 200
    assert [(await one.get("/api/tasks")).status for one in others] == [401, 401]
    assert len(await listed(mine)) == 1


async def test_a_key_ends_all(stage: Stage) -> None:
    browser, admin = await stage.signed_in(), await stage.admin()
    assert (await admin.delete("/api/sessions")).status == 204
    assert (await browser.get("/api/tasks")).status == 401
    assert (await admin.get("/api/tasks")).status == 200


async def test_nobody_ends_or_sees_the_session_of_another(stage: Stage) -> None:
    theirs = await stage.signed_in(await stage.user())
    ident = (await Session.get()).id
    for other in (await stage.signed_in(), await stage.signed_in(await stage.user())):
        answer = await other.delete(f"/api/sessions/{ident}")
        assert (answer.status, (await problem(answer))["code"]) == (404, "not_found")
        assert (await other.delete("/api/sessions")).status == 204
        assert ident not in str(await listed(other))
    assert (await theirs.get("/api/tasks")).status == 200
    assert (await theirs.delete(f"/api/sessions/{'x' * 200}")).status == 404


async def test_a_key_needs_the_scope_of_ones_own_account(stage: Stage) -> None:
    reader = await stage.client(await stage.key("account:read"))
    assert (await reader.get("/api/sessions")).status == 200
    assert (await reader.delete("/api/sessions")).status == 403
    other = await stage.client(await stage.key("tasks:read"))
    assert (await other.get("/api/sessions")).status == 403


async def test_other_processes_are_told_that_a_session_has_ended(stage: Stage) -> None:
    browser, program = await stage.signed_in(), await stage.bearer()
    heard: list[Event] = []
    async with stage.front.broker.subscribe() as events:
        ident = (await Session.get(kind=Session.TOKEN)).id
        await browser.delete(f"/api/sessions/{ident}")
        await browser.delete("/api/sessions")
        async for envelope in events:
            event = Event.from_bytes(envelope.body)
            if event.type == "session.revoked":
                heard.append(event)
            if len(heard) == 2:
                break
    assert [event.subject for event in heard] == [
        {"kind": "session", "id": ident},
        {"kind": "user", "id": stage.owner.id},
    ]
    assert {event.user_id for event in heard} == {stage.owner.id}
    assert (await program.get("/api/tasks")).status == 401

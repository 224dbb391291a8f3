"""The owner's account, one-time links, the cookie, and signing out."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from limner.core.clock import HeldClock
from limner.core.unit import Commit
from limner.http.auth.cookies import LIFE_S
from limner.storage.sql.accounts import (
    SignInLink,
    User,
    ensure_owner,
)
from limner.storage.sql.audit import AuditLine
from tests.fakes.front import Stage, problem, staged

HTML = {"Accept": "text/html"}


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


async def test_the_owner_is_made_once_however_many_ask(stage: Stage) -> None:
    owners = await asyncio.gather(*(ensure_owner(stage.front.units) for _ in range(5)))
    assert {owner.id for owner in owners} == {stage.owner.id}
    assert await User.all().count() == 1
    assert (stage.owner.role, stage.owner.is_owner, stage.owner.state) == ("admin", True, "active")


async def test_a_link_signs_in_and_leads_to_the_tasks(stage: Stage) -> None:
    client = await stage.client()
    answer = await client.get(f"/sign-in/{await stage.link()}", allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (303, "/tasks")
    cookie = answer.headers["Set-Cookie"]
    for word in ("limner_session=", "HttpOnly", "SameSite=Lax", "Path=/", f"Max-Age={LIFE_S}"):
        assert word in cookie
    assert "Secure" not in cookie
    assert answer.headers["Cache-Control"] == "no-store"
    assert (await client.get("/api/tasks")).status == 200
    assert await AuditLine.filter(event="user.signed_in", actor=stage.owner.id).count() == 1


async def test_over_https_the_cookie_is_bound_to_host_and_encryption(
    migrated_file: Path, tmp_path: Path, clock: HeldClock
) -> None:
    async with staged(migrated_file, tmp_path, clock, public_url="https://x.test") as stage:
        client = await stage.client()
        answer = await client.get(f"/sign-in/{await stage.link()}", allow_redirects=False)
        cookie = answer.headers["Set-Cookie"]
        assert cookie.startswith("__Host-limner_session=")
        assert "Secure" in cookie
        assert "Domain" not in cookie


async def test_a_link_works_once(stage: Stage) -> None:
    token = await stage.link()
    client, other = await stage.client(), await stage.client()
    assert (await client.get(f"/sign-in/{token}", allow_redirects=False)).status == 303
    second = await other.get(f"/sign-in/{token}", allow_redirects=False)
    assert (await problem(second))["code"] == "link_expired"
    assert second.status == 401
    assert "Set-Cookie" not in second.headers


async def test_of_many_at_once_one_gets_in(stage: Stage) -> None:
    path = f"/sign-in/{await stage.link()}"
    clients = [await stage.client() for _ in range(8)]
    answers = await asyncio.gather(*(one.get(path, allow_redirects=False) for one in clients))
    assert sorted(answer.status for answer in answers) == [303] + [401] * 7


async def test_whoever_comes_second_by_a_hair_stays_out(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/sign-in/{await stage.link()}"
    first, second = await stage.client(), await stage.client()
    commit = stage.front.units.commit

    async def commit_late(work: Any) -> Commit:
        monkeypatch.undo()
        assert (await first.get(path, allow_redirects=False)).status == 303
        return await commit(work)

    monkeypatch.setattr(stage.front.units, "commit", commit_late)
    assert (await second.get(path, allow_redirects=False)).status == 401


async def test_looking_at_a_link_does_not_use_it_up(stage: Stage) -> None:
    path = f"/sign-in/{await stage.link()}"
    client = await stage.client()
    assert (await client.head(path)).status == 405
    assert (await client.get(path, allow_redirects=False)).status == 303


async def test_a_link_ends_after_half_an_hour(stage: Stage) -> None:
    token = await stage.link()
    stage.clock.advance(30 * 60)
    client = await stage.client()
    assert (await client.get(f"/sign-in/{token}", allow_redirects=False)).status == 401


@pytest.mark.parametrize("token", ["x", "x" * 43, "x" * 42 + "é", "x" * 44])
async def test_a_link_that_is_none_leads_to_a_page_that_helps(stage: Stage, token: str) -> None:
    client = await stage.client()
    answer = await client.get(f"/sign-in/{token}", headers=HTML)
    assert answer.status == 401
    assert "run.py serve" in await answer.text()


async def test_the_database_holds_no_token(stage: Stage) -> None:
    token = await stage.link()
    link = await SignInLink.get()
    assert token not in str(vars(link))
    path = stage.front.database.path
    if path is not None:  # A server's files are not ours to read.
        assert token.encode() not in path.read_bytes()


async def test_the_cookie_ends_after_thirty_days(stage: Stage) -> None:
    browser = await stage.signed_in()
    stage.clock.advance(LIFE_S - 1)
    assert (await browser.get("/api/tasks")).status == 200
    stage.clock.advance(1)
    assert (await browser.get("/api/tasks")).status == 401


async def test_a_cookie_that_was_changed_or_is_for_something_else_is_nobody(stage: Stage) -> None:
    signer = stage.front.signer
    payload = {"user": stage.owner.id, "at": 0}
    client = await stage.client()
    good = signer.token("session", payload)
    for token, status in [
        (good, 200),
        (good[:-1], 401),
        (good[:-2] + ("A" if good[-2] != "A" else "B") + good[-1], 401),
        (signer.token("result", payload), 401),
        (signer.token("session", {"user": 7}), 401),
        (signer.token("session", {"user": "user_none"}), 401),
        ("", 401),
    ]:
        answer = await client.get("/api/tasks", headers={"Cookie": f"limner_session={token}"})
        assert answer.status == status, token


async def test_signing_out_takes_the_cookie_back(stage: Stage) -> None:
    browser = await stage.signed_in()
    answer = await browser.post("/api/auth/logout")
    assert answer.status == 204
    assert "Max-Age=0" in answer.headers["Set-Cookie"]
    assert (await browser.get("/api/tasks")).status == 401


async def test_disabling_an_account_ends_its_cookie_at_once(stage: Stage) -> None:
    browser = await stage.signed_in()
    work = stage.work()
    work.move(stage.owner, expected="active", to="disabled")
    await stage.front.units.commit(work)
    assert (await browser.get("/api/tasks")).status == 401


async def test_a_disabled_account_cannot_use_a_link(stage: Stage) -> None:
    token = await stage.link()
    work = stage.work()
    work.move(stage.owner, expected="active", to="disabled")
    await stage.front.units.commit(work)
    client = await stage.client()
    assert (await client.get(f"/sign-in/{token}", allow_redirects=False)).status == 401

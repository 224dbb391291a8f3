"""The owner's account, one-time links, the cookie, how sessions end, and signing out."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from limner.core.clock import HeldClock
from limner.core.unit import Commit
from limner.storage.sql import sessions as stored
from limner.storage.sql.accounts import SignInLink, User, digest, ensure_owner
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.remembered import LIFE_S
from limner.storage.sql.sessions import RefreshToken, Session, revoke_sessions
from tests.fakes.front import Stage, problem, staged

HTML = {"Accept": "text/html"}
SESSION_LIFE_S = 2_592_000
IDLE_S = 1_209_600


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


def cookie_of(browser: Any) -> str:
    return next(str(one.value) for one in browser.session.cookie_jar if one.key == "limner_session")


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
    words = ("limner_session=", "HttpOnly", "SameSite=Lax", "Path=/", f"Max-Age={SESSION_LIFE_S}")
    for word in words:
        assert word in cookie
    assert "Secure" not in cookie
    assert answer.headers["Cache-Control"] == "no-store"
    assert (await client.get("/api/tasks")).status == 200
    line = await AuditLine.get(event="user.signed_in", actor=stage.owner.id)
    session = await Session.get()
    assert line.data == {"by": "link", "session": session.id, "kind": "web"}
    assert (await User.get(id=stage.owner.id)).last_sign_in_at == stage.clock.now()


async def test_over_https_the_cookie_is_bound_to_host_and_encryption(
    migrated_file: Path, tmp_path: Path, clock: HeldClock
) -> None:
    async with staged(migrated_file, tmp_path, clock, public_url="https://x.test") as stage:
        client = await stage.client()
        answer = await client.get(f"/sign-in/{await stage.link()}", allow_redirects=False)
        cookie = answer.headers["Set-Cookie"]
        assert cookie.startswith("__Host-limner_session=")
        for word in ("Secure", "HttpOnly", "SameSite=Lax", "Path=/"):
            assert word in cookie
        assert "Domain" not in cookie
        value = cookie.partition("=")[2].partition(";")[0]
        for name, status in [("__Host-limner_session", 200), ("limner_session", 401)]:
            sent = {"Cookie": f"{name}={value}"}
            assert (await client.get("/api/tasks", headers=sent)).status == status


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
    assert await Session.all().count() == 1


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
    browser, pair = await stage.signed_in(), await stage.tokens()
    secrets = [token, cookie_of(browser), pair.access_token, pair.refresh_token]
    rows = [*await Session.all(), *await RefreshToken.all(), *await AuditLine.all()]
    assert not [secret for secret in secrets if secret in str([vars(row) for row in rows])]
    path = stage.front.database.path
    if path is not None:  # A server's files are not ours to read.
        files = [file for file in path.parent.iterdir() if file.name.startswith(path.name)]
        stored_bytes = b"".join(file.read_bytes() for file in files)
        assert not [secret for secret in secrets if secret.encode() in stored_bytes]


async def test_every_cookie_is_new_and_long(stage: Stage) -> None:
    values = {cookie_of(await stage.signed_in()) for _ in range(5)}
    assert len(values) == 5
    assert {len(value) for value in values} == {43}, "256 bits in base64url"


async def test_signing_in_again_ends_the_session_that_the_browser_had(stage: Stage) -> None:
    browser = await stage.signed_in()
    former = cookie_of(browser)
    answer = await browser.get(f"/sign-in/{await stage.link()}", allow_redirects=False)
    assert answer.status == 303
    assert cookie_of(browser) != former
    assert (await browser.get("/api/tasks")).status == 200
    other = await stage.client()
    stolen = {"Cookie": f"limner_session={former}"}
    assert (await other.get("/api/tasks", headers=stolen)).status == 401
    assert (await Session.get(sha256=digest(former))).revoked_because == "signed_in_again"


async def test_a_session_id_of_the_senders_choice_is_never_taken(stage: Stage) -> None:
    client = await stage.client()
    chosen = "A" * 43
    sent = {"Cookie": f"limner_session={chosen}"}
    answer = await client.get(f"/sign-in/{await stage.link()}", headers=sent, allow_redirects=False)
    assert answer.status == 303
    assert chosen not in answer.headers["Set-Cookie"]
    other = await stage.client()
    assert (await other.get("/api/tasks", headers=sent)).status == 401


async def test_the_session_ends_after_thirty_days_however_much_it_is_used(stage: Stage) -> None:
    browser = await stage.signed_in()
    for _ in range(3):
        stage.clock.advance(IDLE_S // 2)
        assert (await browser.get("/api/tasks")).status == 200
    stage.clock.advance(SESSION_LIFE_S - 3 * (IDLE_S // 2) - 1)
    assert (await browser.get("/api/tasks")).status == 200
    stage.clock.advance(1)
    assert (await browser.get("/api/tasks")).status == 401


async def test_a_session_that_nobody_uses_ends_after_a_fortnight(stage: Stage) -> None:
    browser, idle = await stage.signed_in(), await stage.signed_in()
    stage.clock.advance(IDLE_S - 1)
    assert (await browser.get("/api/tasks")).status == 200
    stage.clock.advance(1)
    assert (await browser.get("/api/tasks")).status == 200
    assert (await idle.get("/api/tasks")).status == 401


async def test_both_ends_of_a_session_are_settings(stage: Stage) -> None:
    await stage.settings(session_idle_s=400, session_life_s=600)
    browser = await stage.signed_in()
    stage.clock.advance(399)
    assert (await browser.get("/api/tasks")).status == 200
    stage.clock.advance(200)
    assert (await browser.get("/api/tasks")).status == 200
    stage.clock.advance(1)
    assert (await browser.get("/api/tasks")).status == 401
    idle = await stage.signed_in()
    stage.clock.advance(400)
    assert (await idle.get("/api/tasks")).status == 401


async def test_use_is_written_once_a_minute_at_most(stage: Stage) -> None:
    browser = await stage.signed_in()
    begun = stage.clock.now()
    stage.clock.advance(59)
    await browser.get("/api/tasks")
    assert (await Session.get()).last_seen_at == begun
    stage.clock.advance(4)
    await browser.get("/api/tasks")
    session = await Session.get()
    assert (session.last_seen_at - begun).total_seconds() == 63
    assert (session.idle_until - session.last_seen_at).total_seconds() == IDLE_S


async def test_a_cookie_that_was_never_given_is_nobody(stage: Stage) -> None:
    client = await stage.client()
    good = cookie_of(await stage.signed_in())
    token = (await stage.tokens()).access_token
    key = await stage.key("admin")
    for value, status in [
        (good, 200),
        (good[:-1], 401),
        (good[:-2] + ("A" if good[-2] != "A" else "B") + good[-1], 401),
        (digest(good), 401),
        (token, 401),
        (key, 401),
        ("", 401),
        ("x" * 3000, 401),
    ]:
        answer = await client.get("/api/tasks", headers={"Cookie": f"limner_session={value}"})
        assert answer.status == status, value


async def test_signing_out_ends_the_session_and_takes_the_cookie_back(stage: Stage) -> None:
    browser = await stage.signed_in()
    value = cookie_of(browser)
    answer = await browser.post("/api/auth/logout")
    assert answer.status == 204
    assert "Max-Age=0" in answer.headers["Set-Cookie"]
    assert (await browser.get("/api/tasks")).status == 401
    kept = {"Cookie": f"limner_session={value}"}
    assert (await (await stage.client()).get("/api/tasks", headers=kept)).status == 401
    assert (await Session.get()).revoked_because == "signed_out"


async def test_signing_out_ends_access_and_refresh_token_at_once(stage: Stage) -> None:
    pair = await stage.tokens()
    client = await stage.client(pair.access_token)
    assert (await client.get("/api/tasks")).status == 200
    assert (await client.post("/api/auth/logout")).status == 204
    assert (await client.get("/api/tasks")).status == 401
    answer = await client.post("/api/auth/refresh", json={"refresh_token": pair.refresh_token})
    assert answer.status == 401


async def test_a_key_has_no_session_to_sign_out_of(stage: Stage) -> None:
    admin = await stage.admin()
    assert (await admin.post("/api/auth/logout")).status == 204
    assert (await admin.get("/api/tasks")).status == 200


async def test_disabling_an_account_ends_all_its_credentials_at_once(stage: Stage) -> None:
    browser, program = await stage.signed_in(), await stage.bearer()
    assert (await browser.get("/api/tasks")).status == 200
    assert (await program.get("/api/tasks")).status == 200
    pair = await stage.tokens()
    work = stage.work()
    work.move(stage.owner, expected="active", to="disabled")
    await stage.front.units.commit(work)
    assert (await browser.get("/api/tasks")).status == 401
    assert (await program.get("/api/tasks")).status == 401
    refresh = {"refresh_token": pair.refresh_token}
    assert (await program.post("/api/auth/refresh", json=refresh)).status == 401


async def test_a_disabled_account_cannot_use_a_link(stage: Stage) -> None:
    token = await stage.link()
    work = stage.work()
    work.move(stage.owner, expected="active", to="disabled")
    await stage.front.units.commit(work)
    client = await stage.client()
    assert (await client.get(f"/sign-in/{token}", allow_redirects=False)).status == 401


async def test_all_sessions_but_one_can_be_ended_and_keys_stay(stage: Stage) -> None:
    kept, gone, program = await stage.signed_in(), await stage.signed_in(), await stage.bearer()
    foreign = await stage.signed_in(await stage.user())
    admin = await stage.admin()
    for client in (kept, gone, program, foreign, admin):
        assert (await client.get("/api/tasks")).status == 200
    session = await Session.get(sha256=digest(cookie_of(kept)))
    work = stage.work()
    revoke_sessions(work, stage.owner.id, but=session.id, because="password_changed")
    await stage.front.units.commit(work)
    found = [(await one.get("/api/tasks")).status for one in (kept, gone, program, foreign, admin)]
    assert found == [200, 401, 401, 200, 200]
    ended = await Session.filter(revoked_because="password_changed")
    assert len(ended) == 2


async def test_what_one_process_ends_the_other_refuses_within_seconds(stage: Stage) -> None:
    beside = await stage.beside()
    browser, program = await stage.signed_in(), await stage.bearer()
    stolen = await beside.client(Cookie=f"limner_session={cookie_of(browser)}")
    copied = await beside.client(
        Authorization=program.session.headers["Authorization"],
    )
    for client in (browser, program, stolen, copied):
        assert (await client.get("/api/tasks")).status == 200
    work = stage.work()
    revoke_sessions(work, stage.owner.id, because="test")
    await stage.front.units.commit(work)
    for client in (browser, program):
        assert (await client.get("/api/tasks")).status == 401, "here at once"
    stage.clock.advance(LIFE_S)
    for client in (stolen, copied):
        assert (await client.get("/api/tasks")).status == 401, "there after three seconds"


async def test_a_role_that_drops_counts_for_sessions_and_tokens_too(stage: Stage) -> None:
    user = await stage.user("admin")
    browser, program = await stage.signed_in(user), await stage.bearer(user)
    for client in (browser, program):
        assert (await client.get("/api/settings")).status == 200
    work = stage.work()
    work.change(user, role="user")
    await stage.front.units.commit(work)
    for client in (browser, program):
        assert (await client.get("/api/settings")).status == 403


async def test_an_account_has_so_many_sessions_and_the_ones_unused_for_longest_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "PER_ACCOUNT", 3)
    foreign = await stage.signed_in(await stage.user())
    browsers = []
    for _ in range(5):
        browsers.append(await stage.signed_in())
        stage.clock.advance(1)
    stage.clock.advance(LIFE_S)
    found = [(await one.get("/api/tasks")).status for one in browsers]
    assert found == [401, 401, 200, 200, 200]
    assert (await foreign.get("/api/tasks")).status == 200


@pytest.mark.parametrize("agent", ["x" * 1000, "Mozilla/5.0 \udcff\udcfe", "é€😀\t x", ""])
async def test_any_user_agent_can_sign_in(stage: Stage, agent: str) -> None:
    client = await stage.client()
    headers = {"User-Agent": agent}
    answer = await client.get(
        f"/sign-in/{await stage.link()}", headers=headers, allow_redirects=False
    )
    assert answer.status == 303
    session = await Session.get()
    assert len(session.user_agent) <= 255
    assert session.address == "127.0.0.1"

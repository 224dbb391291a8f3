"""Who calls: remembered for seconds, for an outage with one scope, and for streams not at all."""

import asyncio
from pathlib import Path

import pytest
from aiohttp.test_utils import make_mocked_request

from limner.core.clock import HeldClock
from limner.http.auth import callers
from limner.http.auth.callers import (
    OPS_READ,
    Caller,
    RecentCallers,
    forget_session,
    identify,
    still_valid,
)
from limner.storage.sql.accounts import ADMIN, SCOPES, ApiKey, User, active_user
from limner.storage.sql.sessions import Session
from tests.fakes.front import Stage, staged

LIFE_S = 300.0


@pytest.fixture
def recent(clock: HeldClock) -> RecentCallers:
    return RecentCallers(clock, limit=3, life_s=LIFE_S)


def caller(*scopes: str, key: ApiKey | None = None) -> Caller:
    return Caller(User(id="user_1", role=ADMIN), frozenset(scopes), key)


def test_whoever_is_believed_has_one_scope_whatever_they_had(recent: RecentCallers) -> None:
    admin = caller(*SCOPES)
    recent.note("a", admin)
    believed = recent.find("a")
    assert believed is not None
    assert believed.user is admin.user
    assert believed.scopes == {OPS_READ}
    assert not believed.is_admin


def test_who_may_not_read_reports_is_not_remembered(recent: RecentCallers) -> None:
    recent.note("a", caller("tasks:read", "tasks:write"))
    assert (recent.find("a"), len(recent)) == (None, 0)


def test_who_has_lost_the_scope_is_forgotten(recent: RecentCallers) -> None:
    recent.note("a", caller(OPS_READ))
    recent.note("a", caller("tasks:read"))
    assert recent.find("a") is None


def test_a_caller_is_forgotten_after_its_time_and_asking_does_not_renew_it(
    recent: RecentCallers, clock: HeldClock
) -> None:
    recent.note("a", caller(OPS_READ))
    clock.advance(LIFE_S - 1)
    assert recent.find("a") is not None
    clock.advance(1)
    assert (recent.find("a"), len(recent)) == (None, 0)


def test_a_caller_that_is_let_in_again_is_kept_for_the_whole_time_again(
    recent: RecentCallers, clock: HeldClock
) -> None:
    recent.note("a", caller(OPS_READ))
    recent.note("b", caller(OPS_READ))
    clock.advance(LIFE_S - 1)
    recent.note("a", caller(OPS_READ))
    clock.advance(LIFE_S - 1)
    assert recent.find("a") is not None
    assert recent.find("b") is None


def test_of_too_many_the_oldest_go(recent: RecentCallers) -> None:
    for name in ("a", "b", "c", "a", "d"):
        recent.note(name, caller(OPS_READ))
    assert [recent.find(name) is not None for name in "abcd"] == [True, False, True, True]
    assert len(recent) == 3


def test_a_key_that_has_ended_meanwhile_is_not_believed(
    recent: RecentCallers, clock: HeldClock
) -> None:
    now = clock.now()
    clock.advance(10)
    recent.note("a", caller(OPS_READ, key=ApiKey(id="key_1", expires_at=clock.now())))
    recent.note("b", caller(OPS_READ, key=ApiKey(id="key_2", revoked_at=now)))
    recent.note("c", caller(OPS_READ, key=ApiKey(id="key_3")))
    assert [recent.find(name) is not None for name in "abc"] == [False, False, True]


def test_a_credential_can_be_forgotten(recent: RecentCallers) -> None:
    recent.note("a", caller(OPS_READ))
    recent.forget("a")
    recent.forget("b")
    assert recent.find("a") is None


async def test_a_stream_is_for_whom_account_and_credential_still_live(
    migrated_file: Path, tmp_path: Path, clock: HeldClock
) -> None:
    async with staged(migrated_file, tmp_path, clock) as stage:
        found = {name: await made(stage, name) for name in ("key", "cookie", "token")}
        everybody = set(found.values())
        assert len(everybody) == 3
        assert [found[name].by_cookie for name in found] == [False, True, False]
        assert [found[name].session is not None for name in found] == [False, True, True]
        assert await still_valid(stage.front, everybody) == everybody
        # As another process does it: what is remembered here does not count for streams.
        session = found["cookie"].session
        assert session is not None
        await Session.filter(id=session.id).update(revoked_at=clock.now())
        assert await still_valid(stage.front, everybody) == {found["key"], found["token"]}
        clock.advance(900)
        assert await still_valid(stage.front, everybody) == {found["key"]}
        await ApiKey.all().update(revoked_at=clock.now())
        assert await still_valid(stage.front, everybody) == set()


async def test_a_stream_ends_with_an_unused_session_or_a_disabled_account(
    migrated_file: Path, tmp_path: Path, clock: HeldClock
) -> None:
    async with staged(migrated_file, tmp_path, clock) as stage:
        await stage.settings(session_idle_s=300)
        browser, program = await made(stage, "cookie"), await made(stage, "key")
        clock.advance(299)
        assert await still_valid(stage.front, {browser, program}) == {browser, program}
        clock.advance(1)
        assert await still_valid(stage.front, {browser, program}) == {program}
        await User.all().update(state="disabled")
        assert await still_valid(stage.front, {program}) == set()
        assert await still_valid(stage.front, []) == set()


async def test_what_a_session_was_found_to_be_can_be_forgotten_by_its_name_or_its_owner(
    migrated_file: Path, tmp_path: Path, clock: HeldClock
) -> None:
    async with staged(migrated_file, tmp_path, clock) as stage:
        for named_by in ("session", "user"):
            pair = await stage.tokens()
            client = await stage.client(pair.access_token)
            assert (await client.get("/api/tasks")).status == 200
            session = await Session.get(revoked_at=None)
            await Session.all().update(revoked_at=clock.now())
            assert (await client.get("/api/tasks")).status == 200, "nobody has told this process"
            forget_session(stage.front, session.id if named_by == "session" else session.user_id)
            assert (await client.get("/api/tasks")).status == 401


async def test_of_many_requests_at_once_one_asks_the_database(
    migrated_file: Path, tmp_path: Path, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged(migrated_file, tmp_path, clock) as stage:
        client = await stage.bearer()
        looked_up: list[str] = []

        async def counted(user_id: str) -> User:
            looked_up.append(user_id)
            return await active_user(user_id)

        monkeypatch.setattr(callers, "active_user", counted)
        answers = await asyncio.gather(*(client.get("/api/intent/none") for _ in range(20)))
        assert {answer.status for answer in answers} == {404}
        assert len(looked_up) == 1


async def made(stage: Stage, kind: str) -> Caller:
    """Give the caller that a request with a credential of this kind has."""
    headers = {}
    if kind == "cookie":
        browser = await stage.signed_in()
        jar = browser.session.cookie_jar
        headers["Cookie"] = "; ".join(f"{one.key}={one.value}" for one in jar)
    else:
        token = await stage.key() if kind == "key" else (await stage.tokens()).access_token
        headers["Authorization"] = f"Bearer {token}"
    request = make_mocked_request("GET", "/", headers, app=stage.server.app)
    return await identify(stage.front, request)

"""Whoever may not call any more is out, whatever they hold (ASVS 5.0, 7.3, 7.4 and 8.3.2)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from limner.core.clock import HeldClock
from limner.http.auth import csrf
from limner.http.auth.passwords import hash_password
from limner.http.revocation import RECHECK_S
from limner.storage.sql.accounts import User, digest
from limner.storage.sql.sessions import Session
from tests.fakes.front import PATIENCE_S, Stage, problem, staged
from tests.fakes.pages import csrf_token
from tests.fakes.sse import Listener, quick

Client = TestClient[Any, Any]
GOOD = "a heron at the window"
SETTINGS = "/api/settings"
LIMIT_S = 5

_quick = quick


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


async def holders(stage: Stage, user: User) -> dict[str, Client]:
    """Give a client for each kind of credential, each of which has just been let in."""
    found = {
        "key": await stage.client(await stage.key("admin", user=user)),
        "access token": await stage.bearer(user),
        "cookie": await stage.signed_in(user),
    }
    for client in found.values():
        assert (await client.get(SETTINGS)).status == 200
    return found


async def listening(clients: dict[str, Client], path: str) -> dict[str, Listener]:
    """Open a stream with each."""
    found = {}
    for name, client in clients.items():
        answer = await client.get(path)
        assert answer.status == 200
        found[name] = Listener(answer)
    return found


async def demote(stage: Stage, user: User) -> None:
    work = stage.work()
    work.change(user, role="user")
    await stage.front.units.commit(work)


async def disable(stage: Stage, user: User) -> None:
    admin = await stage.admin()
    answer = await admin.patch(f"/api/users/{user.id}", json={"state": "disabled"})
    assert answer.status == 200


async def delete(stage: Stage, user: User) -> None:
    admin = await stage.admin()
    assert (await admin.delete(f"/api/users/{user.id}")).status == 204


ENDINGS: dict[str, tuple[Callable[[Stage, User], Awaitable[None]], int]] = {
    "disabled": (disable, 401),
    "deleted": (delete, 401),
    "no administrator any more": (demote, 403),
}


def test_what_nobody_tells_of_is_looked_for_within_five_seconds() -> None:
    assert RECHECK_S < LIMIT_S


@pytest.mark.parametrize("path", ["of another's task", "of one's own"])
@pytest.mark.parametrize("ending", ENDINGS)
async def test_every_credential_is_refused_at_once_and_its_streams_end_in_time(
    stage: Stage, ending: str, path: str
) -> None:
    user = await stage.user("admin")
    task = await stage.task()
    clients = await holders(stage, user)
    asked = "/api/stream" if path == "of one's own" else f"/api/tasks/{task.id}/stream"
    streams = await listening(clients, asked)
    end, status = ENDINGS[ending]
    await end(stage, user)
    for name, client in clients.items():
        assert (await client.get(SETTINGS)).status == status, name
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(one.rest() for one in streams.values()))
    for client in clients.values():
        again = await client.get(asked)
        again.close()
        assert again.status == (401 if status == 401 else 200 if path == "of one's own" else 404)


async def test_signing_out_everywhere_ends_all_but_the_one_that_asks(stage: Stage) -> None:
    user = await stage.user()
    asking, other, token = [
        await stage.signed_in(user),
        await stage.signed_in(user),
        await stage.bearer(user),
    ]
    pair = await stage.tokens(user)
    streams = await listening({"cookie": other, "token": token}, "/api/stream")
    assert (await asking.delete("/api/sessions")).status == 204
    for client in (other, token):
        assert (await client.get("/api/me")).status == 401
    refused = await asking.post("/api/auth/refresh", json={"refresh_token": pair.refresh_token})
    assert (refused.status, (await problem(refused))["code"]) == (401, "token_invalid")
    assert (await asking.get("/api/me")).status == 200
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(one.rest() for one in streams.values()))


EXPIRES = [
    # what is used, seconds after which it ends if it is not, and however much it is
    ("cookie", "session_idle_s"),
    ("cookie", "session_life_s"),
    ("refresh token", "session_idle_s"),
    ("refresh token", "session_life_s"),
]


@pytest.mark.parametrize(("what", "bound"), EXPIRES)
async def test_a_session_ends_by_the_clock_alone(stage: Stage, what: str, bound: str) -> None:
    await stage.settings(session_idle_s=600, session_life_s=1800)
    user = await stage.user()
    client, pair = await stage.signed_in(user), await stage.tokens(user)
    refresh = pair.refresh_token

    async def use() -> int:
        nonlocal refresh
        if what == "cookie":
            return (await client.get("/api/me")).status
        answer = await client.post("/api/auth/refresh", json={"refresh_token": refresh})
        if answer.status == 200:
            refresh = (await answer.json())["refresh_token"]
        return answer.status

    if bound == "session_idle_s":
        stage.clock.advance(599)
        assert await use() == 200
        stage.clock.advance(600)
    else:
        client.session.headers.popall(csrf.HEADER)
        client.session.headers["Authorization"] = f"Bearer {await stage.key('admin')}"
        if what == "cookie":
            del client.session.headers["Authorization"]
        for _ in range(3):
            stage.clock.advance(599)
            assert await use() == 200
        stage.clock.advance(3)
    assert await use() == 401


async def test_a_session_that_a_visitor_brings_along_is_never_taken_over(stage: Stage) -> None:
    """Fixation: by password, by link, and while somebody else is signed in."""
    user = await stage.user()
    await User.filter(id=user.id).update(
        password_hash=await hash_password(GOOD), verified_at=stage.clock.now()
    )
    chosen = "A" * 43
    for before in (None, stage.owner):
        client = await (stage.client() if before is None else stage.signed_in(before))
        jar = client.session.cookie_jar
        if before is None:
            jar.update_cookies({"limner_session": chosen}, client.make_url("/"))
        was = {one.value for one in jar if one.key == "limner_session"}
        page = await (await client.get("/register", headers={"Accept": "text/html"})).text()
        token = csrf_token(page)
        data = {"email": user.email, "password": GOOD, csrf.FIELD: token}
        client.session.headers.pop(csrf.HEADER, None)
        answer = await client.post("/login", data=data, allow_redirects=False)
        assert answer.status == 303, await answer.text()
        now = {one.value for one in jar if one.key == "limner_session"}
        assert not was & now
        assert (await (await client.get("/api/me")).json())["id"] == user.id
        for old in was:
            fresh = await stage.client(None, Cookie=f"limner_session={old}")
            assert (await fresh.get("/api/me")).status == 401
            row = await Session.get_or_none(sha256=digest(old))
            assert row is None or row.revoked_at is not None
    rows = await Session.all()
    assert {len(row.sha256 or "") for row in rows} == {64}
    assert len({row.sha256 for row in rows}) == len(rows)

"""Refresh tokens: used once, no grace, an end that moves for nobody (ASVS 5.0, 10.4.5, 10.4.8)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from limner.core.clock import HeldClock
from limner.core.unit import Commit
from limner.http.auth.sessions import TokenPair
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.notifications import Notification
from limner.storage.sql.sessions import RefreshToken, Session
from tests.fakes.front import Stage, problem, staged

IDLE_S = 1_209_600
MANY = 50


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


async def use(client: Any, token: str) -> Any:
    return await client.post("/api/auth/refresh", json={"refresh_token": token})


async def pair_of(answer: Any) -> TokenPair:
    assert answer.status == 200, await answer.text()
    return TokenPair.model_validate(await answer.json())


async def reaches(stage: Stage, pair: TokenPair) -> int:
    return (await (await stage.client(pair.access_token)).get("/api/tasks")).status


async def test_a_refresh_token_gives_a_new_pair_of_the_same_session(stage: Stage) -> None:
    first, client = await stage.tokens(), await stage.client()
    answer = await use(client, first.refresh_token)
    second = await pair_of(answer)
    assert answer.headers["Cache-Control"] == "no-store"
    assert (second.token_type, second.expires_in) == ("Bearer", 900)
    assert first.refresh_token != second.refresh_token
    assert first.access_token != second.access_token
    assert second.refresh_token.startswith("limr_")
    assert len(second.refresh_token) == 48
    assert await reaches(stage, first) == await reaches(stage, second) == 200
    assert await Session.all().count() == 1
    third = await pair_of(await use(client, second.refresh_token))
    assert await reaches(stage, third) == 200


async def test_a_second_use_ends_the_session_and_is_told_and_audited(stage: Stage) -> None:
    first, client = await stage.tokens(), await stage.client()
    second = await pair_of(await use(client, first.refresh_token))
    assert await reaches(stage, second) == 200
    answer = await use(client, first.refresh_token)
    assert answer.status == 401
    assert (await problem(answer))["code"] == "token_invalid"
    assert await reaches(stage, first) == await reaches(stage, second) == 401
    assert (await use(client, second.refresh_token)).status == 401
    session = await Session.get()
    assert session.revoked_because == "refresh_reused"
    line = await AuditLine.get(event="session.refresh_reused")
    assert line.subject == session.id
    note = await Notification.get()
    assert (note.user_id, note.kind) == (stage.owner.id, "session.refresh_reused")


async def test_of_fifty_uses_at_once_one_wins_and_the_session_ends(stage: Stage) -> None:
    pair = await stage.tokens()
    clients = [await stage.client() for _ in range(MANY)]
    answers = await asyncio.gather(*(use(one, pair.refresh_token) for one in clients))
    assert sorted(answer.status for answer in answers) == [200] + [401] * (MANY - 1)
    won = await pair_of(next(answer for answer in answers if answer.status == 200))
    # Nobody can tell which of the fifty was the thief.
    assert await reaches(stage, won) == 401
    assert (await use(clients[0], won.refresh_token)).status == 401
    assert await RefreshToken.all().count() == 2
    assert await AuditLine.filter(event="session.refresh_reused").count() == 1
    assert await Notification.all().count() == 1


async def test_whoever_comes_second_by_a_hair_has_used_it_twice(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, client = await stage.tokens(), await stage.client()
    commit = stage.front.units.commit
    won = []

    async def commit_late(work: Any) -> Commit:
        monkeypatch.undo()
        won.append(await pair_of(await use(client, pair.refresh_token)))
        return await commit(work)

    monkeypatch.setattr(stage.front.units, "commit", commit_late)
    assert (await use(client, pair.refresh_token)).status == 401
    assert await reaches(stage, won[0]) == 401
    assert await AuditLine.filter(event="session.refresh_reused").count() == 1


async def test_a_session_that_ends_by_a_hair_first_gives_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, client = await stage.tokens(), await stage.client()
    commit = stage.front.units.commit

    async def commit_late(work: Any) -> Commit:
        monkeypatch.undo()
        signed_in = await stage.client(pair.access_token)
        assert (await signed_in.post("/api/auth/logout")).status == 204
        return await commit(work)

    monkeypatch.setattr(stage.front.units, "commit", commit_late)
    assert (await use(client, pair.refresh_token)).status == 401
    token = await RefreshToken.get()
    assert token.used_at is None, "the whole unit was dropped"
    assert await AuditLine.filter(event="session.refresh_reused").count() == 0


async def test_refreshing_does_not_move_the_end_of_the_session(stage: Stage) -> None:
    pair, client = await stage.tokens(), await stage.client()
    end = (await Session.get()).expires_at
    for _ in range(2):
        stage.clock.advance(IDLE_S - 1)
        pair = await pair_of(await use(client, pair.refresh_token))
    assert (await Session.get()).expires_at == end
    stage.clock.advance((end - stage.clock.now()).total_seconds() - 1)
    pair = await pair_of(await use(client, pair.refresh_token))
    assert await reaches(stage, pair) == 200
    stage.clock.advance(1)
    assert await reaches(stage, pair) == 401
    assert (await use(client, pair.refresh_token)).status == 401


async def test_a_session_that_nobody_refreshes_ends(stage: Stage) -> None:
    pair, client = await stage.tokens(), await stage.client()
    stage.clock.advance(IDLE_S)
    assert (await use(client, pair.refresh_token)).status == 401


@pytest.mark.parametrize("token", ["limr_" + "x" * 43, "x", "é" * 200, "\u0000"])
async def test_a_token_that_was_never_given_is_refused(stage: Stage, token: str) -> None:
    answer = await use(await stage.client(), token)
    assert answer.status == 401
    assert (await problem(answer))["code"] == "token_invalid"


async def test_neither_access_token_nor_key_refreshes(stage: Stage) -> None:
    pair, client = await stage.tokens(), await stage.client()
    assert (await use(client, pair.access_token[:200])).status == 401
    assert (await use(client, await stage.key("admin"))).status == 401
    assert (await use(client, pair.access_token)).status == 422, "longer than any refresh token"


async def test_a_refresh_token_without_its_session_is_refused(stage: Stage) -> None:
    pair = await stage.tokens()
    await Session.all().delete()
    assert (await use(await stage.client(), pair.refresh_token)).status == 401


async def test_an_expired_access_token_beside_it_does_no_harm(stage: Stage) -> None:
    pair = await stage.tokens()
    client = await stage.client(pair.access_token)
    stage.clock.advance(900)
    assert (await client.get("/api/tasks")).status == 401
    again = await pair_of(await use(client, pair.refresh_token))
    assert await reaches(stage, again) == 200


async def test_two_processes_give_one_pair_between_them(stage: Stage) -> None:
    beside, pair = await stage.beside(), await stage.tokens()
    here, there = await stage.client(), await beside.client()
    answers = await asyncio.gather(use(here, pair.refresh_token), use(there, pair.refresh_token))
    assert sorted(answer.status for answer in answers) == [200, 401]

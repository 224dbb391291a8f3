"""Signing keys: one first key however many ask, a rotation nobody notices, a lost secret key."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable
from limner.core.sealing import Sealer
from limner.core.unit import Commit
from limner.http.auth import signing_keys
from limner.http.auth.signing_keys import key_ring, signing_key
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.remembered import LIFE_S
from limner.storage.sql.signing_keys import (
    KEPT_AFTER_S,
    PUBLISHED_AHEAD_S,
    SigningKey,
    add_key,
    all_keys,
    newest_key,
)
from tests.fakes.front import Stage, staged


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


async def rotate(stage: Stage) -> None:
    work = stage.work()
    add_key(work, stage.front.sealer, await newest_key(), ahead_s=PUBLISHED_AHEAD_S)
    assert await stage.front.units.commit(work) is Commit.DONE


async def published(stage: Stage) -> list[str]:
    answer = await (await stage.client()).get("/.well-known/jwks.json")
    assert answer.status == 200
    return [key["kid"] for key in (await answer.json())["keys"]]


async def status(stage: Stage, token: str) -> int:
    return (await (await stage.client(token)).get("/api/tasks")).status


async def test_the_first_key_is_made_with_the_first_token(stage: Stage) -> None:
    client = await stage.client()
    answer = await client.get("/.well-known/jwks.json")
    assert await answer.json() == {"keys": []}
    assert answer.headers["Cache-Control"] == "no-store"
    assert await SigningKey.all().count() == 0, "looking makes nothing"
    await stage.tokens()
    answer = await client.get("/.well-known/jwks.json")
    assert answer.headers["Cache-Control"] == "public, max-age=600"
    (key,) = (await answer.json())["keys"]
    assert set(key) == {"kty", "crv", "x", "y", "kid", "use", "alg"}, "and no private half"
    assert await AuditLine.filter(event="signing_key.made").count() == 1


async def test_the_private_half_is_stored_encrypted(stage: Stage) -> None:
    signing = await signing_key(stage.front)
    row = await SigningKey.get()
    private = signing.key.as_dict(private=True)
    assert str(private["d"]).encode() not in bytes(row.private_sealed)
    assert "d" not in row.public


async def test_two_processes_that_make_the_first_key_at_once_end_with_one(stage: Stage) -> None:
    beside = await stage.beside()
    fronts = [stage.front, beside.front] * 4
    found = await asyncio.gather(*(signing_key(front) for front in fronts))
    assert len({one.kid for one in found}) == 1
    assert await SigningKey.all().count() == 1


async def test_whoever_makes_the_first_key_second_by_a_hair_takes_the_other(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = await stage.beside()
    commit, first = stage.front.units.commit, []

    async def commit_late(work: Any) -> Commit:
        monkeypatch.undo()
        first.append(await signing_key(beside.front))
        return await commit(work)

    monkeypatch.setattr(stage.front.units, "commit", commit_late)
    assert (await signing_key(stage.front)).kid == first[0].kid
    assert await SigningKey.all().count() == 1


async def test_who_remembers_that_there_is_no_key_does_not_add_a_second_after_the_first(
    stage: Stage,
) -> None:
    beside = await stage.beside()
    assert (await key_ring(stage.front)).signing is None
    first = await signing_key(beside.front)
    assert (await signing_key(stage.front)).kid == first.kid
    assert await SigningKey.all().count() == 1


async def test_a_token_of_one_process_is_good_in_another_at_once(stage: Stage) -> None:
    beside = await stage.beside()
    assert await published(beside) == [], "it has looked, and remembers that there was none"
    pair = await stage.tokens()
    assert await status(beside, pair.access_token) == 200


async def test_a_new_key_is_published_an_hour_before_it_signs(stage: Stage) -> None:
    first = (await signing_key(stage.front)).kid
    await rotate(stage)
    second = next(kid for kid in await published(stage) if kid != first)
    stage.clock.advance(PUBLISHED_AHEAD_S - 1)
    assert (await signing_key(stage.front)).kid == first
    stage.clock.advance(1 + LIFE_S)
    assert (await signing_key(stage.front)).kid == second


async def test_no_token_is_refused_while_keys_are_rotated(stage: Stage) -> None:
    beside = await stage.beside()
    pair = await stage.tokens()
    await rotate(stage)
    moments = int((PUBLISHED_AHEAD_S + KEPT_AFTER_S + 900) // 300)
    client = await beside.client()
    used = set()
    for _ in range(moments):
        stage.clock.advance(300)
        sent = {"refresh_token": pair.refresh_token}
        answer = await client.post("/api/auth/refresh", json=sent)
        assert answer.status == 200
        former, pair = pair.access_token, type(pair).model_validate(await answer.json())
        for token in (former, pair.access_token):
            assert await status(stage, token) == await status(beside, token) == 200
        used.add((await signing_key(beside.front)).kid)
    assert len(used) == 2
    assert await published(stage) == [(await signing_key(stage.front)).kid], "the old one is gone"


async def test_an_old_key_is_published_until_its_last_token_has_ended(stage: Stage) -> None:
    first = (await signing_key(stage.front)).kid
    await rotate(stage)
    stage.clock.advance(PUBLISHED_AHEAD_S + KEPT_AFTER_S - 1)
    assert first in await published(stage)
    stage.clock.advance(1 + LIFE_S)
    assert first not in await published(stage)


async def test_after_a_lost_secret_key_a_new_key_signs_and_old_tokens_end_by_themselves(
    stage: Stage,
) -> None:
    pair = await stage.tokens()
    lost = await stage.beside()
    lost.front = replace(lost.front, sealer=Sealer(b"another secret of 32 bytes length"[:32]))
    with capture_logs() as lines:
        fresh = await signing_key(lost.front)
    assert [line for line in lines if "another secret key" in line["event"]]
    kids = [str(row.public["kid"]) for row in await SigningKey.all().order_by("created_at")]
    assert kids[1:] == [fresh.kid]
    assert await published(lost) == kids
    assert await status(lost, pair.access_token) == 200, "its signature is as good as before"
    stage.clock.advance(KEPT_AFTER_S + LIFE_S)
    assert await published(lost) == [fresh.kid]


async def test_a_key_that_does_not_sign_yet_is_better_than_none(stage: Stage) -> None:
    await signing_key(stage.front)
    await rotate(stage)
    await SigningKey.filter(expires_at__not_isnull=True).delete()
    stage.clock.advance(LIFE_S)
    (kid,) = await published(stage)
    assert (await signing_key(stage.front)).kid == kid
    assert await SigningKey.all().count() == 1


async def test_a_database_that_keeps_no_key_is_an_engine_out_of_reach(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: Any) -> Commit:
        return Commit.STALE

    monkeypatch.setattr(stage.front.units, "commit", never)
    with pytest.raises(EngineUnavailable):
        await signing_key(stage.front)


async def test_the_order_of_keys_holds_whatever_the_clocks_say(stage: Stage) -> None:
    await signing_key(stage.front)
    newest = await newest_key()
    assert newest is not None
    await SigningKey.all().update(created_at=stage.clock.now().replace(year=2030))
    await rotate(stage)
    second = await newest_key()
    assert second is not None
    assert second.id != newest.id
    assert second.created_at.year == 2030


async def test_keys_are_read_once_for_many_requests(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = await stage.tokens()
    await status(stage, pair.access_token)
    read: list[object] = []

    async def counted() -> Any:
        read.append(1)
        return await all_keys()

    monkeypatch.setattr(signing_keys, "all_keys", counted)
    await asyncio.gather(*(key_ring(stage.front) for _ in range(20)))
    assert read == []
    stage.clock.advance(LIFE_S)
    await asyncio.gather(*(key_ring(stage.front) for _ in range(20)))
    assert len(read) == 1

"""The chain of signing keys: one successor each, sealed for itself, old ones with an end."""

from datetime import timedelta

import pytest

from limner.core.errors import NotConfigured
from limner.core.sealing import Sealer
from limner.core.unit import Commit
from limner.storage.sql.signing_keys import (
    KEPT_AFTER_S,
    SigningKey,
    add_key,
    all_keys,
    is_published,
    newest_key,
    open_private,
)
from limner.storage.sql.unit import SqlUnits

SEALER = Sealer(b"k" * 32)


async def add(units: SqlUnits, newest: SigningKey | None, ahead_s: float = 0) -> Commit:
    work = units.open("test")
    add_key(work, SEALER, newest, ahead_s=ahead_s)
    return await units.commit(work)


async def test_each_key_has_one_successor(units: SqlUnits) -> None:
    assert await newest_key() is None
    assert await add(units, None) is Commit.DONE
    assert await add(units, None) is Commit.STALE
    first = await newest_key()
    assert await add(units, first, 60) is Commit.DONE
    assert await add(units, first, 60) is Commit.STALE
    second = await newest_key()
    assert first is not None
    assert second is not None
    assert second.id != first.id
    assert second.expires_at is None
    ended = await SigningKey.get(id=first.id)
    assert ended.expires_at == second.signs_from + timedelta(seconds=KEPT_AFTER_S)
    assert [key.id for key in await all_keys()] == [first.id, second.id]
    moments = (second.signs_from, ended.expires_at)
    assert [is_published(ended, moment) for moment in moments] == [True, False]
    assert is_published(second, ended.expires_at)


async def test_a_private_half_opens_for_its_own_key_and_secret_alone(units: SqlUnits) -> None:
    await add(units, None)
    first = await newest_key()
    await add(units, first)
    second = await newest_key()
    assert first is not None
    assert second is not None
    assert open_private(SEALER, first) != open_private(SEALER, second)
    with pytest.raises(NotConfigured):
        open_private(Sealer(b"l" * 32), first)
    first.private_sealed = second.private_sealed
    with pytest.raises(NotConfigured):
        open_private(SEALER, first)

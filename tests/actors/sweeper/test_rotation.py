"""Rotation of signing keys by schedule: never before there is a key, never twice a day."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from limner.actors.ports import Ports
from limner.actors.sweeper.actor import build
from limner.actors.sweeper.messages import Clean, RotateKeys
from limner.core.clock import HeldClock
from limner.storage.sql.signing_keys import (
    KEPT_AFTER_S,
    PUBLISHED_AHEAD_S,
    ROTATED_AFTER_S,
    SigningKey,
    add_key,
    newest_key,
    open_private,
)
from tests.fakes.ports import open_ports
from tests.fakes.stage import Stage


@pytest.fixture
async def ports(tmp_path: Path, migrated_file: Path, clock: HeldClock) -> AsyncIterator[Ports]:
    async with open_ports(tmp_path, clock=clock, migrated=migrated_file) as opened:
        yield opened


@pytest.fixture
def stage(ports: Ports) -> Stage:
    return Stage(ports, build(ports))


async def rotate(stage: Stage) -> None:
    await stage.send(RotateKeys())
    assert await stage.act() == 1
    assert await stage.dead() == []


async def first_key(ports: Ports) -> None:
    work = ports.units.open("test")
    add_key(work, ports.sealer, None, ahead_s=0)
    await ports.units.commit(work)


async def test_no_key_is_made_where_no_token_was(stage: Stage) -> None:
    await rotate(stage)
    assert await SigningKey.all().count() == 0


async def test_the_next_key_is_published_an_hour_before_it_signs_and_the_old_one_ends_after(
    stage: Stage, ports: Ports, clock: HeldClock
) -> None:
    await first_key(ports)
    clock.advance(ROTATED_AFTER_S)
    await rotate(stage)
    old, new = await SigningKey.all().order_by("created_at")
    assert new.signs_from == clock.now() + timedelta(seconds=PUBLISHED_AHEAD_S)
    assert new.expires_at is None
    assert old.expires_at == new.signs_from + timedelta(seconds=KEPT_AFTER_S)
    assert open_private(ports.sealer, new) != open_private(ports.sealer, old)


async def test_a_schedule_that_fires_twice_makes_one_key(
    stage: Stage, ports: Ports, clock: HeldClock
) -> None:
    await first_key(ports)
    await rotate(stage)
    assert await SigningKey.all().count() == 1, "it is of today"
    clock.advance(ROTATED_AFTER_S)
    await rotate(stage)
    await rotate(stage)
    assert await SigningKey.all().count() == 2


async def test_old_keys_are_deleted_and_the_newest_never(
    stage: Stage, ports: Ports, clock: HeldClock
) -> None:
    await first_key(ports)
    for _ in range(3):
        clock.advance(7 * 86_400)
        await rotate(stage)
    newest = await newest_key()
    assert newest is not None
    clock.advance(365 * 86_400)
    await stage.send(Clean())
    assert await stage.act() == 1
    assert [key.id for key in await SigningKey.all()] == [newest.id]

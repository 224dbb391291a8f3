"""Whoever owns a source can have another provider make its pictures."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from limner.core.brokers.embedded import EmbeddedBroker
from limner.core.clock import HeldClock
from limner.core.ids import new_id
from limner.core.metrics import Metrics
from limner.storage.sql.accounts import User
from limner.storage.sql.database import Database
from limner.storage.sql.outbox import Outbox
from limner.storage.sql.unit import SqlUnits
from tests.fakes.task_world import World, opened_world


@pytest.fixture
async def world(
    tmp_path: Path,
    clock: HeldClock,
    database: Database,
    units: SqlUnits,
    outbox: Outbox,
    broker: EmbeddedBroker,
    metrics: Metrics,
) -> AsyncIterator[World]:
    async with opened_world(
        home=tmp_path,
        clock=clock,
        database=database,
        units=units,
        outbox=outbox,
        broker=broker,
        metrics=metrics,
        hosts=frozenset(),
    ) as opened:
        yield opened


async def owner(world: World, **defaults: str) -> str:
    """Store an account and give its id."""
    ident = new_id("user")
    work = world.ports.units.open("test")
    work.add(User(id=ident, user_id=ident, state="active", defaults=defaults))
    await world.ports.units.commit(work)
    return ident


async def test_the_owners_provider_counts_in_place_of_the_settings(world: World) -> None:
    await world.set(image_provider="somebody")
    user_id = await owner(world, image_provider="local")
    own = await world.submit(await world.task(user_id=user_id))
    assert (own.state, own.provider) == ("submitted", "local")
    other = await world.submit(await world.task(user_id=await owner(world)))
    assert (other.state, other.error) == ("failed", "no provider somebody")


async def test_it_counts_for_its_own_kind_of_media_alone(world: World) -> None:
    user_id = await owner(world, video_provider="nobody")
    picture = await world.submit(await world.task(user_id=user_id))
    film = await world.submit(await world.task(user_id=user_id, media="video"))
    assert picture.provider == "local"
    assert (film.state, film.error) == ("failed", "no provider nobody")

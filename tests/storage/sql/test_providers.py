"""Providers as they are read by many: from memory, and never older than some seconds."""

from copy import copy

from limner.core.clock import HeldClock
from limner.core.unit import Commit
from limner.storage.sql.database import Database
from limner.storage.sql.providers import Provider, provider_seen
from limner.storage.sql.remembered import LIFE_S
from limner.storage.sql.unit import SqlUnits


async def add(units: SqlUnits) -> None:
    work = units.open("test")
    work.add(Provider(id="provider_1", user_id="user_1", state="active", name="acme"))
    assert await units.commit(work) is Commit.DONE


async def change(units: SqlUnits, media: str) -> None:
    work = units.open("test")
    work.change(await Provider.get(id="provider_1"), media=media)
    assert await units.commit(work) is Commit.DONE


async def media(database: Database) -> str:
    provider = await provider_seen(database, "provider_1")
    assert provider is not None
    return provider.media


async def test_a_provider_is_read_once_for_many(database: Database, units: SqlUnits) -> None:
    await add(units)
    first = await provider_seen(database, "provider_1")
    assert await provider_seen(database, "provider_1") is first


async def test_a_provider_that_is_not_there_is_seen_as_soon_as_it_is(
    database: Database, units: SqlUnits
) -> None:
    assert await provider_seen(database, "provider_1") is None
    await add(units)
    assert await media(database) == "both"


async def test_a_change_of_this_process_is_seen_at_once(
    database: Database, units: SqlUnits
) -> None:
    await add(units)
    assert await media(database) == "both"
    await change(units, "image")
    assert await media(database) == "image"


async def test_a_change_of_another_process_is_seen_in_time(
    database: Database, units: SqlUnits, clock: HeldClock
) -> None:
    await add(units)
    # Another process has the same rows and a memory of its own, which nobody tells of our commits.
    another = copy(database)
    another._memories = {}
    assert await media(another) == "both"
    await change(units, "image")
    assert await media(another) == "both"
    clock.advance(LIFE_S)
    assert await media(another) == "image"

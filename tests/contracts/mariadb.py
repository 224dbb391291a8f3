"""A MariaDB for contract suites: migrated once per process, emptied for each test."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tortoise import Tortoise

from limner.core.clock import Clock, HeldClock, SystemClock
from limner.storage.sql.connection import Connection
from limner.storage.sql.database import APP, Database
from limner.storage.sql.schema import migrate
from tests.contracts.engines import START, eventually
from tests.engines import shared


class HeldDatabase(Database):
    """A database on a server whose time is that of the test's clock."""

    def server_time(self) -> str:
        return f"TIMESTAMP'{self.clock.now():%Y-%m-%d %H:%M:%S.%f}'"


@dataclasses.dataclass
class Migrated:
    """The database that this process keeps for its tests; empty: there is none yet."""

    url: str = ""


_kept = Migrated()


async def fresh_url() -> str:
    """Give the URL of a database without tables."""
    return await asyncio.to_thread(lambda: shared.mariadb().fresh_database())


async def _migrated_url() -> str:
    if not _kept.url:
        url = await fresh_url()
        database = Database(url, SystemClock())
        await database.open()
        try:
            await migrate(database)
        finally:
            await database.close()
        _kept.url = url
    return _kept.url


async def _empty(database: Database) -> None:
    """Delete all rows; only tables that have some are touched."""
    assert Tortoise.apps is not None
    tables = sorted(model._meta.db_table for model in Tortoise.apps[APP].values())
    looks = " UNION ALL ".join(f"(SELECT '{name}' AS name FROM {name} LIMIT 1)" for name in tables)  # noqa: S608
    for row in await database.read().query(looks):
        await database.write().execute(f"DELETE FROM {row['name']}")  # noqa: S608


async def own_id(connection: Connection) -> int:
    """Give the number by which the server knows a connection."""
    return int((await connection.query("SELECT CONNECTION_ID() AS id"))[0]["id"])


async def cut(connection_id: int) -> None:
    """End a connection from outside and wait until the server is rid of it."""
    server = shared.mariadb()
    await asyncio.to_thread(server.query, f"KILL {connection_id}")

    async def is_gone() -> bool:
        look = "SELECT 1 FROM information_schema.processlist WHERE id = %s"
        return not await asyncio.to_thread(server.query, look, connection_id)

    await eventually(is_gone)


async def opened(clock: Clock, *, emptied: bool) -> Database:
    """Open the database with the newest schema; its time is a held clock's, or its own."""
    kind = HeldDatabase if isinstance(clock, HeldClock) else Database
    database = kind(await _migrated_url(), clock)
    await database.open()
    if emptied:
        try:
            await _empty(database)
        except BaseException:
            _kept.url = ""
            await database.close()
            raise
    return database


@asynccontextmanager
async def empty_database() -> AsyncIterator[tuple[Database, HeldClock]]:
    """Open a database with the newest schema and no rows, and the clock that is its time."""
    clock = HeldClock(START)
    database = HeldDatabase(await _migrated_url(), clock)
    await database.open()
    try:
        try:
            await _empty(database)
        except Exception:
            # What the last test left behind is no database of ours: make another next time.
            _kept.url = ""
            raise
        yield database, clock
    finally:
        await database.close()

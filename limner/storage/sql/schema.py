"""The schema: which migrations are pending, and applying them, one process at a time.

Tortoise's migration API calls itself experimental; tests migrate databases with rows in them
forward and back, so that a defect of it shows here and not at a user's. A migration widens first
and narrows a version later, so that two versions of the program can run side by side.
"""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tortoise.migrations.executor import MigrationTarget

from limner.core.errors import Busy
from limner.storage.sql.database import APP, BUSY_TIMEOUT_MS, Database
from limner.storage.sql.ddl import Executor

LOCK_WAIT_S = 60


def _executor(database: Database, client: Any) -> Executor:
    return Executor(client, {APP: database.config["apps"][APP]})


async def pending(database: Database) -> list[str]:
    """Give the names of the migrations that have not been applied, in order.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    executor = _executor(database, database.write().client)
    return [step.migration.name for step in await executor.plan(None)]


async def migrate(database: Database, target: str | None = None) -> list[str]:
    """Apply what is pending, or go forward or back to ``target``; give the names that ran.

    ``target`` is a migration's name, or ``__first__`` to undo all. Of several processes that do so
    at once the first migrates, and the others find nothing to do. On SQLite a migration that fails
    leaves everything as it was; on a server it goes on where it was cut off.

    Raises:
        Busy: another process has been migrating for longer than ``LOCK_WAIT_S``.
        EngineUnavailable: the database does not answer.
    """
    done: list[str] = []

    def progress(event: str, _: str, name: str) -> None:
        if event.endswith("_done"):
            done.append(name)

    targets = [MigrationTarget(app_label=APP, name=target)] if target else None
    async with _alone(database) as client:
        await _executor(database, client).migrate(targets, progress=progress)
    return done


@asynccontextmanager
async def _patient(database: Database) -> AsyncIterator[None]:
    """Let the writer of a file wait for the lock as long as another process may migrate."""
    writer = database.write()
    await writer.query(f"PRAGMA busy_timeout = {LOCK_WAIT_S * 1000}")
    try:
        yield
    finally:
        await writer.query(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")


@asynccontextmanager
async def _alone(database: Database) -> AsyncIterator[Any]:
    """Hold the lock of the migrations and give the connection to migrate by.

    A file has its write lock. On a server each change of a table ends a transaction and its locks,
    so a lock by name is held by a second connection; the server drops it if that one ends.
    """
    if database.dialect == "sqlite":
        async with _patient(database), database.transaction() as connection:
            yield connection.client
        return
    client = database.write().client
    digest = hashlib.sha256(database.name.encode()).hexdigest()
    async with client.named_lock(f"limner:{digest[:32]}", LOCK_WAIT_S) as is_ours:
        if not is_ours:
            raise Busy("another process has been migrating this database for a minute")
        yield client

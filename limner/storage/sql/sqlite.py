"""SQLite for Tortoise: BEGIN IMMEDIATE, and errors of the file told apart from errors of ours.

Tortoise begins deferred transactions, which fail with "database is locked" when they turn from
reading to writing while another connection writes (a command beside the server); an immediate one
waits for its turn instead.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tortoise.backends.base.client import (
    ConnectionWrapper,
    TransactionalDBClient,
    TransactionContext,
)
from tortoise.backends.sqlite.client import (
    SqliteClient,
    SqliteTransactionContext,
    SqliteTransactionWrapper,
)
from tortoise.connection import get_connections
from tortoise.exceptions import OperationalError, TransactionManagementError

from limner.core.errors import EngineUnavailable

T = TypeVar("T")

UNAVAILABLE = ("locked", "disk I/O error", "disk is full", "unable to open", "readonly")


def translated(error: OperationalError | sqlite3.OperationalError) -> Exception:
    """Give EngineUnavailable if the file cannot be used now, else the error itself."""
    text = str(error)
    if any(word in text for word in UNAVAILABLE):
        return EngineUnavailable(f"SQLite: {text}")
    return error


class FreedConnection(ConnectionWrapper[Any]):
    """The turn on a connection, handed on also when the connection could not be opened."""

    async def __aenter__(self) -> Any:
        await self._lock.acquire()
        try:
            await self.ensure_connection()
        except BaseException:
            self._lock.release()
            raise
        return self.connection


class TranslatingClient(SqliteClient):
    """Tortoise's client whose errors of the file are errors of ours."""

    def acquire_connection(self) -> FreedConnection:
        return FreedConnection(self._lock, self)

    async def execute_query(
        self, query: str, values: list[Any] | None = None
    ) -> tuple[int, Sequence[dict[str, Any]]]:
        try:
            count, rows = await super().execute_query(query, values)
        except OperationalError as error:
            raise translated(error) from error
        return count, rows

    async def execute_query_dict(
        self, query: str, values: list[Any] | None = None
    ) -> list[dict[str, Any]]:
        try:
            rows: list[dict[str, Any]] = await super().execute_query_dict(query, values)
        except OperationalError as error:
            raise translated(error) from error
        return rows

    async def execute_insert(self, query: str, values: list[Any]) -> int:
        try:
            number: int = await super().execute_insert(query, values)
        except OperationalError as error:
            raise translated(error) from error
        return number


class ImmediateTransaction(TranslatingClient, SqliteTransactionWrapper):
    """A transaction that takes the write lock when it begins."""

    async def begin(self) -> None:
        try:
            await self._connection.commit()
            await self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raised = translated(error)
            if isinstance(raised, EngineUnavailable):
                raise raised from error
            raise TransactionManagementError(error) from error

    async def commit(self) -> None:
        try:
            await super().commit()
        except sqlite3.Error as error:
            await self.rollback()
            if isinstance(error, sqlite3.OperationalError):
                raise translated(error) from error
            raise


class ImmediateTransactionContext(SqliteTransactionContext):
    """Leaves the connection free and clean if its transaction could not begin."""

    async def __aenter__(self) -> TransactionalDBClient:
        await self._trxlock.acquire()
        try:
            await self.ensure_connection()
            await self.connection.begin()
        except BaseException:
            await self._abandon()
            raise
        self.token = get_connections().set(self.connection_name, self.connection)
        client: TransactionalDBClient = self.connection
        return client

    async def _abandon(self) -> None:
        """Undo a beginning that failed or was cancelled; its thread may begin all the same."""
        try:
            if self.connection._connection:
                await self.connection.rollback()
        finally:
            self._trxlock.release()


class ImmediateSqliteClient(TranslatingClient):
    """Tortoise's client with immediate transactions and translated errors."""

    async def create_connection(self, with_db: bool) -> None:
        try:
            await super().create_connection(with_db)
        except sqlite3.Error as error:
            await self.close()
            raise EngineUnavailable(f"SQLite: {error}") from error
        except BaseException:
            await self.close()
            raise

    def _in_transaction(self) -> TransactionContext:
        return ImmediateTransactionContext(ImmediateTransaction(self), self._lock)

    async def in_thread(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` in the connection's thread, between other statements, never within."""
        async with self._lock:
            if self._connection is None:
                await self.create_connection(with_db=True)
            connection: Any = self._connection
            running = asyncio.ensure_future(connection._execute(work, connection._conn))
            # A caller that is cancelled leaves the thread at work, and its error to nobody.
            running.add_done_callback(lambda one: one.cancelled() or one.exception())
            result: T = await asyncio.shield(running)
            return result


client_class = ImmediateSqliteClient

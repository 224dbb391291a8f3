"""The database: one writer and separate readers on SQLite, a pool on a server.

Everything on the hot path is SQL through Tortoise's connections, written once for both dialects.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tortoise import Tortoise, connections
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.exceptions import DBConnectionError, OperationalError
from tortoise.transactions import in_transaction

from limner.core.clock import Clock
from limner.core.errors import EngineUnavailable, NotConfigured
from limner.storage.sql.address import MysqlAddress, mysql_address, sqlite_path
from limner.storage.sql.connection import Connection, Dialect, WriterThread, server_time
from limner.storage.sql.faults import repeated
from limner.storage.sql.remembered import LIFE_S, Remembered
from limner.storage.sql.sqlite import ImmediateSqliteClient

T = TypeVar("T")

MODELS = (
    "accounts",
    "action_links",
    "audit",
    "comments",
    "deliveries",
    "idempotency",
    "identities",
    "jobs",
    "language",
    "mailbox",
    "messaging",
    "notifications",
    "providers",
    "recovery_codes",
    "schedules",
    "sessions",
    "signing_keys",
    "sources",
    "suppressions",
    "tasks",
    "timeline",
    "tunables",
)
APP = "limner"
BUSY_TIMEOUT_MS = 5_000


class Database:
    """Opens and closes Tortoise for one process."""

    def __init__(self, url: str, clock: Clock, pool: int = 20) -> None:
        self.url = url
        self.clock = clock
        self.dialect, self._address = _read_url(url)
        self._pool_size = pool
        self.config = _config(url, self.dialect)
        self._thread: ImmediateSqliteClient | None = None
        self._server: Any = None
        self._memories: dict[str, Remembered[Any]] = {}

    def memory(self, name: str, life_s: float = LIFE_S) -> Remembered[Any]:
        """Give the memory of this name for what is read; commits of this process keep it true."""
        if name not in self._memories:
            self._memories[name] = Remembered(self.clock, life_s)
        return self._memories[name]

    def forget(self, idents: Iterable[str]) -> None:
        """Forget what was remembered of these rows, everywhere in this process."""
        for ident in idents:
            for memory in self._memories.values():
                memory.forget(ident)

    @property
    def path(self) -> Path | None:
        """The SQLite file, or None."""
        return sqlite_path(self.url) if self.dialect == "sqlite" else None

    @property
    def name(self) -> str:
        """The database's name on its server; empty for a file."""
        return self._address.name if self._address is not None else ""

    def server_time(self) -> str:
        """Give the SQL expression of now on a server."""
        return server_time()

    async def open(self) -> None:
        """Connect.

        Raises:
            EngineUnavailable: the database does not answer.
        """
        try:
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._address is not None:
                self._add_pool(self._address)
            # Tortoise keeps models' statements by the connection's name, whatever its dialect.
            EXECUTOR_CACHE.clear()
            await Tortoise.init(config=self.config, use_tz=True, timezone="UTC")
            writer = connections.get("writer")
            self._thread = writer if isinstance(writer, ImmediateSqliteClient) else None
            self._server = writer if self.dialect == "mysql" else None
            await self.read().query("SELECT 1")
        except (DBConnectionError, OperationalError, OSError) as error:
            raise EngineUnavailable(f"database: {error}") from error

    def _add_pool(self, address: MysqlAddress) -> None:
        """Give readers and writers the same connections."""
        # Who keeps to SQLite shall not need the driver.
        from limner.storage.sql.mysql import connect
        from limner.storage.sql.pool import ConnectionPool

        pool = ConnectionPool(partial(connect, address), self._pool_size)
        for one in self.config["connections"].values():
            one["credentials"] = {"pool": pool}

    async def close(self) -> None:
        """Close all connections."""
        self._thread = self._server = None
        await Tortoise.close_connections()

    def read(self) -> Connection:
        """Give the readers' connection."""
        return self._connection(connections.get("default"))

    def write(self) -> Connection:
        """Give the writer's connection, each statement its own transaction."""
        return self._connection(connections.get("writer"))

    def _connection(self, client: Any) -> Connection:
        return Connection(client, self.dialect, self.clock, self.server_time)

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run ``work`` in one transaction; it awaits nothing but the connection it is given.

        If a deadlock or a lost connection undid the transaction, ``work`` is run again from the
        start: it must have no effect but through its connection. If the caller is cancelled
        meanwhile, the transaction ends all the same, one way or other.

        Raises:
            EngineUnavailable: the database does not answer.
            CommitUnsure: it did not answer to COMMIT.
            Deadlocked: the database undid every try.
        """
        return await repeated(lambda: self._run_once(work))

    async def run_batch(
        self,
        statements: Sequence[tuple[str, Sequence[Any]]],
        accept: Callable[[Sequence[int]], None],
    ) -> None:
        """Run statements, known beforehand, as one transaction of a server.

        ``accept`` is given the rows that each changed; what it raises undoes the transaction. One
        statement alone is committed whatever ``accept`` says.

        Raises:
            EngineUnavailable, CommitUnsure, Deadlocked: as ``run``.
        """
        if self._server is None:
            raise EngineUnavailable("MySQL: the database is closed")
        rendering = self.write()
        await self._server.transact([rendering.rendered(*one) for one in statements], accept)

    async def _run_once(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        if self.dialect != "sqlite":
            async with self.transaction() as connection:
                return await work(connection)
        if self._thread is None:
            raise EngineUnavailable("SQLite: the database is closed")
        return await self._thread.in_thread(
            lambda raw: WriterThread(raw, self.clock).transact(work)
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Open a transaction on the writer; commits at the end, rolls back on any error.

        Raises:
            EngineUnavailable: the database does not answer.
            CommitUnsure: it did not answer to COMMIT.
            Deadlocked: the database undid the transaction.
        """
        try:
            async with self._open_transaction() as client:
                yield self._connection(client)
        except DBConnectionError as error:
            raise EngineUnavailable(f"database: {error}") from error

    def _open_transaction(self) -> Any:
        if self.dialect == "mysql":
            if self._server is None:
                raise EngineUnavailable("MySQL: the database is closed")
            # On a connection of its own, also where the task has a transaction open already.
            return self._server._in_transaction()
        return in_transaction("writer")


def _read_url(url: str) -> tuple[Dialect, MysqlAddress | None]:
    scheme = url.partition(":")[0]
    if scheme == "sqlite":
        return "sqlite", None
    if scheme == "mysql":
        return "mysql", mysql_address(url)
    known = "sqlite://PATH or mysql://USER:PASSWORD@HOST:3306/NAME"
    raise NotConfigured(
        f"LIMNER_DATABASE_URL: {scheme or url!r} is no known database. Use {known}",
        code="settings",
    )


def _config(url: str, dialect: Dialect) -> dict[str, Any]:
    """Give Tortoise's configuration: readers are ``default``, so that plain queries are theirs."""
    params: dict[str, Any] = {}
    if dialect == "sqlite":
        params = {
            "file_path": str(sqlite_path(url)),
            "journal_mode": "WAL",
            "synchronous": "FULL",
            "foreign_keys": "ON",
            "secure_delete": "ON",
            "busy_timeout": BUSY_TIMEOUT_MS,
        }
    engine = f"limner.storage.sql.{dialect}"
    app = {
        "models": [f"limner.storage.sql.{name}" for name in MODELS],
        "default_connection": "default",
        "migrations": "limner.storage.sql.migrations",
    }
    return {
        "connections": {
            name: {"engine": engine, "credentials": params} for name in ("default", "writer")
        },
        "apps": {APP: app},
    }

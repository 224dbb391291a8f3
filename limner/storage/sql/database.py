"""The database: one writer and separate readers on SQLite, a pool on a server.

Everything on the hot path is SQL through Tortoise's connections, written once for both dialects:
``?`` marks a value, and the values ``NOW`` and ``FromNow`` become the database's own time, UTC.
"""

import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from tortoise import Tortoise, connections
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.exceptions import DBConnectionError, IntegrityError, OperationalError
from tortoise.transactions import in_transaction

from limner.core.clock import Clock
from limner.core.errors import EngineUnavailable, NotConfigured
from limner.storage.sql.address import MysqlAddress, mysql_address, sqlite_path
from limner.storage.sql.faults import repeated
from limner.storage.sql.remembered import LIFE_S, Remembered
from limner.storage.sql.sqlite import ImmediateSqliteClient, translated

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
IGNORE, KEY_TAKEN = "INSERT IGNORE", "(1062,"

Dialect = Literal["sqlite", "mysql"]


@dataclass(frozen=True, slots=True)
class FromNow:
    """A time so many seconds after the database's now."""

    seconds: float


NOW = FromNow(0)


# A quoted word of a statement, in which a question mark is only that, or the mark of a value.
_MARK = re.compile(r"""('(?:[^']|'')*'|"[^"]*"|`[^`]*`)|\?""")


@lru_cache(maxsize=2048)
def _pieces(sql: str) -> tuple[str, ...]:
    """Split a statement at its marks, and double its % signs, as the MySQL driver wants."""
    pieces, start = [], 0
    for match in _MARK.finditer(sql):
        if not match[1]:
            pieces.append(sql[start : match.start()])
            start = match.end()
    return tuple(piece.replace("%", "%%") for piece in (*pieces, sql[start:]))


def server_time() -> str:
    """Give the expression of the server's own time, the same in every time zone."""
    return "UTC_TIMESTAMP(6)"


class Connection:
    """One open transaction, or the readers; see the module for the form of statements."""

    def __init__(
        self,
        client: Any,
        dialect: Dialect,
        clock: Clock,
        now: Callable[[], str] = server_time,
    ) -> None:
        self.client = client
        self.dialect = dialect
        self._clock = clock
        self._now = now

    def rendered(self, sql: str, values: Sequence[Any]) -> tuple[str, list[Any]]:
        """Give a statement and its values as the driver wants them."""
        if self.dialect == "sqlite":
            now = self._clock.now()
            plain = [
                now + timedelta(seconds=value.seconds) if isinstance(value, FromNow) else value
                for value in values
            ]
            return sql, plain
        pieces = _pieces(sql)
        text, plain = [pieces[0]], []
        for value, piece in zip(values, pieces[1:], strict=True):
            if isinstance(value, FromNow):
                text.append(f"DATE_ADD({self._now()}, INTERVAL %s MICROSECOND)")
                plain.append(round(value.seconds * 1_000_000))
            else:
                text.append("%s")
                plain.append(value)
            text.append(piece)
        return "".join(text), plain

    async def execute(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Run a statement and give the number of rows it changed.

        Raises:
            EngineUnavailable: the database does not answer.
        """
        text, plain = self.rendered(sql, values)
        if self.dialect == "mysql" and text.startswith(IGNORE):
            # MySQL's own IGNORE would also cut what is too long and make up what is missing.
            try:
                return await self._count(text.replace(IGNORE, "INSERT", 1), plain)
            except IntegrityError as error:
                if not str(error).startswith(KEY_TAKEN):
                    raise
                return 0
        return await self._count(text, plain)

    async def _count(self, text: str, values: list[Any]) -> int:
        count, _ = await self.client.execute_query(text, values)
        return int(count)

    async def query(self, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Run a query and give its rows; times are text, ISO 8601 in UTC.

        Raises:
            EngineUnavailable: the database does not answer.
        """
        text, plain = self.rendered(sql, values)
        rows: list[dict[str, Any]] = await self.client.execute_query_dict(text, plain)
        if self.dialect == "mysql":
            for row in rows:
                for name, value in row.items():
                    if isinstance(value, datetime):
                        row[name] = str(value.replace(tzinfo=UTC))
        return rows

    @property
    def insert_or_ignore(self) -> str:
        """The words that begin an insert of one row and pass over it if its key is taken."""
        return "INSERT OR IGNORE INTO" if self.dialect == "sqlite" else "INSERT IGNORE INTO"

    @property
    def for_update(self) -> str:
        """The words that end a query and lock its rows; SQLite has one writer and needs none."""
        return "" if self.dialect == "sqlite" else " FOR UPDATE"

    @property
    def skip_locked(self) -> str:
        """The words that end a query of a claim: lock rows, and pass over those that are locked."""
        return "" if self.dialect == "sqlite" else " FOR UPDATE SKIP LOCKED"


class WriterThread(Connection):
    """A transaction that runs wholly in the writer's thread: its calls never wait.

    A unit of work is some ten statements; a change of threads for each would cost more than the
    statements do.
    """

    def __init__(self, raw: sqlite3.Connection, clock: Clock) -> None:
        super().__init__(None, "sqlite", clock)
        self._raw = raw

    async def execute(self, sql: str, values: Sequence[Any] = ()) -> int:
        return self._call(sql, values).rowcount

    async def query(self, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        return [dict(row) for row in self._call(sql, values).fetchall()]

    def _call(self, sql: str, values: Sequence[Any]) -> sqlite3.Cursor:
        text, plain = self.rendered(sql, values)
        try:
            return self._raw.execute(text, plain)
        except sqlite3.IntegrityError as error:
            raise IntegrityError(error) from error
        except sqlite3.OperationalError as error:
            raise translated(OperationalError(error)) from error

    def transact(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run ``work`` between BEGIN IMMEDIATE and COMMIT; any error rolls back."""
        self._raw.commit()
        self._call("BEGIN IMMEDIATE", ())
        try:
            result = _to_end(work(self))
            self._call("COMMIT", ())
        except BaseException:
            self._raw.rollback()
            raise
        return result


def _to_end(work: Awaitable[T]) -> T:
    """Run a coroutine that never waits to its end."""
    steps = work.__await__()
    try:
        next(steps)
    except StopIteration as end:
        result: T = end.value
        return result
    raise RuntimeError("inside a transaction only the database may be awaited")


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
        self._memories: list[Remembered[Any]] = []

    def memory(self, life_s: float = LIFE_S) -> Remembered[Any]:
        """Give a memory for what is read; commits of this process keep it true."""
        memory: Remembered[Any] = Remembered(self.clock, life_s)
        self._memories.append(memory)
        return memory

    def forget(self, idents: Iterable[str]) -> None:
        """Forget what was remembered of these rows, everywhere in this process."""
        for ident in idents:
            for memory in self._memories:
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

"""The database: one writer and separate readers on SQLite, a pool on a server.

Everything on the hot path is SQL through Tortoise's connections, written once for both dialects:
``?`` marks a value, and the values ``NOW`` and ``FromNow`` become the database's own time.
"""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from tortoise import Tortoise, connections
from tortoise.exceptions import DBConnectionError, IntegrityError, OperationalError
from tortoise.transactions import in_transaction

from limner.core.clock import Clock
from limner.core.errors import EngineUnavailable, NotConfigured
from limner.storage.sql.sqlite import ImmediateSqliteClient, translated

T = TypeVar("T")

MODELS = (
    "accounts",
    "audit",
    "comments",
    "deliveries",
    "jobs",
    "language",
    "mailbox",
    "messaging",
    "providers",
    "schedules",
    "sources",
    "suppressions",
    "tasks",
    "timeline",
    "tunables",
)
APP = "limner"
BUSY_TIMEOUT_MS = 5_000

Dialect = Literal["sqlite", "mysql"]


@dataclass(frozen=True, slots=True)
class FromNow:
    """A time so many seconds after the database's now."""

    seconds: float


NOW = FromNow(0)


class Connection:
    """One open transaction, or the readers; see the module for the form of statements."""

    def __init__(self, client: Any, dialect: Dialect, clock: Clock) -> None:
        self.client = client
        self.dialect = dialect
        self._clock = clock

    def _render(self, sql: str, values: Sequence[Any]) -> tuple[str, list[Any]]:
        if self.dialect == "sqlite":
            now = self._clock.now()
            plain = [
                now + timedelta(seconds=value.seconds) if isinstance(value, FromNow) else value
                for value in values
            ]
            return sql, plain
        parts = sql.split("?")
        text, plain = [parts[0]], []
        for value, part in zip(values, parts[1:], strict=True):
            if isinstance(value, FromNow):
                text.append("DATE_ADD(UTC_TIMESTAMP(6), INTERVAL %s MICROSECOND)")
                plain.append(round(value.seconds * 1_000_000))
            else:
                text.append("%s")
                plain.append(value)
            text.append(part)
        return "".join(text), plain

    async def execute(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Run a statement and give the number of rows it changed.

        Raises:
            EngineUnavailable: the database does not answer.
        """
        text, plain = self._render(sql, values)
        count, _ = await self.client.execute_query(text, plain)
        return int(count)

    async def query(self, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Run a query and give its rows; on SQLite times are text, ISO 8601.

        Raises:
            EngineUnavailable: the database does not answer.
        """
        text, plain = self._render(sql, values)
        rows: list[dict[str, Any]] = await self.client.execute_query_dict(text, plain)
        return rows

    @property
    def insert_or_ignore(self) -> str:
        """The words that insert and pass over rows whose key is taken."""
        return "INSERT OR IGNORE INTO" if self.dialect == "sqlite" else "INSERT IGNORE INTO"


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
        text, plain = self._render(sql, values)
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
        self.config, self.dialect = _config(url, pool)
        self._writer = "writer" if self.dialect == "sqlite" else "default"
        self._thread: ImmediateSqliteClient | None = None

    @property
    def path(self) -> Path | None:
        """The SQLite file, or None."""
        return _sqlite_path(self.url) if self.dialect == "sqlite" else None

    async def open(self) -> None:
        """Connect.

        Raises:
            EngineUnavailable: the database does not answer.
        """
        try:
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            await Tortoise.init(config=self.config, use_tz=True, timezone="UTC")
            writer = connections.get(self._writer)
            self._thread = writer if isinstance(writer, ImmediateSqliteClient) else None
            await self.read().query("SELECT 1")
        except (DBConnectionError, OperationalError, OSError) as error:
            raise EngineUnavailable(f"database: {error}") from error

    async def close(self) -> None:
        """Close all connections."""
        self._thread = None
        await Tortoise.close_connections()

    def read(self) -> Connection:
        """Give the readers' connection."""
        return Connection(connections.get("default"), self.dialect, self.clock)

    def write(self) -> Connection:
        """Give the writer's connection, each statement its own transaction."""
        return Connection(connections.get(self._writer), self.dialect, self.clock)

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run ``work`` in one transaction; it awaits nothing but the connection it is given.

        If the caller is cancelled meanwhile, the transaction ends all the same, one way or other.

        Raises:
            EngineUnavailable: the database does not answer.
        """
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
        """
        try:
            async with in_transaction(self._writer) as client:
                yield Connection(client, self.dialect, self.clock)
        except DBConnectionError as error:
            raise EngineUnavailable(f"database: {error}") from error


def _sqlite_path(url: str) -> Path:
    return Path(url.removeprefix("sqlite://").partition("?")[0])


def _config(url: str, pool: int) -> tuple[dict[str, Any], Dialect]:
    scheme = urlsplit(url).scheme
    if scheme == "sqlite":
        params: dict[str, Any] = {
            "file_path": str(_sqlite_path(url)),
            "journal_mode": "WAL",
            "synchronous": "FULL",
            "foreign_keys": "ON",
            "busy_timeout": BUSY_TIMEOUT_MS,
        }
        one = {"engine": "limner.storage.sql.sqlite", "credentials": params}
        chosen: dict[str, Any] = {"default": one, "writer": one}
        dialect: Dialect = "sqlite"
    else:
        raise NotConfigured(
            f"LIMNER_DATABASE_URL: {scheme or url!r} is no known database. Use sqlite://PATH",
            code="settings",
        )
    app = {
        "models": [f"limner.storage.sql.{name}" for name in MODELS],
        "default_connection": "default",
        "migrations": "limner.storage.sql.migrations",
    }
    return {"connections": chosen, "apps": {APP: app}}, dialect


def secret_free(url: str) -> str:
    """Give the URL without its password."""
    parts = urlsplit(url)
    if parts.password:
        return url.replace(f":{unquote(parts.password)}@", ":***@").replace(
            f":{parts.password}@", ":***@"
        )
    return url

"""One connection to a database: statements written once, for SQLite and for a server.

``?`` marks a value, and the values ``NOW`` and ``FromNow`` become the database's own time, UTC.
"""

import re
import sqlite3
from collections.abc import Awaitable, Callable, Sequence, Sized
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal, TypeVar

from tortoise.exceptions import IntegrityError, OperationalError

from limner.core.clock import Clock
from limner.storage.sql.sqlite import translated

T = TypeVar("T")

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


def marks(values: Sized) -> str:
    """Give a mark for each of some values, as ``IN (…)`` and ``VALUES (…)`` have them."""
    return ", ".join("?" * len(values))


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

"""What a front asks the database for a job that is read and for one that is made.

The statements are Limner's own: its functions are run against a connection that notes what it is
told and answers nothing. The bare front then asks the same of the same driver.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import aiomysql

from benchmarks import transactions
from benchmarks.clients import PROMPT
from benchmarks.tape import PRAGMAS
from limner.actors.generator.messages import Ring
from limner.actors.generator.rules import Wanted
from limner.core.broker import Broker
from limner.core.message import Envelope
from limner.storage.sql import idempotency
from limner.storage.sql.accounts import OWNER_ID
from limner.storage.sql.connection import IGNORE, Connection
from limner.storage.sql.database import Database
from limner.storage.sql.finding import column_names
from limner.storage.sql.idempotency import Asked, Run
from limner.storage.sql.jobs import Job, create_job, queue_position
from limner.storage.sql.statements import UnitWriter
from limner.storage.sql.unit import SqlUnits

ANSWER_BYTES = 1500
"""About what the sealed answer of a new job has."""

JOB, UNIT, MESSAGE, REQUEST = "<job>", "<unit>", "<message>", "<request>"
"""What stands in the statements for ids that are new at each request."""

Bound = tuple[str, Sequence[Any]]


@dataclass(frozen=True)
class Statement:
    """SQL as the driver wants it, with the values of one request."""

    sql: str
    values: Sequence[Any]

    def filled(self, fresh: Mapping[Any, Any]) -> Bound:
        """Give it for another request: values that are names in ``fresh`` are exchanged."""
        return self.sql, [fresh.get(value, value) for value in self.values]


@dataclass(frozen=True)
class Questions:
    """What one read and one write ask; ``create`` is one transaction."""

    show: Statement
    claim: Statement
    place: Statement
    create: Sequence[Statement]


class Notes(Connection):
    """A connection that notes what it is asked; every statement changes one row."""

    def __init__(self, database: Database) -> None:
        super().__init__(None, database.dialect, database.clock)
        self.taken: list[Statement] = []

    async def execute(self, sql: str, values: Sequence[Any] = ()) -> int:
        self.note(sql, values)
        return 1

    async def query(self, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        self.note(sql, values)
        return [{"ahead": 0, "above": None, "below": None}]

    def note(self, sql: str, values: Sequence[Any]) -> None:
        """Keep a statement as the driver would be given it."""
        text, plain = self.rendered(sql, values)
        if self.dialect == "mysql":
            text = text.replace(IGNORE, "INSERT", 1)
        else:
            plain = [str(one) if isinstance(one, datetime) else one for one in plain]
        self.taken.append(Statement(text, plain))


@dataclass(frozen=True)
class NotingDatabase:
    """Stands where a database is asked for its connections."""

    notes: Notes

    def read(self) -> Notes:
        """Give the one connection."""
        return self.notes

    def write(self) -> Notes:
        """Give the one connection."""
        return self.notes


async def _nowhere(_: list[Envelope]) -> None:
    """Publish nothing."""


async def of(database: Database, broker: Broker) -> Questions:
    """Give what Limner asks an open database for each of the two."""
    notes = Notes(database)
    noting: Any = NotingDatabase(notes)
    units = SqlUnits(database, broker, database.clock, _nowhere)
    work = units.open("front")
    work.key = UNIT
    job = create_job(work, Wanted(prompt=PROMPT).columns(), user_id=OWNER_ID, ident=JOB)
    work.send(Ring(job_id=job.id))
    await idempotency.claim(noting, Asked(REQUEST, OWNER_ID, "f" * 64))
    await queue_position(noting, job)
    claim, place = notes.taken
    notes.taken = []
    for one in UnitWriter(durable_broker=True).group([work]):
        notes.note(one.sql, one.values)
    await idempotency.keep(Run(REQUEST, 1), 202, b"x" * ANSWER_BYTES)(notes)
    message = work.commands[0][0].message_id
    create = [
        Statement(one.sql, [MESSAGE if value == message else value for value in one.values])
        for one in notes.taken
    ]
    notes.taken = []
    notes.note(f"SELECT {column_names(Job)} FROM `jobs` WHERE `id` IN (?)", [JOB])
    return Questions(notes.taken[0], claim, place, create)


class BareDatabase(Protocol):
    """A driver, as somebody uses it who wants nothing else from it."""

    async def query(self, sql: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        """Give the rows of a query."""
        ...

    async def execute(self, sql: str, values: Sequence[Any]) -> None:
        """Run a statement, which is a transaction of its own."""
        ...

    async def transact(self, statements: Sequence[Bound]) -> None:
        """Run statements as one transaction."""
        ...


@asynccontextmanager
async def opened(database_url: str) -> AsyncIterator[BareDatabase]:
    """Open the driver of a URL for the time of a block."""
    scheme, _, rest = database_url.partition("://")
    if scheme == "sqlite":
        database = BareSqlite(Path(rest))
        try:
            yield database
        finally:
            await database.close()
        return
    async with transactions.pooled(database_url) as pool:
        yield BareMariaDb(pool)


@dataclass(frozen=True)
class BareSqlite:
    """sqlite3 in two threads, one that reads and one that writes; each call is one visit."""

    path: Path
    _reading: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    _writing: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    _open: dict[ThreadPoolExecutor, sqlite3.Connection] = field(default_factory=dict)

    async def query(self, sql: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        def read() -> list[dict[str, Any]]:
            return [dict(row) for row in self._connection(self._reading).execute(sql, values)]

        return await asyncio.get_running_loop().run_in_executor(self._reading, read)

    async def execute(self, sql: str, values: Sequence[Any]) -> None:
        await self.transact([(sql, values)])

    async def transact(self, statements: Sequence[Bound]) -> None:
        def write() -> None:
            connection = self._connection(self._writing)
            connection.execute("BEGIN IMMEDIATE")
            for sql, values in statements:
                connection.execute(sql, values)
            connection.execute("COMMIT")

        await asyncio.get_running_loop().run_in_executor(self._writing, write)

    def _connection(self, thread: ThreadPoolExecutor) -> sqlite3.Connection:
        """Give a thread its connection, opened at its first call."""
        if thread not in self._open:
            connection = sqlite3.connect(self.path, isolation_level=None)
            connection.row_factory = sqlite3.Row
            for pragma in PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
            self._open[thread] = connection
        return self._open[thread]

    async def close(self) -> None:
        """Close each connection in its thread."""
        loop = asyncio.get_running_loop()
        for thread in (self._reading, self._writing):
            if thread in self._open:
                await loop.run_in_executor(thread, closing(self._open[thread]).__exit__)
            thread.shutdown()


@dataclass(frozen=True)
class BareMariaDb:
    """A pool of aiomysql."""

    pool: Any

    async def query(self, sql: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]]
        kind = aiomysql.DictCursor
        async with self.pool.acquire() as connection, connection.cursor(kind) as cursor:
            await cursor.execute(sql, values)
            rows = await cursor.fetchall()
        return rows

    async def execute(self, sql: str, values: Sequence[Any]) -> None:
        async with self.pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute(sql, values)

    async def transact(self, statements: Sequence[Bound]) -> None:
        async with self.pool.acquire() as connection, connection.cursor() as cursor:
            await connection.begin()
            try:
                for sql, values in statements:
                    await cursor.execute(sql, values)
                await connection.commit()
            except BaseException:
                await connection.rollback()
                raise

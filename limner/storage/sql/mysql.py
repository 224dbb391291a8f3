"""MySQL and MariaDB for Tortoise: sessions set up as we need them, and errors as ours.

Tortoise's client knows neither a limit for any wait nor which errors can be mended by doing the
same again; here each statement has one, and a deadlock is told from a lost connection.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from aiomysql.connection import Connection as DriverConnection
from aiomysql.cursors import Cursor
from pymysql import err
from pymysql.constants import CLIENT
from tortoise.backends.base.client import (
    NestedTransactionContext,
    TransactionalDBClient,
    TransactionContext,
)
from tortoise.backends.mysql.client import MySQLClient, TransactionWrapper
from tortoise.connection import get_connections
from tortoise.exceptions import IntegrityError, OperationalError

from limner.core.errors import EngineUnavailable, LimnerError, TooLarge
from limner.storage.sql.address import MysqlAddress
from limner.storage.sql.faults import CommitUnsure, ConnectionLost, Deadlocked, repeated
from limner.storage.sql.pool import ConnectionPool, stands

CHARSET, COLLATION = "utf8mb4", "utf8mb4_bin"
CONNECT_S = 5.0
ANSWER_S = 60.0
SCRIPT_S = 3_600.0
LOCK_WAIT_S = 5

# READ COMMITTED: a unit's guarded updates must see what is committed now, not what was when the
# transaction began, and REPEATABLE READ locks the gaps between rows, so that claims of different
# rows wait for each other. Every guard is in the WHERE of the update itself, so no unit depends on
# reading the same twice. The collation makes = and ORDER BY compare bytes, as SQLite does, but for
# spaces at the end, which do not count (PAD SPACE).
SESSION = (
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; "
    f"SET NAMES {CHARSET} COLLATE {COLLATION}, time_zone = '+00:00', "
    "sql_mode = 'STRICT_TRANS_TABLES,NO_ZERO_DATE,NO_ENGINE_SUBSTITUTION', "
    f"innodb_lock_wait_timeout = {LOCK_WAIT_S}; "
    "SELECT @@max_allowed_packet"
)

# Numbers of https://mariadb.com/kb/en/mariadb-error-codes/ and, from 2000 on, of the client.
DEADLOCK = frozenset({1205, 1213})
TOO_LARGE = frozenset({1153, 2020})
LOST = frozenset({1053, 1158, 1159, 1160, 1161, 1927, 2006, 2013, 2014, 2055, 3169, 4031})
AWAY = frozenset({1021, 1040, 1041, 1114, 1203, 1226, 1290, 1836, 2002, 2003, 2005, 2026})

MENDS = {
    1044: "user {user} may not use the database {name}: GRANT ALL ON {name}.* TO it",
    1045: "user {user} is refused: see user and password in LIMNER_DATABASE_URL",
    1049: f"there is no database {{name}}: CREATE DATABASE {{name}} COLLATE {COLLATION}",
    1130: "this host may not connect: the account's host part must allow it",
    1698: "user {user} is refused: give the account a password and use it",
    2003: "nothing answers there: see LIMNER_DATABASE_URL, and whether the server runs",
}


def translated(error: Exception) -> Exception:
    """Give the error of ours or of Tortoise's that stands for one of the driver's."""
    code = error.args[0] if error.args else 0
    text = f"MySQL: {error}"
    if code in DEADLOCK:
        return Deadlocked(text)
    if code in TOO_LARGE:
        return TooLarge(text)
    if isinstance(error, TimeoutError):
        return ConnectionLost("MySQL: no answer in time")
    # The driver says InterfaceError, without a number, of a connection that is closed.
    if code in LOST or isinstance(error, err.InterfaceError | OSError):
        return ConnectionLost(text)
    if code in AWAY:
        return EngineUnavailable(text)
    if isinstance(error, err.IntegrityError):
        return IntegrityError(error)
    return OperationalError(error) if isinstance(error, err.MySQLError) else error


class Session(DriverConnection):  # type: ignore[misc] # the driver has no types
    """The driver's connection, set up, that sends nothing the server would hang up on."""

    packet_limit_bytes = 0

    async def _request_authentication(self) -> None:
        if self._ssl_context and not self.server_capabilities & CLIENT.SSL:
            # The driver would go on without; the password must not.
            raise err.OperationalError(2026, "the server offers no TLS")
        await super()._request_authentication()

    async def _execute_command(self, command: int, sql: str | bytes) -> None:
        data = sql.encode(self._encoding) if isinstance(sql, str) else sql
        if self.packet_limit_bytes and len(data) >= self.packet_limit_bytes:
            raise TooLarge(
                f"MySQL: a statement of {len(data)} bytes is over the server's "
                f"max_allowed_packet of {self.packet_limit_bytes}"
            )
        await super()._execute_command(command, data)

    async def set_up(self) -> None:
        """Make the session ours and learn its limit."""
        cursor = await self.cursor()
        await cursor.execute(SESSION)
        while await cursor.nextset():
            pass
        self.packet_limit_bytes = int((await cursor.fetchone())[0])
        await cursor.close()


class QuietCursor(Cursor):  # type: ignore[misc] # the driver has no types
    """A cursor that does not ask for the server's notes to make Python warnings of them."""

    async def _show_warnings(self, connection: Session) -> None:
        """Do nothing."""


async def connect(address: MysqlAddress) -> Session:
    """Open a connection.

    Raises:
        EngineUnavailable: the server is out of reach or refuses us; the text says what to do.
    """
    session = Session(
        host=address.host,
        port=address.port,
        user=address.user,
        password=address.password,
        db=address.name,
        charset=CHARSET,
        autocommit=True,
        cursorclass=QuietCursor,
        # Count rows that an update found, as SQLite does, not only those it made different.
        client_flag=CLIENT.FOUND_ROWS,
        ssl=address.tls_context(),
    )
    try:
        async with asyncio.timeout(CONNECT_S):
            await session._connect()
            await session.set_up()
    except BaseException as error:
        session.close()
        if isinstance(error, err.MySQLError | OSError):
            raise _refusal(address, error) from error
        raise
    return session


def _refusal(address: MysqlAddress, error: Exception) -> EngineUnavailable:
    code = error.args[0] if error.args and isinstance(error, err.MySQLError) else 2003
    said = error.args[1] if len(error.args) > 1 else error
    mend = MENDS.get(code, "{said}").format(user=address.user, name=address.name, said=said)
    return EngineUnavailable(f"MySQL at {address.place}: {mend}")


@asynccontextmanager
async def answer(connection: Any, limit_s: float) -> AsyncIterator[None]:
    """Translate errors of the driver; a server that does not answer in time is given up.

    On a connection that is cut the driver and the event loop raise whatever comes to hand.
    """
    try:
        async with asyncio.timeout(limit_s):
            yield
    except LimnerError:
        raise
    except Exception as error:
        if isinstance(error, err.MySQLError | OSError):
            raise translated(error) from error
        if stands(connection):
            raise
        raise ConnectionLost(f"MySQL: {error}") from error


class Statements(MySQLClient):
    """How statements are run, on any connection of a pool or on that of a transaction."""

    charset = CHARSET
    answer_s = ANSWER_S

    def acquire_connection(self) -> Any:
        raise NotImplementedError

    async def _run(
        self, query: str, values: Sequence[Any] | None, limit_s: float
    ) -> tuple[int, int, list[dict[str, Any]]]:
        """Run a statement and give the rows it changed, the last number it made, and its rows."""
        async with (
            self.acquire_connection() as connection,
            answer(connection, limit_s),
            connection.cursor() as cursor,
        ):
            await cursor.execute(query, _plain(values))
            rows = await cursor.fetchall()
            names = [column[0] for column in cursor.description or ()]
            found = [dict(zip(names, row, strict=True)) for row in rows or ()]
            return cursor.rowcount, cursor.lastrowid, found

    async def execute_query(
        self, query: str, values: list[Any] | None = None
    ) -> tuple[int, list[dict[str, Any]]]:
        count, _, rows = await self._run(query, values, self.answer_s)
        return count, rows

    async def execute_insert(self, query: str, values: list[Any]) -> int:
        return (await self._run(query, values, self.answer_s))[1]

    async def execute_script(self, query: str) -> None:
        await self._run(query, None, SCRIPT_S)

    async def execute_batch(self, statements: Sequence[tuple[str, list[Any]]]) -> list[int]:
        """Run statements by one message to the server and give the rows that each changed.

        After one that fails the server runs none of the rest.
        """
        async with (
            self.acquire_connection() as connection,
            answer(connection, self.answer_s),
            connection.cursor() as cursor,
        ):
            every = [cursor.mogrify(sql, _plain(values)) for sql, values in statements]
            await cursor.execute(";".join(every))
            counts = [cursor.rowcount]
            while await cursor.nextset():
                counts.append(cursor.rowcount)
            return counts

    async def execute_many(self, query: str, values: list[Any]) -> None:
        async with (
            self.acquire_connection() as connection,
            answer(connection, self.answer_s),
            connection.cursor() as cursor,
        ):
            await cursor.executemany(query, [_plain(row) for row in values])


def _plain(values: Sequence[Any] | None) -> list[Any] | None:
    """Give times in UTC: the driver passes over their zone."""
    if values is None:
        return None
    return [
        value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo else value
        for value in values
    ]


class MysqlClient(Statements):
    """Tortoise's client over a pool of ours; outside a transaction statements may be repeated."""

    def __init__(self, *, pool: ConnectionPool, connection_name: str, **_: Any) -> None:
        super().__init__(
            user="",
            password="",
            database="",
            host="",
            port=0,
            connection_name=connection_name,
        )
        self.pool = pool

    async def create_connection(self, with_db: bool) -> None:
        """Do nothing: the pool connects when it must."""

    async def close(self) -> None:
        await self.pool.close()

    def acquire_connection(self) -> Any:
        return self.pool.lend()

    def _in_transaction(self) -> TransactionContext:
        return MysqlTransactionContext(MysqlTransaction(self), self.pool)

    async def execute_query(
        self, query: str, values: list[Any] | None = None
    ) -> tuple[int, list[dict[str, Any]]]:
        once = super().execute_query

        async def attempt() -> tuple[int, list[dict[str, Any]]]:
            try:
                return await once(query, values)
            except ConnectionLost as error:
                if query.lstrip()[:6].upper() == "SELECT":
                    raise
                # Whether it was done nobody knows; what the caller makes of it is its own.
                raise EngineUnavailable(error.detail) from error

        return await repeated(attempt)

    async def transact(
        self,
        statements: Sequence[tuple[str, list[Any]]],
        accept: Callable[[Sequence[int]], None],
    ) -> None:
        """Run statements as one transaction by two messages to the server, and again if undone.

        ``accept`` is given the rows that each changed; what it raises undoes the transaction.

        Raises:
            CommitUnsure: the server did not answer to COMMIT.
        """
        if len(statements) == 1:
            # Alone it is a transaction anyway.
            (sql, values), *_ = statements
            count, _ = await self.execute_query(sql, values)
            accept([count])
            return
        await repeated(lambda: self._transact_once(statements, accept))

    async def _transact_once(
        self,
        statements: Sequence[tuple[str, list[Any]]],
        accept: Callable[[Sequence[int]], None],
    ) -> None:
        client = MysqlTransaction(self)
        client._connection = connection = await self.pool.acquire(writing=True)
        try:
            _, *counts = await client.execute_batch([("BEGIN", []), *statements])
            accept(counts)
        except BaseException:
            await client.rollback()
            raise
        else:
            await client.commit()
        finally:
            self.pool.release(connection)

    async def execute_many(self, query: str, values: list[Any]) -> None:
        async with self._in_transaction() as client:
            await client.execute_many(query, values)

    @asynccontextmanager
    async def named_lock(self, name: str, wait_s: int) -> AsyncIterator[bool]:
        """Hold one of the server's locks by name for a block; False if it was not to be had."""
        async with self.pool.lend() as connection:
            # The lock ends with its connection, so that this one is not used again.
            try:
                async with answer(connection, wait_s + self.answer_s):
                    cursor = await connection.cursor()
                    await cursor.execute("SELECT GET_LOCK(%s, %s)", (name, wait_s))
                    is_ours = (await cursor.fetchone())[0] == 1
                yield is_ours
            finally:
                connection.close()


class MysqlTransaction(Statements, TransactionWrapper):
    """A transaction on one connection; its statements wait for each other."""

    def _in_transaction(self) -> TransactionContext:
        return NestedTransactionContext(MysqlTransaction(self))

    def acquire_connection(self) -> Any:
        return self._held()

    @asynccontextmanager
    async def _held(self) -> AsyncIterator[Any]:
        async with self._lock:
            yield self._connection

    async def begin(self) -> None:
        async with answer(self._connection, self.answer_s):
            await self._connection.begin()
        self._finalized = False

    async def commit(self) -> None:
        self._finalized = True
        if not stands(self._connection):
            raise ConnectionLost("MySQL: the connection was lost before the commit")
        try:
            async with answer(self._connection, self.answer_s):
                await self._connection.commit()
        except EngineUnavailable as error:
            raise CommitUnsure(error.detail) from error

    async def rollback(self) -> None:
        """Undo; on a connection that does not answer, closing it does so."""
        self._finalized = True
        try:
            async with answer(self._connection, self.answer_s):
                await self._connection.rollback()
        except BaseException as error:
            self._connection.close()
            if not isinstance(error, Exception):
                raise


class MysqlTransactionContext(TransactionContext):
    """Holds a connection for the time of a transaction."""

    def __init__(self, client: MysqlTransaction, pool: ConnectionPool) -> None:
        self.client = client
        self.connection_name = client.connection_name
        self._pool = pool

    async def __aenter__(self) -> TransactionalDBClient:
        try:
            await self._begin()
        except ConnectionLost:
            # A server that was started anew: nothing has happened yet, and the next is fresh.
            await self._begin()
        self._token = get_connections().set(self.connection_name, self.client)
        return self.client

    async def _begin(self) -> None:
        connection = await self._pool.acquire(writing=True)
        self.client._connection = connection
        try:
            await self.client.begin()
        except BaseException:
            connection.close()
            self._pool.release(connection)
            raise

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if self.client._finalized:
                return
            if kind is None:
                await self.client.commit()
            else:
                await self.client.rollback()
        finally:
            self._pool.release(self.client._connection)
            get_connections().reset(self._token)


client_class = MysqlClient

"""SQLite beneath Tortoise: turns on the write lock, errors of the file, no turn is lost."""

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tortoise.backends.sqlite.client import SqliteClient, SqliteTransactionWrapper
from tortoise.exceptions import IntegrityError, OperationalError, TransactionManagementError

from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable
from limner.storage.sql import database as database_module
from limner.storage.sql.connection import Connection
from limner.storage.sql.database import Database
from limner.storage.sql.sqlite import ImmediateSqliteClient, ImmediateTransaction, translated
from limner.storage.sql.suppressions import Suppression
from tests.contracts.engines import START

LIMIT_S = 10.0
INSERT = "INSERT INTO language_usage (id, tokens, calls) VALUES (?, 0, 0)"


@pytest.fixture
async def impatient(
    migrated_file: Path, tmp_path: Path, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Database]:
    """A database that waits only for a moment for the write lock."""
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_MS", 20)
    path = tmp_path / "impatient.db"
    shutil.copyfile(migrated_file, path)
    opened = Database(f"sqlite://{path}", clock)
    await opened.open()
    yield opened
    await opened.close()


@contextmanager
def held_by_another(database: Database) -> Any:
    """Hold the write lock as a command beside the server does."""
    assert database.path is not None
    with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def ids(database: Database) -> list[str]:
    rows = await database.read().query("SELECT id FROM language_usage ORDER BY id")
    return [str(row["id"]) for row in rows]


async def by_transaction(database: Database, ident: str) -> None:
    async with database.transaction() as connection:
        await connection.execute(INSERT, [ident])


async def by_thread(database: Database, ident: str) -> None:
    async def work(connection: Connection) -> None:
        await connection.execute(INSERT, [ident])

    await database.run(work)


async def by_statement(database: Database, ident: str) -> None:
    await database.write().execute(INSERT, [ident])


Way = Callable[[Database, str], Awaitable[None]]
WAYS = [by_transaction, by_thread, by_statement]


@pytest.mark.parametrize("write", WAYS)
async def test_who_cannot_have_the_write_lock_is_told_and_may_try_again(
    impatient: Database, write: Way
) -> None:
    with held_by_another(impatient):
        for _ in range(2):
            with pytest.raises(EngineUnavailable, match="locked"):
                await asyncio.wait_for(write(impatient, "a"), LIMIT_S)
    for ident, again in zip("abc", WAYS, strict=True):
        await asyncio.wait_for(again(impatient, ident), LIMIT_S)
    assert await ids(impatient) == ["a", "b", "c"]


@pytest.mark.parametrize("write", WAYS)
async def test_who_waits_for_the_write_lock_gets_it(database: Database, write: Way) -> None:
    with held_by_another(database):
        writing = asyncio.ensure_future(write(database, "a"))
        await asyncio.wait({writing}, timeout=0.05)
        assert not writing.done()
    await asyncio.wait_for(writing, LIMIT_S)
    assert await ids(database) == ["a"]


@pytest.mark.parametrize("write", [by_transaction, by_thread])
async def test_a_cancelled_beginning_leaves_neither_a_turn_nor_a_transaction(
    database: Database, write: Way
) -> None:
    await by_statement(database, "a")
    with held_by_another(database):
        writing = asyncio.ensure_future(write(database, "b"))
        await asyncio.wait({writing}, timeout=0.05)
        writing.cancel()
        await asyncio.wait({writing}, timeout=0.05)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(writing, LIMIT_S)
    await asyncio.wait_for(by_transaction(database, "c"), LIMIT_S)
    assert {"a", "c"} <= set(await ids(database)) <= {"a", "b", "c"}
    with held_by_another(database):
        assert await ids(database)


async def test_readers_do_not_wait_for_writers(database: Database) -> None:
    await by_statement(database, "a")
    async with database.transaction() as connection:
        await connection.execute(INSERT, ["b"])
        assert await asyncio.wait_for(ids(database), LIMIT_S) == ["a"]
    assert await ids(database) == ["a", "b"]


async def test_a_full_disk_is_an_engine_out_of_reach(database: Database) -> None:
    await database.write().query("PRAGMA max_page_count = 1")
    long = "x" * 3000

    async def fill(connection: Connection) -> None:
        for n in range(1000):
            await connection.execute(
                "INSERT INTO language_answers (id, answer, created_at) VALUES (?, ?, ?)",
                [str(n), long, START],
            )

    with pytest.raises(EngineUnavailable, match="full"):
        await database.run(fill)
    with pytest.raises(EngineUnavailable, match="full"):
        async with database.transaction() as connection:
            await fill(connection)
    assert await database.read().query("SELECT id FROM language_answers") == []


async def test_errors_of_ours_stay_what_they_are(database: Database) -> None:
    for connection in (database.read(), database.write()):
        with pytest.raises(OperationalError, match="no such table"):
            await connection.query("SELECT 1 FROM nowhere")
        with pytest.raises(OperationalError, match="no such table"):
            await connection.execute("DELETE FROM nowhere")
    async with database.transaction() as connection:
        with pytest.raises(OperationalError, match="no such table"):
            await connection.query("SELECT 1 FROM nowhere")
    await by_statement(database, "a")
    for write in WAYS:
        with pytest.raises(IntegrityError):
            await write(database, "a")
    assert await ids(database) == ["a"]


async def test_rows_written_by_models_are_translated_too(impatient: Database) -> None:
    row = Suppression(id="s1", address="a@b.test", reason="manual", created_at=START)
    with held_by_another(impatient), pytest.raises(EngineUnavailable):
        await row.save()
    await row.save()
    assert await Suppression.exists(address="a@b.test")


async def test_a_commit_that_fails_is_rolled_back_and_not_committed_by_the_next(
    database: Database,
) -> None:
    await database.write().query("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
    await database.write().query(
        "CREATE TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)"
    )

    async def orphan() -> None:
        async with database.transaction() as connection:
            await connection.execute(INSERT, ["a"])
            await connection.execute("INSERT INTO child (id) VALUES (1)")

    with pytest.raises(sqlite3.IntegrityError):
        await orphan()
    await by_transaction(database, "b")
    assert await ids(database) == ["b"]


async def test_a_commit_for_which_the_disk_has_no_room_is_an_engine_out_of_reach(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteTransactionWrapper, "commit", full)
        with pytest.raises(EngineUnavailable):
            await by_transaction(database, "a")
    await by_transaction(database, "b")
    assert await ids(database) == ["b"]


async def test_a_transaction_that_cannot_begin_for_another_reason_says_so(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await by_statement(database, "a")
    client: Any = database.write().client
    execute = client._connection.execute

    async def confused(sql: str) -> Any:
        if sql.startswith("BEGIN"):
            raise sqlite3.OperationalError("near BEGIN: syntax error")
        return await execute(sql)

    with monkeypatch.context() as patch:
        patch.setattr(client._connection, "execute", confused)
        with pytest.raises(TransactionManagementError):
            async with database.transaction():
                pytest.fail("it cannot begin")
    await by_transaction(database, "b")


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("database is locked", True),
        ("disk I/O error", True),
        ("database or disk is full", True),
        ("unable to open database file", True),
        ("attempt to write a readonly database", True),
        ("no such table: x", False),
        ("near FROM: syntax error", False),
    ],
)
def test_errors_of_the_file_are_told_from_errors_of_ours(text: str, ours: bool) -> None:
    error = sqlite3.OperationalError(text)
    assert isinstance(translated(error), EngineUnavailable) is ours
    assert (translated(error) is error) is not ours


async def test_a_connection_that_could_not_be_opened_keeps_nobody_waiting(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "late"
    client = ImmediateSqliteClient(file_path=str(folder / "x.db"), connection_name="late")
    attempts: list[Callable[[], Awaitable[Any]]] = [
        lambda: client.execute_query("SELECT 1"),
        lambda: client.execute_query_dict("SELECT 1"),
        lambda: client._in_transaction().__aenter__(),
        lambda: client.in_thread(lambda raw: raw.execute("SELECT 1").fetchall()),
    ]
    for attempt in attempts:
        with pytest.raises(EngineUnavailable, match="unable to open"):
            await asyncio.wait_for(attempt(), LIMIT_S)
    folder.mkdir()
    try:
        assert await client.execute_query_dict("SELECT 1 AS one") == [{"one": 1}]
    finally:
        await client.close()


async def test_a_connection_whose_opening_was_cancelled_is_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = ImmediateSqliteClient(file_path=str(tmp_path / "x.db"), connection_name="slow")
    create = SqliteClient.create_connection
    opened, go = asyncio.Event(), asyncio.Event()

    async def slowly(self: SqliteClient, with_db: bool) -> None:
        await create(self, with_db)
        opened.set()
        await go.wait()

    monkeypatch.setattr(SqliteClient, "create_connection", slowly)
    asking = asyncio.create_task(client.execute_query("SELECT 1"))
    await asyncio.wait_for(opened.wait(), LIMIT_S)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert client._connection is None
    go.set()
    try:
        assert await client.execute_query_dict("SELECT 1 AS one") == [{"one": 1}]
    finally:
        await client.close()


async def test_one_connection_serves_transactions_one_after_the_other(database: Database) -> None:
    order: list[int] = []

    async def write(n: int) -> None:
        async with database.transaction() as connection:
            order.append(n)
            await connection.execute(INSERT, [f"{n:02}"])
            await asyncio.sleep(0)
            order.append(n)

    await asyncio.gather(*(write(n) for n in range(10)))
    assert order == [n for n in range(10) for _ in range(2)]
    assert len(await ids(database)) == 10


def test_a_transaction_is_one_of_tortoises() -> None:
    assert issubclass(ImmediateTransaction, SqliteClient)

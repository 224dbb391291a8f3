"""MariaDB: connections that are cut, busy or slow, and transactions that wait for each other."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pymysql import err

from limner.core.clock import HeldClock, SystemClock
from limner.core.errors import EngineUnavailable
from limner.storage.sql import mysql, pool
from limner.storage.sql.connection import Connection
from limner.storage.sql.database import Database
from limner.storage.sql.faults import CommitUnsure, ConnectionLost, Deadlocked
from limner.storage.sql.mysql import Session
from limner.storage.sql.schema import migrate
from tests.contracts.mariadb import cut, empty_database, own_id
from tests.engines import missing
from tests.engines.mariadb import MariaDbServer

INSERT = "INSERT INTO language_usage (id, tokens, calls) VALUES (?, 0, 0)"
LIMIT_S = 10.0
reason = missing.no_mariadb()
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(reason is not None and not os.environ.get("CI"), reason=str(reason)),
]


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    async with empty_database() as (opened, _):
        yield opened


@asynccontextmanager
async def opened(url: str, connections: int = 20) -> AsyncIterator[Database]:
    database = Database(url, SystemClock(), connections)
    try:
        await database.open()
        yield database
    finally:
        await database.close()


async def kept(database: Database) -> list[str]:
    rows = await database.read().query("SELECT id FROM language_usage ORDER BY id")
    return [str(row["id"]) for row in rows]


async def test_a_connection_cut_while_idle_is_not_used_again(database: Database) -> None:
    first = await own_id(database.read())
    await cut(first)
    assert await own_id(database.read()) != first
    async with database.transaction() as connection:
        second = await own_id(connection)
    await cut(second)
    async with database.transaction() as connection:
        await connection.execute(INSERT, ["a"])
    assert await kept(database) == ["a"]


async def test_a_transaction_begins_anew_on_a_connection_lost_unnoticed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = await own_id(database.read())
    await cut(lost)
    with monkeypatch.context() as blind:
        blind.setattr(pool, "stands", lambda connection: not connection.closed)
        async with database.transaction() as connection:
            await connection.execute(INSERT, ["a"])
    assert await kept(database) == ["a"]


async def test_reading_goes_on_over_a_connection_lost_unnoticed_and_writing_says_so(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "stands", lambda connection: not connection.closed)
    await cut(await own_id(database.read()))
    assert await kept(database) == []
    await cut(await own_id(database.read()))
    with pytest.raises(EngineUnavailable):
        await database.write().execute(INSERT, ["a"])
    assert await kept(database) == []


async def test_work_whose_connection_is_cut_is_run_again_and_stored_once(
    database: Database,
) -> None:
    seen: list[int] = []

    async def work(connection: Connection) -> int:
        await connection.execute(INSERT, ["a"])
        seen.append(await own_id(connection))
        if len(seen) == 1:
            await cut(seen[0])
        await connection.execute(INSERT, ["b"])
        return len(seen)

    assert await database.run(work) == 2
    assert seen[0] != seen[1]
    assert await kept(database) == ["a", "b"]


async def test_a_connection_cut_before_the_commit_is_sent_stores_nothing(
    database: Database,
) -> None:
    async def lose() -> None:
        async with database.transaction() as connection:
            await connection.execute(INSERT, ["a"])
            await cut(await own_id(connection))

    with pytest.raises(ConnectionLost, match="before the commit"):
        await lose()
    assert await kept(database) == []


@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_lost_answer_to_commit_is_told_apart_and_not_repeated(
    database: Database, monkeypatch: pytest.MonkeyPatch, is_stored: bool
) -> None:
    lose_one_answer(monkeypatch, is_stored=is_stored)
    with pytest.raises(CommitUnsure):
        await database.run(lambda connection: connection.execute(INSERT, ["a"]))
    assert await kept(database) == (["a"] if is_stored else [])


def lose_one_answer(monkeypatch: pytest.MonkeyPatch, *, is_stored: bool) -> None:
    """Cut the connection at the next COMMIT, after it was done or before."""
    original = Session.commit

    async def commit(self: Session) -> None:
        monkeypatch.setattr(Session, "commit", original)
        if is_stored:
            await original(self)
        self.close()
        raise err.OperationalError(2013, "Lost connection to MySQL server during query")

    monkeypatch.setattr(Session, "commit", commit)


async def test_two_transactions_that_wait_for_each_other_are_both_done_in_the_end(
    database: Database,
) -> None:
    for ident in ("a", "b"):
        await database.write().execute(INSERT, [ident])
    both = asyncio.Barrier(2)
    runs: list[str] = []

    async def work(connection: Connection, first: str, second: str) -> None:
        runs.append(first)
        change = "UPDATE language_usage SET calls = calls + 1 WHERE id = ?"
        await connection.execute(change, [first])
        if runs.count(first) == 1:
            await both.wait()
        await connection.execute(change, [second])

    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(
            database.run(lambda connection: work(connection, "a", "b")),
            database.run(lambda connection: work(connection, "b", "a")),
        )
    assert len(runs) >= 3
    rows = await database.read().query("SELECT id, calls FROM language_usage ORDER BY id")
    assert rows == [{"id": "a", "calls": 2}, {"id": "b", "calls": 2}]


async def test_a_row_that_is_locked_too_long_is_a_deadlock(database: Database) -> None:
    async def wait_in_vain() -> None:
        async with database.transaction() as waiter:
            await waiter.execute("SET innodb_lock_wait_timeout = 0")
            await waiter.execute("UPDATE language_usage SET calls = 2 WHERE id = 'a'")

    await database.write().execute(INSERT, ["a"])
    async with database.transaction() as holder:
        await holder.execute("UPDATE language_usage SET calls = 1 WHERE id = 'a'")
        with pytest.raises(Deadlocked):
            await wait_in_vain()
        assert (await database.read().query("SELECT calls FROM language_usage")) == [{"calls": 0}]


async def test_a_claim_passes_over_rows_that_another_one_holds(database: Database) -> None:
    for ident in ("a", "b", "c"):
        await database.write().execute(INSERT, [ident])
    query = "SELECT id FROM language_usage ORDER BY id LIMIT 2"
    async with database.transaction() as one, database.transaction() as other:
        first = await one.query(f"{query}{one.skip_locked}")
        second = await other.query(f"{query}{other.skip_locked}")
    assert [row["id"] for row in first] == ["a", "b"]
    assert [row["id"] for row in second] == ["c"]


async def test_when_all_connections_are_busy_who_waits_is_told_so(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(database.url, connections=4) as small:
        monkeypatch.setattr(small.write().client.pool, "_wait_s", 0.05)
        async with small.transaction(), small.transaction(), small.transaction():
            with pytest.raises(EngineUnavailable, match="all 4 connections are busy"):
                async with small.transaction():
                    pytest.fail("three may write at a time")
            assert await kept(small) == []
        async with small.transaction() as connection:
            await connection.execute(INSERT, ["a"])
        assert await kept(small) == ["a"]


async def test_a_statement_that_takes_too_long_is_given_up(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mysql.Statements, "answer_s", 0.1)

    async def take_long() -> None:
        async with database.transaction() as connection:
            await connection.execute(INSERT, ["a"])
            await connection.query("SELECT SLEEP(0.7)")

    with pytest.raises(EngineUnavailable, match="no answer in time"):
        await take_long()
    monkeypatch.undo()
    assert await kept(database) == []


async def test_work_that_is_cancelled_is_undone_and_leaves_its_connection_free(
    database: Database,
) -> None:
    entered = asyncio.Event()

    async def work(connection: Connection) -> None:
        await connection.execute(INSERT, ["a"])
        entered.set()
        await connection.query("SELECT SLEEP(0.7)")

    running = asyncio.create_task(database.run(work))
    await asyncio.wait_for(entered.wait(), LIMIT_S)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not database.write().client.pool._lent
    await database.run(lambda connection: connection.execute(INSERT, ["b"]))
    assert await kept(database) == ["b"]


async def test_transactions_of_one_task_are_transactions_of_their_own(database: Database) -> None:
    async with database.transaction() as outer:
        await outer.execute(INSERT, ["a"])
        await database.run(lambda inner: inner.execute(INSERT, ["b"]))
        assert await kept(database) == ["b"]


async def test_a_server_that_was_killed_and_started_again_is_used_at_once(
    tmp_path: Path, clock: HeldClock
) -> None:
    server = await asyncio.to_thread(lambda: MariaDbServer(tmp_path / "db").start())
    try:
        url = await asyncio.to_thread(server.fresh_database)
        async with opened(url) as database:
            await migrate(database)
            await asyncio.gather(*(database.write().execute(INSERT, [name]) for name in "abcd"))
            await asyncio.to_thread(server.kill)
            with pytest.raises(EngineUnavailable):
                await database.run(lambda connection: connection.execute(INSERT, ["e"]))
            with pytest.raises(EngineUnavailable):
                await kept(database)
            await asyncio.to_thread(server.start)
            await database.run(lambda connection: connection.execute(INSERT, ["e"]))
            assert await kept(database) == ["a", "b", "c", "d", "e"]
    finally:
        await asyncio.to_thread(server.close)

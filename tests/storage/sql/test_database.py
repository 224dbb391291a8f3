"""The database of a process: opening it, its two dialects, and its transactions."""

import asyncio
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from tortoise.exceptions import DBConnectionError

from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable, NotConfigured
from limner.storage.sql.address import secret_free
from limner.storage.sql.connection import NOW, Connection, FromNow
from limner.storage.sql.database import MODELS, Database
from limner.storage.sql.faults import Deadlocked
from tests.contracts.engines import START
from tests.contracts.units import Sql

LIMIT_S = 10.0
INSERT = "INSERT INTO language_usage (id, tokens, calls) VALUES (?, 0, 0)"


async def count(database: Database) -> int:
    return len(await database.read().query("SELECT id FROM language_usage"))


async def test_marks_quotes_and_per_cent_signs_mean_the_same_on_both(sql: Sql) -> None:
    rows = await sql.database.read().query(
        "SELECT '?' AS a, '100%' AS b, 'it''s ?' AS c, ? AS d", ["%s ? \\ ' 🎨"]
    )
    assert rows == [{"a": "?", "b": "100%", "c": "it's ?", "d": "%s ? \\ ' 🎨"}]


async def test_times_come_as_the_same_text_from_both(sql: Sql) -> None:
    database = sql.database
    await database.write().execute(
        "INSERT INTO language_answers (id, answer, created_at) VALUES ('a', '{}', ?), "
        "('b', '{}', ?), ('c', '{}', ?)",
        [NOW, FromNow(0.5), START],
    )
    rows = await database.read().query(
        "SELECT created_at, ? AS later FROM language_answers ORDER BY id", [FromNow(60)]
    )
    assert [row["created_at"] for row in rows] == [
        "2026-11-22 12:00:00+00:00",
        "2026-11-22 12:00:00.500000+00:00",
        "2026-11-22 12:00:00+00:00",
    ]
    assert {row["later"] for row in rows} == {"2026-11-22 12:01:00+00:00"}


async def test_texts_are_equal_and_ordered_by_their_bytes_on_both(sql: Sql) -> None:
    for ident in ("b", "B", "ä", "a "):
        await sql.database.write().execute(INSERT, [ident])
    rows = await sql.database.read().query("SELECT id FROM language_usage ORDER BY id")
    assert [row["id"] for row in rows] == ["B", "a ", "b", "ä"]
    assert await sql.database.read().query("SELECT id FROM language_usage WHERE id = 'A'") == []


async def test_in_a_file_times_are_the_clocks(database: Database, clock: HeldClock) -> None:
    clock.advance(1)
    rows = await database.read().query("SELECT ? AS now, ? AS later", [NOW, FromNow(60)])
    assert rows == [{"now": "2026-11-22 12:00:01+00:00", "later": "2026-11-22 12:01:01+00:00"}]
    assert database.read().insert_or_ignore == "INSERT OR IGNORE INTO"


async def test_times_as_text_sort_like_times(database: Database, clock: HeldClock) -> None:
    times = [START + timedelta(microseconds=us) for us in (0, 1, 500_000, 999_999, 1_000_000)]
    marks = " UNION ALL ".join(["SELECT ? AS at"] * len(times))
    rows = await database.read().query(
        f"SELECT at FROM ({marks}) ORDER BY at",  # noqa: S608 - question marks only
        list(reversed(times)),
    )
    assert [row["at"] for row in rows] == [str(at) for at in times]


async def test_a_changed_row_counts_and_a_missing_one_does_not(sql: Sql) -> None:
    write = sql.database.write()
    assert await write.execute(INSERT, ["a"]) == 1
    assert await write.execute("UPDATE language_usage SET calls = 0") == 1
    assert await write.execute("UPDATE language_usage SET calls = 0") == 1
    assert await write.execute("UPDATE language_usage SET calls = 1 WHERE id = 'b'") == 0
    ignoring = f"{write.insert_or_ignore} language_usage (id, tokens, calls) VALUES ('a', 1, 1)"
    assert await write.execute(ignoring) == 0
    assert await write.execute("DELETE FROM language_usage") == 1


async def test_a_transaction_commits_at_the_end_and_rolls_back_on_an_error(sql: Sql) -> None:
    database = sql.database
    async with database.transaction() as connection:
        await connection.execute(INSERT, ["a"])
        assert await count(database) == 0
    assert await count(database) == 1

    async def fail() -> None:
        async with database.transaction() as connection:
            await connection.execute(INSERT, ["b"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await count(database) == 1


async def test_work_in_one_go_commits_or_rolls_back_and_gives_its_result(sql: Sql) -> None:
    database = sql.database

    async def work(connection: Connection) -> int:
        await connection.execute(INSERT, ["a"])
        return len(await connection.query("SELECT id FROM language_usage"))

    async def fail(connection: Connection) -> None:
        await connection.execute(INSERT, ["b"])
        raise ZeroDivisionError

    assert await database.run(work) == 1
    with pytest.raises(ZeroDivisionError):
        await database.run(fail)
    assert await count(database) == 1


async def test_work_in_one_go_may_await_nothing_else(database: Database) -> None:
    async def work(connection: Connection) -> None:
        await connection.execute(INSERT, ["a"])
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="only the database may be awaited"):
        await database.run(work)
    assert await count(database) == 0


async def test_work_whose_caller_was_cancelled_ends_and_keeps_nobody_waiting(
    database: Database,
) -> None:
    loop, entered, go = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    async def work(connection: Connection) -> None:
        await connection.execute(INSERT, ["a"])
        loop.call_soon_threadsafe(entered.set)
        assert go.wait(LIMIT_S)

    running = asyncio.create_task(database.run(work))
    await asyncio.wait_for(entered.wait(), LIMIT_S)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    go.set()
    async with database.transaction() as connection:
        await connection.execute(INSERT, ["b"])
    assert await count(database) == 2


async def test_work_that_was_undone_by_the_database_is_run_again(sql: Sql) -> None:
    runs: list[int] = []

    async def work(connection: Connection) -> int:
        runs.append(await connection.execute(INSERT, ["a"]))
        if len(runs) < 3:
            raise Deadlocked
        return len(runs)

    assert await sql.database.run(work) == 3
    assert await count(sql.database) == 1


async def test_a_lost_connection_is_an_engine_out_of_reach(database: Database) -> None:
    with pytest.raises(EngineUnavailable, match="server has gone away"):
        async with database.transaction():
            raise DBConnectionError("server has gone away")
    async with database.transaction() as connection:
        await connection.execute(INSERT, ["a"])


async def test_a_closed_database_says_so(tmp_path: Path, clock: HeldClock) -> None:
    async def work(_: Connection) -> None:
        pytest.fail("it is closed")

    for url in (f"sqlite://{tmp_path}/x.db", "mysql://u:p@localhost/x"):
        closed = Database(url, clock)
        with pytest.raises(EngineUnavailable, match="closed"):
            await closed.run(work)


async def test_the_folder_of_a_file_is_made_when_it_is_opened(
    tmp_path: Path, clock: HeldClock
) -> None:
    database = Database(f"sqlite://{tmp_path}/a/b/x.db?mode=any", clock)
    assert database.path == tmp_path / "a/b/x.db"
    await database.open()
    try:
        assert await database.read().query("PRAGMA journal_mode") == [{"journal_mode": "wal"}]
        assert await database.write().query("PRAGMA synchronous") == [{"synchronous": 2}]
        assert await database.write().query("PRAGMA busy_timeout") == [{"timeout": 5000}]
        # What is erased must be overwritten; the writer and the readers, which could write too.
        for connection in (database.write(), database.read()):
            assert await connection.query("PRAGMA secure_delete") == [{"secure_delete": 1}]
        assert database.config["connections"]["writer"]["credentials"]["secure_delete"] == "ON"
        assert (tmp_path / "a/b/x.db").is_file()
    finally:
        await database.close()


@pytest.mark.parametrize("trouble", ["folder", "text", "blocked"])
async def test_a_file_that_cannot_be_opened_is_an_engine_out_of_reach(
    tmp_path: Path, clock: HeldClock, trouble: str
) -> None:
    path = tmp_path / "x.db"
    if trouble == "folder":
        path.mkdir()
    elif trouble == "text":
        path.write_text("this is no database\n" * 100)
    else:
        path.write_text("")
        path = path / "below" / "x.db"
    database = Database(f"sqlite://{path}", clock)
    with pytest.raises(EngineUnavailable):
        await database.open()
    await database.close()


@pytest.mark.parametrize("url", ["postgres://db/limner", "limner.db", ""])
def test_an_unknown_database_is_refused_with_what_is_known(url: str, clock: HeldClock) -> None:
    with pytest.raises(NotConfigured, match="LIMNER_DATABASE_URL") as caught:
        Database(url, clock)
    assert caught.value.code == "settings"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mysql://u:secret@db:3306/limner", "mysql://u:***@db:3306/limner"),
        ("mysql://u:p%40ss@db/limner", "mysql://u:***@db/limner"),
        ("mysql://u@db/limner", "mysql://u@db/limner"),
        ("sqlite://var/limner.db", "sqlite://var/limner.db"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert secret_free(url) == shown


def test_every_module_with_tables_is_listed() -> None:
    folder = Path(__file__).parents[3] / "limner/storage/sql"
    with_tables = {
        path.stem
        for path in folder.glob("*.py")
        if '    class Meta:\n        table = "' in path.read_text()
    }
    assert sorted(with_tables) == list(MODELS)

"""MariaDB as the database: its sessions, its limits, and who cannot connect."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from pymysql import err
from tortoise.exceptions import IntegrityError, OperationalError
from tortoise.transactions import in_transaction

from limner.core.clock import HeldClock, SystemClock
from limner.core.errors import EngineUnavailable, TooLarge
from limner.storage.sql import mysql
from limner.storage.sql.comments import Comment
from limner.storage.sql.connection import NOW, Connection
from limner.storage.sql.database import Database
from limner.storage.sql.faults import ConnectionLost, Deadlocked
from limner.storage.sql.language import LanguageUsage
from limner.storage.sql.mysql import translated
from limner.storage.sql.schema import migrate
from tests.contracts.engines import START
from tests.contracts.mariadb import empty_database, own_id
from tests.contracts.units import comment
from tests.engines import missing, shared

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


# Sessions


async def test_a_session_is_set_up_whatever_the_servers_defaults_are(database: Database) -> None:
    rows = await database.read().query(
        "SELECT @@session.tx_isolation AS isolation, @@session.time_zone AS zone, "
        "@@session.collation_connection AS collation, @@session.autocommit AS auto, "
        "@@session.innodb_lock_wait_timeout AS wait_s, "
        "FIND_IN_SET('STRICT_TRANS_TABLES', @@session.sql_mode) > 0 AS strict"
    )
    assert rows == [
        {
            "isolation": "READ-COMMITTED",
            "zone": "+00:00",
            "collation": "utf8mb4_bin",
            "auto": 1,
            "wait_s": 5,
            "strict": 1,
        }
    ]


async def test_the_time_is_utc_in_every_time_zone_of_the_server() -> None:
    url = await asyncio.to_thread(shared.mariadb().fresh_database)
    async with opened(url) as database:
        before = SystemClock().now()
        async with database.transaction() as connection:
            await connection.execute("SET time_zone = '+09:00'")
            rows = await connection.query("SELECT ? AS utc, NOW(6) AS local", [NOW])
            await connection.execute("SET time_zone = '+00:00'")
    told = type(before).fromisoformat(rows[0]["utc"])
    assert abs(told - before) < timedelta(seconds=LIMIT_S)
    wrong = type(before).fromisoformat(rows[0]["local"])
    assert wrong - told > timedelta(hours=8)


async def test_times_of_other_zones_are_stored_in_utc(database: Database) -> None:
    row = comment(created_at=START.astimezone(timezone(timedelta(hours=5, minutes=30))))
    row.updated_at = row.created_at
    await row.save(force_create=True)
    rows = await database.read().query(
        "SELECT created_at FROM comments WHERE created_at = ?", [row.created_at]
    )
    assert [one["created_at"] for one in rows] == [str(START)]
    assert (await Comment.get(created_at=row.created_at)).created_at == START


async def test_a_taken_key_is_passed_over_and_nothing_else_is(database: Database) -> None:
    write = database.write()
    words = f"{write.insert_or_ignore} language_usage (id, tokens, calls) VALUES (?, ?, 0)"
    assert [await write.execute(words, ["a", 1]) for _ in range(2)] == [1, 0]
    with pytest.raises(OperationalError, match="Data too long"):
        await write.execute(words, ["longer than seven", 1])
    with pytest.raises(OperationalError, match="Out of range"):
        await write.execute(words, ["b", 2**70])
    with pytest.raises(IntegrityError, match="cannot be null"):
        await write.execute(words, ["b", None])
    assert await kept(database) == ["a"]


async def test_errors_of_ours_stay_what_they_are(database: Database) -> None:
    with pytest.raises(OperationalError, match="doesn't exist"):
        await database.read().query("SELECT 1 FROM nowhere")
    await database.write().execute(INSERT, ["a"])
    with pytest.raises(IntegrityError, match="Duplicate"):
        await database.write().execute(INSERT, ["a"])

    async def fail(connection: Connection) -> None:
        await connection.execute(INSERT, ["b"])
        await connection.execute("DELETE FROM nowhere")

    with pytest.raises(OperationalError, match="nowhere"):
        await database.run(fail)
    assert await kept(database) == ["a"]


async def test_models_write_many_rows_and_nest_transactions(database: Database) -> None:
    await LanguageUsage.bulk_create([LanguageUsage(id=name) for name in "abc"])

    async def fail() -> None:
        async with in_transaction("writer") as inner:
            await inner.execute_query("DELETE FROM language_usage")
            raise ZeroDivisionError

    async with in_transaction("writer"):
        await LanguageUsage.filter(id="a").using_db(database.write().client).delete()
        with pytest.raises(ZeroDivisionError):
            await fail()
    assert await kept(database) == ["b", "c"]
    assert await LanguageUsage.all().count() == 2


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (1213, Deadlocked),
        (1205, Deadlocked),
        (1153, TooLarge),
        (2006, ConnectionLost),
        (2013, ConnectionLost),
        (1927, ConnectionLost),
        (1053, ConnectionLost),
        (1040, EngineUnavailable),
        (2003, EngineUnavailable),
        (1114, EngineUnavailable),
        (1290, EngineUnavailable),
        (1064, OperationalError),
    ],
)
def test_errors_by_number_are_told_apart(code: int, expected: type[Exception]) -> None:
    assert type(translated(err.OperationalError(code, "…"))) is expected


def test_errors_without_a_number_are_told_apart() -> None:
    assert type(translated(err.InterfaceError("(0, 'Not connected')"))) is ConnectionLost
    assert type(translated(TimeoutError())) is ConnectionLost
    assert type(translated(ConnectionResetError())) is ConnectionLost
    assert type(translated(err.IntegrityError(1062, "Duplicate entry"))) is IntegrityError


# What cannot be sent


async def test_a_row_over_the_servers_limit_is_too_large_and_costs_no_connection(
    database: Database,
) -> None:
    async with database.transaction() as connection:
        before = await own_id(connection)
        limit = connection.client._connection.packet_limit_bytes
        assert limit == 16 * 2**20
        with pytest.raises(TooLarge, match="max_allowed_packet"):
            await connection.execute(
                "INSERT INTO secrets (name, sealed, updated_at, updated_by) VALUES (?, ?, ?, '')",
                ["a", bytes(limit), NOW],
            )
        assert await own_id(connection) == before


async def test_millions_of_bytes_come_back_as_they_were(database: Database) -> None:
    sealed = bytes(range(256)) * 2**14
    await database.write().execute(
        "INSERT INTO secrets (name, sealed, updated_at, updated_by) VALUES (?, ?, ?, '')",
        ["a", sealed, NOW],
    )
    rows = await database.read().query("SELECT sealed FROM secrets")
    assert bytes(rows[0]["sealed"]) == sealed


# Who cannot connect


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda url: url.rpartition("/")[0] + "/nowhere", "CREATE DATABASE nowhere COLLATE"),
        (
            lambda url: url.replace(":limner-of-the-tests@", ":wrong-word@"),
            "user limner is refused",
        ),
        (lambda url: "mysql://u:wrong-word@127.0.0.1:1/x", "nothing answers there"),
        (lambda url: f"{url}?ssl=true", "offers no TLS"),
    ],
    ids=["database", "password", "server", "tls"],
)
async def test_who_cannot_connect_is_told_what_to_do_and_no_password(
    change: Callable[[str], str], said: str
) -> None:
    url = change(await asyncio.to_thread(shared.mariadb().url, "mysql"))
    with pytest.raises(EngineUnavailable, match=said) as caught:
        async with opened(url):
            pytest.fail("it connected")
    assert "wrong-word" not in caught.value.detail
    assert "limner-of-the-tests" not in caught.value.detail
    assert "MySQL at 127.0.0.1:" in caught.value.detail


async def test_a_server_that_takes_the_call_and_says_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    monkeypatch.setattr(mysql, "CONNECT_S", 0.1)
    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    try:
        with pytest.raises(EngineUnavailable, match="nothing answers there"):
            async with opened(f"mysql://u:p@127.0.0.1:{port}/x"):
                pytest.fail("it connected")
    finally:
        silent.close()
        await silent.wait_closed()


async def test_one_process_may_use_a_server_and_a_file_one_after_the_other(
    database: Database, tmp_path: Path, clock: HeldClock
) -> None:
    await LanguageUsage(id="a").save()
    await database.close()
    file = Database(f"sqlite://{tmp_path}/x.db", clock)
    await file.open()
    try:
        await migrate(file)
        await LanguageUsage(id="b").save()
        assert await kept(file) == ["b"]
    finally:
        await file.close()
    await database.open()
    await LanguageUsage(id="c").save()
    assert await kept(database) == ["a", "c"]


async def test_closing_twice_is_fine_and_nothing_is_lent_afterwards(database: Database) -> None:
    client: Any = database.write().client
    await client.pool.close()
    await client.pool.close()
    with pytest.raises(EngineUnavailable, match="closed"):
        await database.read().query("SELECT 1")

"""The schema: forward, back and forward again with rows in every table, and no drift."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tortoise import Tortoise, fields
from tortoise.indexes import Index
from tortoise.migrations.autodetector import MigrationAutodetector
from tortoise.models import Model

from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable
from limner.core.ids import uuid7
from limner.storage.sql import migrations
from limner.storage.sql.changes import Insert
from limner.storage.sql.connection import Connection
from limner.storage.sql.database import APP, Database
from limner.storage.sql.ddl import RECORD_TABLE
from limner.storage.sql.schema import migrate, pending
from limner.storage.sql.tasks import Task
from tests.contracts.engines import Engine, each, prepare
from tests.contracts.mariadb import empty_database, fresh_url
from tests.contracts.units import Sql
from tests.engines import shared
from tests.engines.missing import no_mariadb

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
FOLDER = Path(migrations.__path__[0])
NAMES = sorted(file.stem for file in FOLDER.glob("0*.py"))


@asynccontextmanager
async def file_url(folder: Path) -> AsyncIterator[str]:
    yield f"sqlite://{folder}/empty.db"


@asynccontextmanager
async def server_url(_: Path) -> AsyncIterator[str]:
    """Give a database of a server with another character set than ours."""
    url = await fresh_url()
    server, name = shared.mariadb(), url.rpartition("/")[2]
    await asyncio.to_thread(server.query, f"ALTER DATABASE {name} CHARACTER SET latin1")
    yield url
    await asyncio.to_thread(server.drop_database, url)


EMPTY: list[Engine[str]] = [
    Engine("sqlite", file_url),
    Engine("mariadb", server_url, real=True, missing=no_mariadb),
]


@pytest.fixture(params=each(EMPTY))
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """Give the URL of an empty database on each engine."""
    engine: Engine[str] = request.param
    prepare(engine, request)
    async with engine.open(tmp_path) as opened:
        yield opened


@pytest.fixture
async def empty(url: str, clock: HeldClock) -> AsyncIterator[Database]:
    opened = Database(url, clock)
    await opened.open()
    yield opened
    await opened.close()


def models() -> list[type[Model]]:
    assert Tortoise.apps is not None
    return list(Tortoise.apps[APP].values())


def value_of(field: Any) -> Any:
    """Give a value that fills the column, as long as it may be."""
    if isinstance(field, fields.CharField):
        return (uuid7().hex * (field.max_length // 32 + 1))[-field.max_length :]
    if isinstance(field, fields.BinaryField):
        return bytes(range(256))
    if isinstance(field, fields.DatetimeField):
        return NOW
    if isinstance(field, fields.BooleanField):
        return True
    if isinstance(field, fields.IntField):
        return 2**31 - 1
    if isinstance(field, fields.BigIntField):
        return 2**63 - 1
    if isinstance(field, fields.FloatField):
        return 0.5
    assert isinstance(field, fields.JSONField), field
    return {"小猫": ["🐱", 1, None]}


def row_of(model: type[Model]) -> Model:
    generated = model._meta.pk.generated
    values = {
        name: value_of(field)
        for name, field in model._meta.fields_map.items()
        if not (generated and name == model._meta.pk_attr)
    }
    return model(**values)


async def fill(database: Database) -> None:
    """Add one row to every table."""
    rows = [row_of(model) for model in models()]

    async def insert(connection: Connection) -> None:
        for row in rows:
            await Insert([row]).apply(connection)

    await database.run(insert)


async def shape(database: Database) -> list[tuple[str, str]]:
    """Give tables, columns and indexes as the database has them, with what makes them up."""
    query = (
        "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
        if database.dialect == "sqlite"
        else "SELECT CONCAT_WS('.', table_name, column_name) AS name, CONCAT_WS(' ', column_type, "
        "is_nullable, column_default, collation_name) AS `sql` FROM information_schema.columns "
        "WHERE table_schema = DATABASE() UNION ALL SELECT CONCAT_WS('.', table_name, index_name, "
        "seq_in_index), CONCAT_WS(' ', column_name, non_unique) FROM "
        "information_schema.statistics WHERE table_schema = DATABASE() ORDER BY 1, 2"
    )
    rows = await database.read().query(query)
    return [(str(row["name"]), str(row["sql"])) for row in rows]


async def tables(database: Database) -> set[str]:
    """Give the names of the tables."""
    query = (
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        if database.dialect == "sqlite"
        else "SELECT table_name AS name FROM information_schema.tables "
        "WHERE table_schema = DATABASE()"
    )
    return {str(row["name"]) for row in await database.read().query(query)}


Key = tuple[bool, tuple[str, ...]]


async def keys(database: Database, table: str) -> set[Key]:
    """Give the indexes of a table but its primary key: whether unique, and over which columns."""
    if database.dialect == "sqlite":
        query = (
            'SELECT l.name, l."unique" AS is_unique, i.name AS col FROM pragma_index_list(?) l, '
            "pragma_index_info(l.name) i WHERE l.origin <> 'pk' ORDER BY l.name, i.seqno"
        )
    else:
        query = (
            "SELECT index_name AS name, 1 - non_unique AS is_unique, column_name AS col FROM "
            "information_schema.statistics WHERE table_schema = DATABASE() AND table_name = ? "
            "AND index_name <> 'PRIMARY' ORDER BY index_name, seq_in_index"
        )
    found: dict[str, Key] = {}
    for row in await database.read().query(query, [table]):
        columns = found.get(str(row["name"]), (False, ()))[1]
        found[str(row["name"])] = (bool(row["is_unique"]), (*columns, str(row["col"])))
    return set(found.values())


def wanted_keys(model: type[Model]) -> set[Key]:
    """Give the indexes that a model asks for."""
    plain = {name: field for name, field in model._meta.fields_map.items() if not field.pk}
    return {
        *((True, (name,)) for name, field in plain.items() if field.unique),
        *((False, (name,)) for name, field in plain.items() if field.index and not field.unique),
        *((True, tuple(names)) for names in model._meta.unique_together),
        *((False, tuple(index.fields)) for index in as_indexes(model)),
    }


def as_indexes(model: type[Model]) -> list[Index]:
    return [
        index if isinstance(index, Index) else Index(fields=tuple(index))
        for index in model._meta.indexes
    ]


async def test_a_fresh_database_waits_for_all_migrations_and_then_for_none(
    empty: Database,
) -> None:
    waiting = await pending(empty)
    assert waiting[0] == "0001_initial"
    assert waiting == sorted(waiting)
    assert await migrate(empty) == waiting
    assert await pending(empty) == []
    assert await migrate(empty) == []


async def test_every_table_takes_a_row_and_gives_it_back_as_it_was(sql: Sql) -> None:
    database = sql.database
    rows = {model: row_of(model) for model in models()}

    async def insert(connection: Connection) -> None:
        for row in rows.values():
            await Insert([row]).apply(connection)

    await database.run(insert)
    for model, row in rows.items():
        stored = await model.all().first()
        assert stored is not None
        for name in model._meta.fields_map:
            if not (model._meta.pk.generated and name == model._meta.pk_attr):
                assert getattr(stored, name) == getattr(row, name), (model, name)


async def test_it_goes_forward_back_step_by_step_and_forward_with_rows_in_every_table(
    empty: Database,
) -> None:
    names = await migrate(empty)
    before = await shape(empty)
    await fill(empty)
    for place in range(len(names) - 1, -1, -1):
        target = names[place - 1] if place else "__first__"
        assert await migrate(empty, target) == [names[place]]
        assert await pending(empty) == names[place:]
    assert await tables(empty) == {RECORD_TABLE}
    assert await migrate(empty) == names
    assert await shape(empty) == before
    await fill(empty)
    assert await Task.all().count() == 1


async def test_it_goes_forward_to_a_named_migration(empty: Database) -> None:
    assert await migrate(empty, "0001_initial") == ["0001_initial"]
    assert "0001_initial" not in await pending(empty)


async def test_models_and_migrations_agree(database: Database) -> None:
    assert Tortoise.apps is not None
    found = await MigrationAutodetector(Tortoise.apps, database.config["apps"]).changes()
    assert [writer.as_string() for writer in found] == []


async def test_a_model_that_no_migration_knows_would_be_found(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Tortoise.apps is not None
    field = fields.CharField(10, default="")
    field.model_field_name = "shoe_size"
    field.model = Task
    monkeypatch.setitem(Task._meta.fields_map, "shoe_size", field)
    monkeypatch.setattr(Task._meta, "fields", {*Task._meta.fields, "shoe_size"})
    found = await MigrationAutodetector(Tortoise.apps, database.config["apps"]).changes()
    assert "shoe_size" in "".join(writer.as_string() for writer in found)


async def test_two_processes_may_look_at_the_same_time(empty: Database) -> None:
    await migrate(empty)
    for waiting in await asyncio.gather(pending(empty), pending(empty)):
        assert waiting == []


@pytest.mark.parametrize("target", [None, "__first__"])
async def test_of_two_processes_that_migrate_at_once_one_does(
    url: str, empty: Database, target: str | None
) -> None:
    if target:
        await migrate(empty)
    script = (
        "import asyncio, sys\n"
        "from limner.core.clock import SystemClock\n"
        "from limner.storage.sql.database import Database\n"
        "from limner.storage.sql.schema import migrate\n"
        "async def main():\n"
        "    database = Database(sys.argv[1], SystemClock())\n"
        "    await database.open()\n"
        "    print('ready', flush=True)\n"
        "    await asyncio.to_thread(sys.stdin.readline)\n"
        "    try:\n"
        "        print(','.join(await migrate(database, sys.argv[2] or None)))\n"
        "    finally:\n"
        "        await database.close()\n"
        "asyncio.run(main())\n"
    )
    both = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", script, url, target or ""),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for one in both:
        assert one.stdout is not None
        assert await asyncio.wait_for(one.stdout.readline(), 30) == b"ready\n"
    ended = await asyncio.wait_for(asyncio.gather(*(one.communicate(b"\n") for one in both)), 30)
    assert [error for _, error in ended] == [b"", b""]
    wanted = list(reversed(NAMES)) if target else NAMES
    assert sorted(out for out, _ in ended) == [b"\n", f"{','.join(wanted)}\n".encode()]
    assert await pending(empty) == (NAMES if target else [])


async def test_the_record_that_cannot_be_read_is_not_taken_for_empty(
    empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> None:
        raise EngineUnavailable("gone")

    client = empty.write().client
    monkeypatch.setattr(type(client), "execute_query", fail)
    with pytest.raises(EngineUnavailable):
        await pending(empty)


async def test_every_index_of_the_models_is_in_the_database_and_no_other(sql: Sql) -> None:
    for model in models():
        table = model._meta.db_table
        assert await keys(sql.database, table) == wanted_keys(model), table


@pytest.mark.real
async def test_on_a_server_every_text_compares_its_bytes_and_times_have_microseconds(
    request: pytest.FixtureRequest,
) -> None:
    prepare(EMPTY[1], request)
    async with empty_database() as (database, _):
        rows = await database.read().query(
            "SELECT table_name, column_name, data_type, character_set_name, collation_name, "
            "datetime_precision FROM information_schema.columns WHERE table_schema = DATABASE()"
        )
    by_type: dict[str, set[tuple[Any, ...]]] = {}
    for row in rows:
        told = (row["character_set_name"], row["collation_name"], row["datetime_precision"])
        by_type.setdefault(str(row["data_type"]), set()).add(told)
    text = {("utf8mb4", "utf8mb4_bin", None)}
    assert by_type["varchar"] == by_type["longtext"] == text
    assert by_type["datetime"] == {(None, None, 6)}
    assert set(by_type) == {
        *("varchar", "longtext", "datetime", "int", "bigint", "tinyint", "double", "longblob")
    }

"""The schema: forward, back and forward again with rows in every table, and no drift."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tortoise import Tortoise, fields
from tortoise.migrations.autodetector import MigrationAutodetector
from tortoise.models import Model

from limner.core.clock import HeldClock
from limner.core.ids import uuid7
from limner.storage.sql.changes import Insert
from limner.storage.sql.database import APP, Connection, Database
from limner.storage.sql.schema import RECORD_TABLE, migrate, pending
from limner.storage.sql.tasks import Task

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.fixture
async def empty(tmp_path: Path, clock: HeldClock) -> AsyncIterator[Database]:
    opened = Database(f"sqlite://{tmp_path}/empty.db", clock)
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
    """Give tables and indexes as the database has them."""
    rows = await database.read().query(
        "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
    )
    return [(str(row["name"]), str(row["sql"])) for row in rows]


async def test_a_fresh_database_waits_for_all_migrations_and_then_for_none(
    empty: Database,
) -> None:
    waiting = await pending(empty)
    assert waiting[0] == "0001_initial"
    assert waiting == sorted(waiting)
    assert await migrate(empty) == waiting
    assert await pending(empty) == []
    assert await migrate(empty) == []


async def test_every_table_takes_a_row_and_gives_it_back_as_it_was(database: Database) -> None:
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
    left = [name for name, sql in await shape(empty) if sql.startswith("CREATE TABLE")]
    assert left == [RECORD_TABLE]
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


async def test_tables_are_asked_for_as_the_dialect_wants(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Readers:
        async def query(self, sql: str) -> list[dict[str, Any]]:
            asked.append(sql)
            return []

    monkeypatch.setattr(database, "dialect", "mysql")
    monkeypatch.setattr(database, "read", Readers)
    assert await pending(database)
    assert "information_schema.tables" in asked[0]


async def test_two_processes_may_look_at_the_same_time(empty: Database) -> None:
    await migrate(empty)
    for waiting in await asyncio.gather(pending(empty), pending(empty)):
        assert waiting == []

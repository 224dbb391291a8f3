"""Migrations to come: columns, indexes and tables added under a program that does not know them."""

import importlib
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tortoise import fields
from tortoise.exceptions import IntegrityError
from tortoise.fields.base import Field
from tortoise.fields.db_defaults import Now, SqlDefault

import limner.storage.sql.migrations
from limner.core.clock import HeldClock
from limner.core.unit import Commit
from limner.storage.sql.database import APP, Database
from limner.storage.sql.ddl import Executor, FileEditor, ServerEditor
from limner.storage.sql.schema import migrate, pending
from limner.storage.sql.tasks import Task
from tests.contracts.engines import Engine, each, prepare
from tests.contracts.units import Sql, embedded_process, task
from tests.storage.sql.test_schema import EMPTY, NAMES, keys, shape, tables

NEWEST = NAMES[-1]
WIDEN = """
from tortoise import fields, migrations
from tortoise.indexes import Index
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    dependencies = [("limner", "NEWEST")]
    initial = False

    operations = [
        ops.AddField("Task", "mood", fields.CharField(16, default="it's calm", db_index=True)),
        ops.AddField("Task", "tags", fields.JSONField(default=list)),
        ops.AddField("Task", "stars", fields.IntField(default=3)),
        ops.AddField("Task", "is_new", fields.BooleanField(default=True)),
        ops.AddField("Task", "weight", fields.FloatField(default=0.5)),
        ops.AddField("Task", "seen_at", fields.DatetimeField(null=True)),
        ops.AddField("Task", "code", fields.CharField(8, null=True, unique=True)),
        ops.AddIndex("Task", Index(fields=["provider", "created_at"])),
        ops.CreateModel(
            name="Badge",
            fields=[
                ("id", fields.CharField(primary_key=True, max_length=48)),
                ("name", fields.CharField(64, unique=True)),
                ("task_id", fields.CharField(48, db_index=True)),
                ("at", fields.DatetimeField()),
            ],
            options={"table": "badges", "app": "limner", "pk_attr": "id"},
            bases=["Model"],
        ),
    ]
"""
NEW_KEYS = {(False, ("mood",)), (True, ("code",)), (False, ("provider", "created_at"))}
NEW_COLUMNS = "mood, tags, stars, is_new, weight, seen_at, code"


@pytest.fixture
def later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give the name of a package of migrations that has one more than ours."""
    name = f"later_{tmp_path.name.replace('-', '_')}"
    folder = tmp_path / "packages" / name
    folder.mkdir(parents=True)
    (ours,) = limner.storage.sql.migrations.__path__
    for path in Path(ours).glob("*.py"):
        shutil.copy(path, folder)
    (folder / "9999_widen.py").write_text(WIDEN.replace("NEWEST", NEWEST))
    monkeypatch.syspath_prepend(folder.parent)
    importlib.invalidate_caches()
    yield name
    for loaded in [one for one in sys.modules if one.partition(".")[0] == name]:
        del sys.modules[loaded]


@pytest.fixture(params=each(EMPTY))
async def sql(
    request: pytest.FixtureRequest, tmp_path: Path, clock: HeldClock, later: str
) -> AsyncIterator[Sql]:
    """Give a database of this version, whose configuration knows the next one's migrations."""
    engine: Engine[str] = request.param
    prepare(engine, request)

    async def wait(_: float) -> None:
        raise NotImplementedError

    async with engine.open(tmp_path) as url:
        database = Database(url, clock)
        await database.open()
        try:
            await migrate(database)
            database.config["apps"][APP] = {**database.config["apps"][APP], "migrations": later}
            yield Sql(database, clock, wait)
        finally:
            await database.close()


async def add_task(sql: Sql, **values: Any) -> Task:
    """Insert a task as this version does: it names all columns it knows, and no other."""
    world, row = embedded_process(sql), task(**values)
    await world.commit(row)
    return row


async def test_the_program_of_before_works_on_while_the_next_version_has_widened_its_tables(
    sql: Sql,
) -> None:
    before, known = await shape(sql.database), await keys(sql.database, "tasks")
    first = await add_task(sql, prompt="小猫 'a' %")
    assert await pending(sql.database) == ["9999_widen"]
    assert await migrate(sql.database) == ["9999_widen"]
    second = await add_task(sql)
    world = embedded_process(sql)
    for row in (first, second):
        work = world.units.open("intent")
        work.move(row, expected="pending", to="extracted")
        assert await world.units.commit(work) is Commit.DONE
    assert {row.id for row in await Task.filter(state="extracted")} == {first.id, second.id}
    rows = await sql.database.read().query(f"SELECT {NEW_COLUMNS} FROM tasks")  # noqa: S608
    assert [tuple(row.values()) for row in rows] == [
        ("it's calm", "[]", 3, 1, 0.5, None, None),
    ] * 2
    assert await keys(sql.database, "tasks") == known | NEW_KEYS
    assert "badges" in await tables(sql.database)

    assert await migrate(sql.database, NEWEST) == ["9999_widen"]
    assert await shape(sql.database) == before
    assert (await Task.get(id=first.id)).prompt == "小猫 'a' %"
    assert await Task.all().count() == 2
    assert await migrate(sql.database) == ["9999_widen"]
    assert await pending(sql.database) == []


async def test_what_the_next_version_writes_the_program_of_before_reads(sql: Sql) -> None:
    row = await add_task(sql)
    await migrate(sql.database)
    await sql.database.write().execute(
        "UPDATE tasks SET mood = 'wild', code = 'x1' WHERE id = ?", [row.id]
    )
    other = await add_task(sql)
    assert (await Task.get(id=row.id)).state == "pending"
    with pytest.raises(IntegrityError):
        await sql.database.write().execute("UPDATE tasks SET code = 'x1' WHERE id = ?", [other.id])


# Before everything, between a column and its index, between a column and its key, and at the end.
@pytest.mark.parametrize("reached", [0, 1, 8, 10])
async def test_a_migration_that_was_cut_off_goes_on_where_it_was(
    sql: Sql, monkeypatch: pytest.MonkeyPatch, reached: int
) -> None:
    before = await shape(sql.database)
    editor = FileEditor if sql.database.dialect == "sqlite" else ServerEditor
    original, done = editor._run_sql, 0

    async def run(self: Any, statement: str) -> None:
        nonlocal done
        if done == reached:
            raise ZeroDivisionError
        done += 1
        await original(self, statement)

    with monkeypatch.context() as cut:
        cut.setattr(editor, "_run_sql", run)
        with pytest.raises(ZeroDivisionError):
            await migrate(sql.database)
    if sql.database.dialect == "sqlite":
        assert await shape(sql.database) == before
    assert await migrate(sql.database) == ["9999_widen"]
    assert await keys(sql.database, "tasks") >= NEW_KEYS
    assert await migrate(sql.database, NEWEST) == ["9999_widen"]
    assert await shape(sql.database) == before


def default_of(field: Field[Any], dialect: str = "mysql") -> str:
    editor = object.__new__(ServerEditor if dialect == "mysql" else FileEditor)
    field.model_field_name = "shoe_size"
    return editor._default_clause(Task, field)


def test_a_default_of_the_program_becomes_one_of_the_column() -> None:
    assert default_of(fields.CharField(9, default="it's")) == " DEFAULT 'it''s'"
    assert default_of(fields.BooleanField(default=False)) == " DEFAULT 0"
    assert default_of(fields.FloatField(default=1.5)) == " DEFAULT 1.5"
    assert default_of(fields.IntField(null=True)) == " DEFAULT NULL"
    assert default_of(fields.IntField(null=True, default=-1)) == " DEFAULT -1"
    assert default_of(fields.JSONField(default=dict)) == " DEFAULT ('{}')"
    assert default_of(fields.JSONField(default=dict), "sqlite") == " DEFAULT ('{}')"
    assert default_of(fields.IntField(default=1, db_default=2)) == " DEFAULT 2"
    assert default_of(fields.DatetimeField(db_default=Now())) == " DEFAULT CURRENT_TIMESTAMP(6)"
    assert default_of(fields.TextField(db_default=SqlDefault("('a')"))) == " DEFAULT ('a')"


def test_a_column_that_no_row_could_take_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tasks\.shoe_size: .* needs a default"):
        default_of(fields.IntField())
    with pytest.raises(TypeError, match="db_default=SqlDefault"):
        default_of(fields.CharField(9, default="back\\slash"))


async def test_a_file_is_not_rebuilt_without_its_indexes(database: Database) -> None:
    editor = FileEditor(database.write().client)
    wider = fields.CharField(400)
    wider.model_field_name = "email"
    with pytest.raises(NotImplementedError, match="add a column and drop the old"):
        await editor._alter_field(Task, Task._meta.fields_map["email"], wider)


async def test_the_statements_of_a_migration_can_be_looked_at_without_running_them(
    sql: Sql,
) -> None:
    client = sql.database.write().client
    executor = Executor(client, {APP: sql.database.config["apps"][APP]})
    statements = await executor.collect_sql(APP, "9999_widen")
    told = "\n".join(statements)
    assert "DEFAULT 'it''s calm'" in told
    assert "badges" in told
    assert await pending(sql.database) == ["9999_widen"]

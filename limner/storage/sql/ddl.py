"""How migrations change tables: Tortoise's schema editors, without the defects that hurt us.

Tortoise 1.1.9 creates MySQL tables with the server's collation; adds a column without its default,
so that the program's last version, which does not know the column, can insert no more; gives an
added column no index; and rebuilds a SQLite table without its indexes to drop a column. MySQL
commits each change of a table by itself: a migration that was cut off must be able to go on, so
what is there already is passed over.
"""

import json
from collections.abc import Callable
from typing import Any

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.fields.base import Field
from tortoise.indexes import Index
from tortoise.migrations.constraints import UniqueConstraint
from tortoise.migrations.executor import MigrationExecutor
from tortoise.migrations.graph import MigrationKey
from tortoise.migrations.loader import MigrationLoader
from tortoise.migrations.recorder import MigrationRecorder
from tortoise.migrations.schema_editor.base import BaseSchemaEditor
from tortoise.migrations.schema_editor.mysql import MySQLSchemaEditor
from tortoise.migrations.schema_editor.sqlite import SqliteSchemaEditor
from tortoise.models import Model

COLLATED = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
LONG_TYPES = ("JSON", "LONGTEXT", "LONGBLOB")
RECORD_TABLE = "tortoise_migrations"
TABLES = {
    "sqlite": "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name",
    "mysql": "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() "
    "AND table_name",
}


class AddingEditor(BaseSchemaEditor):
    """Adds columns with default and index, and takes both away again."""

    async def add_field(self, model: type[Model], field_name: str) -> None:
        """Add a column.

        Raises:
            ValueError: it may not be null and has no default, so that no row could take it.
        """
        field = model._meta.fields_map[field_name]
        name = model._meta.fields_db_projection[field_name]
        definition = self._get_field_sql(
            db_field=name,
            field_type=field.get_for_dialect(self.DIALECT, "SQL_TYPE"),
            nullable=field.null,
            unique=False,
            is_pk=False,
            comment="",
        )
        default = self._default_clause(model, field)
        table = self._table(model)
        await self._run_sql(f"ALTER TABLE {table} ADD COLUMN {definition}{default}")
        if field.unique:
            await self.add_constraint(model, UniqueConstraint(fields=(name,)))
        elif field.index:
            await self.add_index(model, Index(fields=(name,)))

    async def remove_field(self, model: type[Model], field: Field[Any]) -> None:
        name = model._meta.fields_db_projection[field.model_field_name]
        if field.unique:
            await self.remove_constraint(model, UniqueConstraint(fields=(name,)))
        elif field.index:
            await self.remove_index(model, Index(fields=(name,)))
        await self._run_sql(f"ALTER TABLE {self._table(model)} DROP COLUMN {self.quote(name)}")

    def _table(self, model: type[Model]) -> str:
        return self._qualify_table_name(model._meta.db_table, model._meta.schema)

    def _default_clause(self, model: type[Model], field: Field[Any]) -> str:
        """Give ``DEFAULT …`` from the field's default, which Tortoise keeps to the program."""
        if field.has_db_default():
            value = field.db_default
        else:
            value = field.default() if callable(field.default) else field.default
        if hasattr(value, "get_sql"):
            return f" DEFAULT {value.get_sql(dialect=self.DIALECT)}"
        if value is None and not field.null:
            raise ValueError(
                f"{model._meta.db_table}.{field.model_field_name}: a column that is added to rows "
                "needs a default, or null=True"
            )
        if isinstance(value, list | dict):
            value = json.dumps(value, separators=(",", ":"))
        literal = _literal(value)
        # MySQL takes a default of a long type only as an expression; SQLite takes both.
        is_long = field.get_for_dialect(self.DIALECT, "SQL_TYPE") in LONG_TYPES
        return f" DEFAULT ({literal})" if is_long and value is not None else f" DEFAULT {literal}"


def _literal(value: Any) -> str:
    """Give a plain value as SQL that both dialects read.

    Raises:
        TypeError: the value has no such form.
    """
    if value is None:
        return "NULL"
    if isinstance(value, bool | int | float):
        return repr(int(value) if isinstance(value, bool) else value)
    if isinstance(value, str) and "\\" not in value:
        doubled = value.replace("'", "''")
        return f"'{doubled}'"
    raise TypeError(f"no default of a column: {value!r}; use db_default=SqlDefault(…)")


class FileEditor(AddingEditor, SqliteSchemaEditor):
    """SQLite: one transaction around everything; see ``schema``."""

    async def _remake_table(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError(
            "Tortoise rebuilds a SQLite table without its indexes: add a column and drop the old"
        )


class ServerEditor(AddingEditor, MySQLSchemaEditor):
    """MySQL: tables compare bytes; what was done before a migration was cut off is passed over."""

    def _table_generate_extra(self, table: str) -> str:
        return f" {COLLATED}"

    async def create_model(self, model: type[Model]) -> None:
        if not await self._has("tables", model):
            await super().create_model(model)

    async def delete_model(self, model: type[Model]) -> None:
        if await self._has("tables", model):
            await super().delete_model(model)

    async def add_field(self, model: type[Model], field_name: str) -> None:
        column = model._meta.fields_db_projection[field_name]
        if not await self._has("columns", model, column_name=column):
            await super().add_field(model, field_name)
        else:
            await self._add_missing_key(model, model._meta.fields_map[field_name], column)

    async def _add_missing_key(self, model: type[Model], field: Field[Any], column: str) -> None:
        """Give a column the index that it was cut off from."""
        if await self._has("statistics", model, column_name=column, seq_in_index=1):
            return
        if field.unique:
            await self.add_constraint(model, UniqueConstraint(fields=(column,)))
        elif field.index:
            await self.add_index(model, Index(fields=(column,)))

    async def remove_field(self, model: type[Model], field: Field[Any]) -> None:
        # The server drops the indexes of the column alone with it.
        name = model._meta.fields_db_projection[field.model_field_name]
        if await self._has("columns", model, column_name=name):
            table = self._table(model)
            await self._run_sql(f"ALTER TABLE {table} DROP COLUMN {self.quote(name)}")

    async def add_index(self, model: type[Model], index: Index) -> None:
        name = self._index_name_for_model(model, index)
        if not await self._has("statistics", model, index_name=name):
            await super().add_index(model, index)

    async def remove_index(self, model: type[Model], index: Index) -> None:
        name = self._index_name_for_model(model, index)
        if await self._has("statistics", model, index_name=name):
            await super().remove_index(model, index)

    async def _has(self, catalogue: str, model: type[Model], **wanted: Any) -> bool:
        """Look into the catalogue, e.g. ``columns``, whether the model's table has something."""
        wanted["table_name"] = model._meta.db_table
        conditions = " AND ".join(f"{name} = %s" for name in wanted)
        _, rows = await self.client.execute_query(
            f"SELECT 1 FROM information_schema.{catalogue} "  # noqa: S608 - our own words
            f"WHERE table_schema = DATABASE() AND {conditions} LIMIT 1",
            list(wanted.values()),
        )
        return bool(rows)


class Recorder(MigrationRecorder):
    """Notes which migrations ran.

    Tortoise's takes every error for an empty record, and makes its table by a script, before which
    SQLite's driver commits.
    """

    async def ensure_schema(self, schema_editor: BaseSchemaEditor) -> None:
        statement = schema_editor._get_model_sql_data(self.model).table_sql
        await schema_editor.client.execute_query(
            statement.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1).rstrip(";")
        )

    async def applied_migrations(self) -> list[MigrationKey]:
        dialect = self.connection.capabilities.dialect
        _, found = await self.connection.execute_query(f"{TABLES[dialect]} = '{self.table_name}'")
        if not found:
            return []
        _, rows = await self.connection.execute_query(
            f"SELECT app, name FROM {self.table_name} ORDER BY id"  # noqa: S608 - our own name
        )
        return [MigrationKey(app_label=row["app"], name=row["name"]) for row in rows]


EDITORS: dict[str, Callable[..., BaseSchemaEditor]] = {"sqlite": FileEditor, "mysql": ServerEditor}


class Executor(MigrationExecutor):
    """Runs migrations by the editors and with the record of this module."""

    def __init__(self, connection: BaseDBAsyncClient, apps_config: dict[str, Any]) -> None:
        super().__init__(connection, apps_config)
        self.recorder = Recorder(connection)
        self.loader = MigrationLoader(apps_config, self.recorder, load=False)

    def _schema_editor(self, atomic: bool = True, collect_sql: bool = False) -> BaseSchemaEditor:
        editor = EDITORS[self.connection.capabilities.dialect]
        return editor(self.connection, atomic=atomic, collect_sql=collect_sql)

"""What a unit of work collects: plain data, so that units can be written alone or in groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tortoise.exceptions import IntegrityError
from tortoise.models import Model

from limner.core.errors import Conflict, Stale
from limner.core.unit import Step
from limner.storage.sql.aggregate import Aggregate, column_value
from limner.storage.sql.connection import NOW, Connection, FromNow, marks

DETAIL_LENGTH = 1000
ROWS_PER_INSERT = 200


@dataclass(frozen=True, slots=True)
class Line:
    """A line to be added to an object's timeline."""

    type: str
    state: str
    detail: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with its values; ``rows`` is how many it must find, if that matters."""

    sql: str
    values: Sequence[Any]
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Insert:
    """Rows of one table to be inserted with one statement per ``ROWS_PER_INSERT`` rows."""

    rows: Sequence[Model]

    def statements(self) -> list["Statement"]:
        """Give the statements that insert the rows."""
        model = type(self.rows[0])
        names = list(model._meta.fields_db_projection)
        if model._meta.pk.generated:
            names.remove(model._meta.pk_attr)
        columns = ", ".join(quoted(name) for name in names)
        row_marks = f"({marks(names)})"
        made = []
        for start in range(0, len(self.rows), ROWS_PER_INSERT):
            part = self.rows[start : start + ROWS_PER_INSERT]
            values = [
                column_or_time(model, name, getattr(row, name), row)
                for row in part
                for name in names
            ]
            every = ", ".join([row_marks] * len(part))
            sql = f"INSERT INTO {quoted(model._meta.db_table)} ({columns}) VALUES {every}"  # noqa: S608
            made.append(Statement(sql, values))
        return made

    async def apply(self, connection: Connection) -> None:
        """Insert.

        Raises:
            Conflict: a unique key is taken.
        """
        for statement in self.statements():
            try:
                await connection.execute(statement.sql, statement.values)
            except IntegrityError as error:
                table = type(self.rows[0])._meta.db_table
                raise Conflict(f"{table}: {error}", code="conflict") from error


@dataclass(frozen=True, slots=True)
class Guarded:
    """An update of one row that must still be as ``guard`` says; adds ``lines`` to its timeline."""

    row: Aggregate
    guard: Mapping[str, Any]
    changes: Mapping[str, Any]
    lines: Sequence[Line] = ()

    async def apply(self, connection: Connection) -> None:
        """Update and add the lines, numbered by the raised counter.

        Raises:
            Stale: the guard does not hold.
        """
        model, table = type(self.row), quoted(self.row._meta.db_table)
        rise = max(1, len(self.lines))
        sets, values = [f"version = version + {rise}", "updated_at = ?"], [NOW]
        if self.lines:
            sets.append(f"line_count = line_count + {len(self.lines)}")
        for name, value in self.changes.items():
            sets.append(f"{quoted(name)} = ?")
            values.append(column_or_time(model, name, value))
        clause, guards = guard_clause(model, self.guard)
        changed = await connection.execute(
            f"UPDATE {table} SET {', '.join(sets)} WHERE {' AND '.join(['id = ?', *clause])}",  # noqa: S608
            [*values, self.row.id, *guards],
        )
        if not changed:
            raise Stale(f"{model.kind} {self.row.id} is no longer as expected")
        for place, line in enumerate(self.lines):
            await _add_line(connection, self.row, line, len(self.lines) - 1 - place)


@dataclass(frozen=True, slots=True)
class Run:
    """A step of another aggregate inside the transaction, e.g. the ledger's."""

    step: Step

    async def apply(self, connection: Connection) -> None:
        """Run it."""
        await self.step(connection)


@dataclass(frozen=True, slots=True)
class FirstLine:
    """Line 1 of a fresh object's timeline."""

    row: Aggregate

    @property
    def stored(self) -> Model:
        """The line as a row of its table."""
        from limner.storage.sql.timeline import TimelineLine

        line = TimelineLine(
            kind=self.row.kind,
            object_id=self.row.id,
            n=1,
            type="status",
            state=self.row.state,
            detail="",
            data={},
            user_id=self.row.user_id,
        )
        line.at = NOW  # type: ignore[assignment]
        return line

    async def apply(self, connection: Connection) -> None:
        """Insert it."""
        await Insert([self.stored]).apply(connection)


Change = Insert | Guarded | FirstLine | Run


def must_change(sql: str, values: Sequence[Any], stale: str) -> Step:
    """Give the step that runs ``sql``; if no row is as it asks, the unit is dropped.

    ``stale`` says what has happened to the row.
    """

    async def write(connection: Connection) -> None:
        if not await connection.execute(sql, values):
            raise Stale(stale)

    return write


def guard_clause(model: type[Model], guard: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
    """Give the conditions that ``guard`` stands for, and their values."""
    wheres: list[str] = []
    values: list[Any] = []
    for name, value in guard.items():
        if isinstance(value, tuple):
            wheres.append(f"{quoted(name)} IN ({', '.join('?' * len(value))})")
            values += value
        elif value is None:
            wheres.append(f"{quoted(name)} IS NULL")
        else:
            wheres.append(f"{quoted(name)} = ?")
            values.append(column_or_time(model, name, value))
    return wheres, values


def line_row(line: Line) -> tuple[str, str, str, Any]:
    """Give a line's type, state, detail and data as its table has them."""
    from limner.storage.sql.timeline import TimelineLine

    data = column_value(TimelineLine, "data", dict(line.data))
    return line.type, line.state, line.detail[:DETAIL_LENGTH], data


async def _add_line(connection: Connection, row: Aggregate, line: Line, back: int) -> None:
    """Write one line with number ``line_count - back``; the row is locked by its update."""
    await connection.execute(
        "INSERT INTO timeline (kind, object_id, n, at, type, state, detail, data, user_id) "  # noqa: S608
        f"SELECT ?, id, line_count - {back}, ?, ?, ?, ?, ?, user_id "
        f"FROM {quoted(row._meta.db_table)} WHERE id = ?",
        [row.kind, NOW, *line_row(line), row.id],
    )


def lines_for(row: Aggregate, to: str, detail: str, data: Mapping[str, Any]) -> list[Line]:
    """Give the lines that a move to ``to`` adds: status, an error's text, and the end."""
    lines = [Line("status", to, detail, data)]
    if row.ended(to):
        if to == "failed":
            lines.append(Line("error", to, detail))
        lines.append(Line("done", to, "", data))
    return lines


def column_or_time(model: type[Model], name: str, value: Any, row: Model | None = None) -> Any:
    """Give ``value`` as the column's database form; a time of the database stays one."""
    return value if isinstance(value, FromNow) else column_value(model, name, value, row)


def quoted(name: str) -> str:
    """Give a column or table name of ours as an identifier (``count`` and ``at`` are fine bare)."""
    if not name.replace("_", "").isalnum():
        raise ValueError(f"no column: {name!r}")
    return f"`{name}`"

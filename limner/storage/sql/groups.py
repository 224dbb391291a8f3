"""Units written together: their statements merged, so that a group costs few round trips.

On a server every statement is a round trip; a group of units is written by one multi-row insert
per table and one update per kind of change. Any failure, a guard of one unit included, undoes the
group, and each unit is then committed alone: so a merged plan may be strict and simple.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tortoise.models import Model

from limner.core.errors import Stale
from limner.storage.sql.changes import (
    Change,
    FirstLine,
    Guarded,
    Insert,
    Line,
    Statement,
    column_or_time,
    guard_clause,
    line_row,
    quoted,
)
from limner.storage.sql.connection import NOW, Connection
from limner.storage.sql.timeline import TimelineLine

ROWS_PER_STATEMENT = 200
LINE_COLUMNS = ("type", "state", "detail", "data")


def rows_touched(changes: Iterable[Change]) -> frozenset[str]:
    """Give the ids of rows that guards look at: units that share one may not share a group."""
    return frozenset(str(change.row.id) for change in changes if isinstance(change, Guarded))


def mergeable(changes: Sequence[Change]) -> bool:
    """Whether the order of a unit's changes does not matter beyond inserts before updates."""
    guarded = [str(change.row.id) for change in changes if isinstance(change, Guarded)]
    plain = all(isinstance(change, Insert | Guarded | FirstLine) for change in changes)
    return plain and len(guarded) == len(set(guarded))


@dataclass
class Plan:
    """The merged changes of a group: inserts by table, updates by shape, lines by table."""

    inserts: dict[type[Model], list[Model]] = field(default_factory=dict)
    updates: dict[tuple[Any, ...], list[Guarded]] = field(default_factory=dict)

    @classmethod
    def of(cls, changes: Iterable[Change]) -> "Plan":
        """Merge ``changes``, all of them ``mergeable``."""
        plan = cls()
        for change in changes:
            if isinstance(change, Insert):
                plan.inserts.setdefault(type(change.rows[0]), []).extend(change.rows)
            elif isinstance(change, FirstLine):
                plan.inserts.setdefault(TimelineLine, []).append(change.stored)
            elif isinstance(change, Guarded):
                plan.updates.setdefault(_shape(change), []).append(change)
        return plan

    def statements(self) -> list[Statement]:
        """Give the statements, in an order that is the same in every process."""
        made: list[Statement] = []
        for model in sorted(self.inserts, key=lambda one: one._meta.db_table):
            made += Insert(self.inserts[model]).statements()
        for shape in sorted(self.updates, key=repr):
            alike = sorted(self.updates[shape], key=lambda one: str(one.row.id))
            for start in range(0, len(alike), ROWS_PER_STATEMENT):
                part = alike[start : start + ROWS_PER_STATEMENT]
                made.append(_update(part))
                made += _add_lines(part)
        return made

    async def apply(self, connection: Connection) -> None:
        """Run the statements one by one.

        Raises:
            Stale: a guard does not hold; which one is not known.
            IntegrityError: a unique key is taken.
        """
        for statement in self.statements():
            check(statement, await connection.execute(statement.sql, statement.values))


def check(statement: Statement, changed: int) -> None:
    """Compare what a statement did with what it had to do.

    Raises:
        Stale: it did not find all rows as expected.
    """
    if statement.rows is not None and statement.rows != changed:
        missing = statement.rows - changed
        raise Stale(f"{missing} of {statement.rows} rows are no longer as expected")


def _shape(change: Guarded) -> tuple[Any, ...]:
    """Give what updates must have in common to be one statement."""
    guards = tuple(
        (name, len(value) if isinstance(value, tuple) else value is None)
        for name, value in sorted(change.guard.items())
    )
    table = change.row._meta.db_table
    return (table, tuple(sorted(change.changes)), guards, len(change.lines))


def _update(alike: Sequence[Guarded]) -> Statement:
    """Give the one statement that changes all of these rows."""
    first = alike[0]
    model = type(first.row)
    sets = [f"version = version + {max(1, len(first.lines))}", "updated_at = ?"]
    values: list[Any] = [NOW]
    if first.lines:
        sets.append(f"line_count = line_count + {len(first.lines)}")
    for name in sorted(first.changes):
        wanted = [column_or_time(model, name, change.changes[name]) for change in alike]
        if all(value == wanted[0] for value in wanted):
            sets.append(f"{quoted(name)} = ?")
            values.append(wanted[0])
        else:
            sets.append(f"{quoted(name)} = CASE id {'WHEN ? THEN ? ' * len(alike)}END")
            for change, value in zip(alike, wanted, strict=True):
                values += (change.row.id, value)
    where, held = _guards(model, alike)
    sql = f"UPDATE {quoted(model._meta.db_table)} SET {', '.join(sets)} WHERE {where}"  # noqa: S608
    return Statement(sql, [*values, *held], rows=len(alike))


def _guards(model: type[Model], alike: Sequence[Guarded]) -> tuple[str, list[Any]]:
    """Give the condition that holds for exactly these rows if all are as expected."""
    if all(change.guard == alike[0].guard for change in alike):
        clause, values = guard_clause(model, alike[0].guard)
        ids = [change.row.id for change in alike]
        return " AND ".join([f"id IN ({', '.join('?' * len(ids))})", *clause]), [*ids, *values]
    parts, held = [], []
    for change in alike:
        clause, values = guard_clause(model, change.guard)
        parts.append(f"({' AND '.join(['id = ?', *clause])})")
        held += [change.row.id, *values]
    return " OR ".join(parts), held


def _add_lines(alike: Sequence[Guarded]) -> list[Statement]:
    """Number the lines of many objects by the counters that the update has just raised."""
    lines: list[tuple[str, int, Line]] = []
    for change in alike:
        last = len(change.lines) - 1
        lines += [(change.row.id, last - place, line) for place, line in enumerate(change.lines)]
    if not lines:
        return []
    row = alike[0].row
    names = ", ".join(f"? AS {name}" for name in ("row_id", "back", *LINE_COLUMNS))
    given = " UNION ALL ".join([f"SELECT {names}", *["SELECT ?, ?, ?, ?, ?, ?"] * (len(lines) - 1)])
    values: list[Any] = [row.kind, NOW]
    for ident, back, line in lines:
        values += (ident, back, *line_row(line))
    sql = (
        "INSERT INTO timeline (kind, object_id, n, at, type, state, detail, data, user_id) "  # noqa: S608
        "SELECT ?, o.id, o.line_count - l.back, ?, l.type, l.state, l.detail, l.data, o.user_id "
        f"FROM ({given}) l JOIN {quoted(row._meta.db_table)} o ON o.id = l.row_id "
        # Their own ids shall rise as their numbers do: streams of a user read by id.
        "ORDER BY l.row_id, l.back DESC"
    )
    return [Statement(sql, values)]

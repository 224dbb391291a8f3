"""Timelines read for streams: of many objects, or of everything an account owns, by one query.

Lines of one object are numbered in the order of commits. Over several objects there is only the
row's id, which a server gives before the commit: a smaller id may become visible after a larger
one. A line older than ``SETTLE_S`` is *settled*: no transaction lives so long, so that nothing
below its id can still appear. Cursors over an account's lines therefore name settled ids only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from limner.storage.sql.connection import Connection, FromNow, marks

LINES_PER_READ = 1000
DONE = "done"
STATUS = "status"
SETTLE_S = 60.0
"""Longer than a statement may wait for a lock (innodb_lock_wait_timeout, 50 s)."""
HISTORY_S = 86_400.0
HISTORY_LINES = 10_000
BY_NUMBER, BY_ROW = "object_id = ? AND n > ?", "object_id = ? AND id > ?"
COLUMNS = "id, kind, object_id, n, at, type, state, detail, data"


class Line(NamedTuple):
    """A stored line; ``at`` is ISO 8601 with ``Z``, ``data`` the text of a JSON object."""

    id: int
    kind: str
    object_id: str
    n: int
    at: str
    type: str
    state: str
    detail: str
    data: str


class Wish(NamedTuple):
    """Lines of one object: those with numbers above ``n``, or else with ids above ``row``."""

    object_id: str
    n: int | None
    row: int = 0


class Newest(NamedTuple):
    """The newest line of an object: its number and its row's id; ``old`` the newest settled one."""

    object_id: str
    n: int
    id: int
    old: "Newest | None" = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where the replay of an account's lines begins: behind the row ``after``.

    ``settled`` is the newest settled id, ``newest`` the newest of all. ``is_cut`` tells that some
    of what was asked for is not in the history any more.
    """

    after: int
    settled: int
    newest: int
    is_cut: bool = False


def _line(row: Mapping[str, Any]) -> Line:
    ident, kind, object_id, n, at, *told = row.values()
    return Line(ident, kind, object_id, n, at.replace(" ", "T", 1).replace("+00:00", "Z"), *told)


async def lines_beyond(connection: Connection, wishes: Sequence[Wish]) -> tuple[list[Line], bool]:
    """Give the lines wished for, by object and number, and whether these are all.

    One read gives ``LINES_PER_READ`` at most, counted over all objects.
    A read that was cut never ends with a ``done``: whether that was the last line, only the next
    read can tell.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    clauses, values = [], list[Any]()
    for object_id, n, row in wishes:
        clauses.append(BY_ROW if n is None else BY_NUMBER)
        values += (object_id, row if n is None else n)
    rows = await connection.query(
        f"SELECT {COLUMNS} FROM timeline WHERE {' OR '.join(clauses)} "  # noqa: S608 - marks only
        f"ORDER BY object_id, n LIMIT {LINES_PER_READ}",
        values,
    )
    lines = [_line(row) for row in rows]
    is_whole = len(lines) < LINES_PER_READ
    if not is_whole and lines[-1].type == DONE:
        lines.pop()
    return lines, is_whole


async def ending_of(connection: Connection, ident: str) -> tuple[int | None, int | None]:
    """Give the numbers of an object's newest line and of the ``done`` that ends it, or None.

    A ``done`` that a later change of state has overtaken ends nothing.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    rows = await connection.query(
        "SELECT MAX(n) AS newest, (SELECT CASE WHEN type = ? THEN n END FROM timeline "
        "WHERE object_id = ? AND type IN (?, ?) ORDER BY n DESC LIMIT 1) AS done "
        "FROM timeline WHERE object_id = ?",
        [DONE, ident, STATUS, DONE, ident],
    )
    return rows[0]["newest"], rows[0]["done"]


async def last_numbers(connection: Connection, idents: Sequence[str]) -> dict[str, int]:
    """Give the number of each object's newest line; objects without lines are left out.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    rows = await connection.query(
        "SELECT object_id, MAX(n) AS n FROM timeline "  # noqa: S608 - marks only
        f"WHERE object_id IN ({marks(idents)}) GROUP BY object_id",
        list(idents),
    )
    return {row["object_id"]: row["n"] for row in rows}


async def settled_id(connection: Connection) -> int:
    """Give an id below which no line can appear any more; 0 if no line is old enough.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    return await _id_before(connection, SETTLE_S)


async def _id_before(connection: Connection, age_s: float) -> int:
    rows = await connection.query(
        "SELECT id FROM timeline WHERE at < ? ORDER BY at DESC, id DESC LIMIT 1",
        [FromNow(-age_s)],
    )
    return int(rows[0]["id"]) if rows else 0


async def place_of(connection: Connection, user_id: str, asked: int | None) -> Place:
    """Find where a replay of an account's lines begins that shall go on behind ``asked``.

    With None, or an id that was never given, there is no replay: it begins at the newest line.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    settled = await settled_id(connection)
    newest = int((await connection.query("SELECT MAX(id) AS id FROM timeline"))[0]["id"] or 0)
    if asked is None or asked > newest:
        return Place(settled, settled, newest, is_cut=asked is not None)
    after = max(asked, await _id_before(connection, HISTORY_S))
    beyond = await connection.query(
        "SELECT id FROM timeline WHERE user_id = ? AND id > ? "  # noqa: S608 - a number of ours
        f"ORDER BY id DESC LIMIT 1 OFFSET {HISTORY_LINES}",
        [user_id, after],
    )
    after = int(beyond[0]["id"]) if beyond else after
    return Place(after, settled, newest, is_cut=after > asked)


async def lines_of(connection: Connection, user_id: str, after: int, limit: int) -> list[Line]:
    """Give lines of everything an account owns, behind the row ``after``, by id.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    rows = await connection.query(
        f"SELECT {COLUMNS} FROM timeline WHERE user_id = ? AND id > ? "  # noqa: S608 - ours
        "ORDER BY id LIMIT ?",
        [user_id, after, limit],
    )
    return [_line(row) for row in rows]


async def newest_of(
    connection: Connection, user_ids: Sequence[str], after: int, settled: int = 0
) -> dict[str, list[Newest]]:
    """Give by account the newest line of each of its objects, of lines behind the row ``after``.

    ``settled`` is a settled id: up to there an object's lines count as old.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    rows = await connection.query(
        "SELECT user_id, object_id, MAX(n) AS n, MAX(id) AS id, "  # noqa: S608 - marks only
        "MAX(CASE WHEN id <= ? THEN n END) AS old_n, MAX(CASE WHEN id <= ? THEN id END) AS old_id "
        f"FROM timeline WHERE user_id IN ({marks(user_ids)}) AND id > ? "
        "GROUP BY user_id, object_id",
        [settled, settled, *user_ids, after],
    )
    found: dict[str, list[Newest]] = {}
    for row in rows:
        ident, old = row["object_id"], None
        if row["old_n"] is not None:
            old = Newest(ident, row["old_n"], row["old_id"])
        found.setdefault(row["user_id"], []).append(Newest(ident, row["n"], row["id"], old))
    return found


def by_object(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """Give the lines of each object, in their order."""
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line.object_id, []).append(line)
    return found

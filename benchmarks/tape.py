"""What the writer's connection executed, and the same again on a bare sqlite3 connection.

That is the ceiling of everything that commits: the same statements with the same values in the
same transactions, at the same durability, by one thread that does nothing else.
"""

import pickle
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tortoise import connections

from benchmarks.child import Measured

START = "start.db"
TAPE = "tape.pickle"
CEILING = "ceiling: the same statements and commits, one thread, bare sqlite3, synchronous FULL"
PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON")
READS = ("SELECT", "PRAGMA", "EXPLAIN")

# Names in quotes and bare words are passed over; what is left are literals.
_TOKENS = re.compile(
    r"`[^`]*`|\"[^\"]*\"|(?P<blob>[xX]'[0-9a-fA-F]*')|(?P<text>'(?:[^']|'')*')"
    r"|[A-Za-z_][A-Za-z_0-9]*|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"
)

Statement = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Transaction:
    """Statements that were committed together, or rolled back."""

    statements: tuple[Statement, ...]
    committed: bool = True


@dataclass
class Recording:
    """What a block did: its transactions, and how often it went to a database thread."""

    transactions: list[Transaction]
    hops: int = 0

    @property
    def commits(self) -> int:
        """How many transactions were made durable."""
        return sum(one.committed for one in self.transactions)

    @property
    def statements(self) -> int:
        """How many statements they had, BEGIN and COMMIT not counted."""
        return sum(len(one.statements) for one in self.transactions if one.committed)


@asynccontextmanager
async def recording(folder: Path) -> AsyncIterator[Recording]:
    """Record into ``folder``: a copy of the database as it is now, then what the writer does.

    Raises:
        RuntimeError: nothing was recorded.
    """
    writer = connections.get("writer")
    lines: list[str] = []
    made = Recording([])

    def counted(*arguments: Any, **named: Any) -> Any:
        made.hops += 1
        return execute(*arguments, **named)

    # Whoever has its turn on the connection is between two transactions.
    async with writer.acquire_connection() as connection:
        with closing(sqlite3.connect(folder / START)) as copy:
            await connection.backup(copy)
        before, execute = connection.total_changes, connection._execute  # noqa: SLF001 - a hop each
        await connection.set_trace_callback(lines.append)
        connection._execute = counted  # noqa: SLF001
    try:
        yield made
    finally:
        async with writer.acquire_connection() as connection:
            connection._execute = execute  # noqa: SLF001
            await connection.set_trace_callback(None)
            changes = connection.total_changes - before
        made.transactions += transactions(lines)
        # What was rolled back counts as changes too, but is not done again.
        whole = all(one.committed for one in made.transactions)
        keep(folder, made.transactions, changes if whole else None)
    if not made.transactions:
        raise RuntimeError("the writer's connection did nothing")


def keep(folder: Path, tape: Sequence[Transaction], changes: int | None) -> None:
    """Write a tape for ``replay``, with the number of rows it changes if that is known."""
    (folder / TAPE).write_bytes(pickle.dumps((list(tape), changes)))


def transactions(lines: Sequence[str]) -> list[Transaction]:
    """Give the transactions of a trace; reads outside of any are left out.

    A unit in a group stands between savepoints: what was rolled back to one is given as a
    transaction of its own that was not committed.
    """
    found: list[Transaction] = []
    open_one: list[Statement] | None = None
    unit_start = 0
    for line in lines:
        words = line.upper().rstrip("; ").split() or ["--"]
        word = words[0]
        if word.startswith("--") or word == "RELEASE":
            continue
        if word == "BEGIN":
            open_one, unit_start = [], 0
        elif word == "SAVEPOINT":
            unit_start = len(open_one or ())
        elif words[:2] == ["ROLLBACK", "TO"]:
            undone = (open_one or [])[unit_start:]
            open_one = (open_one or [])[:unit_start]
            found.append(Transaction(tuple(undone), committed=False))
        elif word in {"COMMIT", "ROLLBACK", "END"}:
            found.append(Transaction(tuple(open_one or ()), word != "ROLLBACK"))
            open_one = None
        elif open_one is not None:
            open_one.append(bound(line))
        elif word not in READS:
            found.append(Transaction((bound(line),)))
    return found


def bound(line: str) -> Statement:
    """Give a statement of a trace with its literals as values again.

    SQLite expands values when it traces; without this each would be parsed anew, which would make
    the ceiling lower than it is.
    """
    values: list[Any] = []

    def mark(match: re.Match[str]) -> str:
        if match["text"] is not None:
            values.append(match["text"][1:-1].replace("''", "'"))
        elif match["blob"] is not None:
            values.append(bytes.fromhex(match["blob"][2:-1]))
        elif match["number"] is not None:
            number = match["number"]
            values.append(int(number) if number.lstrip("-").isdigit() else float(number))
        else:
            return match[0]
        return "?"

    return _TOKENS.sub(mark, line), tuple(values)


async def replay(folder: str, group: int = 1) -> Measured:
    """Do what was recorded into ``folder`` on a copy, ``group`` transactions to each commit.

    Gives ``{seconds, commits}``.

    Raises:
        RuntimeError: it changed other rows than those that were recorded.
    """
    tape: list[Transaction]
    tape, changes = pickle.loads((Path(folder) / TAPE).read_bytes())
    path = Path(folder) / f"replay-{time.monotonic_ns()}.db"
    path.write_bytes((Path(folder) / START).read_bytes())
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        started = time.perf_counter()
        commits = _play(connection, tape, group)
        seconds = time.perf_counter() - started
        changed = connection.total_changes
    if changes not in {None, changed}:
        raise RuntimeError(f"the replay changed {changed} rows, the recording {changes}")
    for leftover in path.parent.glob(path.name + "*"):
        leftover.unlink()
    return {"seconds": seconds, "commits": commits}


def _play(connection: sqlite3.Connection, tape: Sequence[Transaction], group: int) -> int:
    execute: Callable[..., Any] = connection.execute
    kept = [one for one in tape if one.committed]
    commits = 0
    for start in range(0, len(kept), group):
        execute("BEGIN IMMEDIATE")
        for one in kept[start : start + group]:
            for sql, values in one.statements:
                execute(sql, values).fetchall()
        execute("COMMIT")
        commits += 1
    return commits

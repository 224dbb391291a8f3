"""Requests per processor second of the front: a job read and a job made, each with a bearer key.

The ceiling is a bare handler of aiohttp that asks the database the same, in the same run.
"""

import asyncio
import tempfile
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import clients, fronts, servers
from benchmarks.child import Call, Measured, call, together
from benchmarks.result import Figure, Result, column, ratios
from tests.docs.tree import free_port
from tests.engines.mariadb import MariaDbServer

LIMNER, BARE = "Limner", "bare"
READ = (
    "read: GET /api/generate/{id} of a finished job with one picture, its link signed anew. write: "
    "POST /api/generate/image with an Idempotency-Key. Both with a bearer key; no actor runs, so "
    "that the queue grows, for both alike."
)
CEILING = (
    "bare: one aiohttp handler each; the same statements by the same driver (sqlite3 in two "
    "threads, aiomysql), nothing else: no limits, checks, headers, logs, metrics, events."
)
COUNTED = "Only the front's own process counts, not MariaDB's nor the clients'."


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure."""

    reads: int = 3000
    writes: int = 1000
    at_once: int = 16
    jobs: int = 50
    rounds: int = 3


FULL = Size()
QUICK = Size(reads=20, writes=10, at_once=2, jobs=2, rounds=1)


async def run(size: Size = FULL) -> Result:
    """Measure Limner and the bare front in turn, on SQLite, then on MariaDB."""
    notes = [READ, CEILING, COUNTED]
    figures = await _on("SQLite", size, None)
    try:
        async with servers.mariadb_running() as mariadb:
            figures += await _on("MariaDB", size, mariadb)
    except servers.EnginesMissing as reason:
        notes.append(f"MariaDB was left out: {reason}")
    return Result(
        "requests",
        "requests per processor second of the front's process, against bare aiohttp",
        tuple(figures),
        asdict(size),
        tuple(notes),
    )


async def _on(engine: str, size: Size, mariadb: MariaDbServer | None) -> list[Figure]:
    taken: dict[str, list[Measured]] = {LIMNER: [], BARE: []}
    for _ in range(size.rounds):
        for front, rows in taken.items():
            rows.append(await _round(front, size, mariadb))
    figures = []
    for kind, wanted in _wanted(size).items():
        name, rates = f"{engine}, {kind}", {}
        for front, rows in taken.items():
            measured = [row[kind] for row in rows]
            rates[front] = _per_s(wanted, column(measured, "cpu_s"))
            by_clock = _per_s(wanted, column(measured, "seconds"))
            figures += [
                Figure(f"{name}: {front}", "requests/CPU s", rates[front]),
                Figure(f"{name}: {front}, by the clock", "requests/s", by_clock),
            ]
        figures.append(Figure(f"{name}: ÷ bare", "×", ratios(rates[LIMNER], rates[BARE])))
    resident = column(taken[LIMNER], "resident_mib")
    return [*figures, Figure(f"{engine}: Limner resident", "MiB", resident)]


def _wanted(size: Size) -> dict[str, int]:
    return {"read": size.reads, "write": size.writes}


def _per_s(wanted: int, seconds: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(wanted / each for each in seconds)


async def _round(front: str, size: Size, mariadb: MariaDbServer | None) -> Measured:
    """Measure one front over a database of its own."""
    with tempfile.TemporaryDirectory(prefix="limner-bench-") as home:
        place: dict[str, Any] = {"home": home, "database_url": ""}
        if mariadb is not None:
            place["database_url"] = await asyncio.to_thread(mariadb.fresh_database)
        try:
            filled = await call(fronts.fill, **place, jobs=size.jobs)
            return await _measured(front, size, place, filled)
        finally:
            if mariadb is not None:
                await asyncio.to_thread(mariadb.drop_database, place["database_url"])


async def _measured(front: str, size: Size, place: dict[str, Any], filled: Measured) -> Measured:
    port = free_port()
    serving = Call(fronts.limner, {**place, "port": port})
    if front == BARE:
        serving = Call(fronts.bare, {**place, "port": port, "key": filled["key"]})
    given = {"home": place["home"], "url": f"http://127.0.0.1:{port}", "at_once": size.at_once}
    asking = Call(clients.drive, {**filled, **given, "wanted": _wanted(size)})
    (served, asked), _ = await together([serving, asking])
    return {**served, **asked}

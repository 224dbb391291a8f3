"""Where workers are measured: on servers, on embedded engines, and bare on the same servers."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks import raw, stock, worker
from benchmarks.child import PLAIN, UVLOOP, Call, call
from benchmarks.count import shared_file
from benchmarks.crew import Shift, shift
from benchmarks.servers import Place, Servers

REAL = "servers"
EMBEDDED = "embedded"
RAW = "bare, uvloop"
RAW_PLAIN = "bare, asyncio"
NAMES_NOTE = (
    "servers: RabbitMQ and MariaDB, each commit synced; embedded: SQLite and the embedded broker."
)
QUEUE_LIMIT = 10_000
"""What the embedded broker takes into memory; the rest waits in the outbox."""


async def on_servers(servers: Servers, kind: str, wanted: int, *, workers: int = 1) -> Shift:
    """Measure ``workers`` processes of Limner until ``wanted`` are done."""
    with tempfile.TemporaryDirectory(prefix="limner-bench-") as folder:
        path = shared_file(Path(folder)) if workers > 1 else ""
        async with servers.place() as place:
            urls: dict[str, Any] = {
                "database_url": place.database_url,
                "broker_url": place.broker_url,
            }
            await call(stock.fill, **urls, kind=kind, wanted=wanted)
            given = {**urls, "kind": kind, "wanted": wanted, "count_path": path}
            calls = [Call(worker.consume, {**given, "slot": n}) for n in range(workers)]
            done = await shift(calls, servers)
            await call(worker.check, **urls, kind=kind, wanted=wanted)
    return done


async def embedded(kind: str, wanted: int, *, in_memory: bool = True) -> Shift:
    """Measure one process on SQLite and the embedded broker.

    What waits are rows of the outbox; ``in_memory`` says whether the broker has as many of them as
    it takes when the measurement begins.
    """
    async with home() as folder:
        urls: dict[str, Any] = {"database_url": f"sqlite://{folder}/limner.db", "broker_url": ""}
        await call(stock.fill, **urls, kind=kind, wanted=wanted)
        held = min(wanted, QUEUE_LIMIT) if in_memory else 0
        given = {**urls, "kind": kind, "wanted": wanted, "waiting": held}
        done = await shift([Call(worker.consume, given)])
        await call(worker.check, **urls, kind=kind, wanted=wanted)
    return done


async def bare(servers: Servers, wanted: int, *, stages: int = 0, plain: bool = False) -> Shift:
    """Measure the ceiling: jobs without ``stages``, else chains of so many."""
    loop = PLAIN if plain else UVLOOP
    async with servers.place() as place:
        urls = _urls(place)
        await call(raw.fill, **urls, wanted=wanted, stages=stages)
        if stages:
            one = Call(raw.chain, {**urls, "wanted": wanted, "stages": stages}, loop)
        else:
            one = Call(raw.jobs, {"broker_url": place.broker_url, "wanted": wanted}, loop)
        return await shift([one], servers)


def _urls(place: Place) -> dict[str, Any]:
    return {"database_url": place.database_url, "broker_url": place.broker_url}


@asynccontextmanager
async def home() -> AsyncIterator[Path]:
    """Give a throw-away folder."""
    with tempfile.TemporaryDirectory(prefix="limner-bench-") as folder:
        yield Path(folder)

"""The bare front of the benchmark of requests asks the database exactly what Limner asks it."""

import asyncio
import re
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession
from tortoise import connections

# ``python -m pytest`` has it already; plain ``pytest`` does not.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks import clients, fronts, questions, tape
from limner.app import Service
from limner.storage.sql.jobs import COUNTED

VALUE = re.compile(r"'(?:[^']|'')*'|\b[xX]'[0-9a-fA-F]*'|(?<![\w`])-?\d+(?:\.\d+)?|\bNULL\b|\?")
LIMIT = f"LIMIT {COUNTED}"


def shape(sql: str) -> str:
    """Give a statement without its values; where a bound NULL and a written one look alike."""
    return VALUE.sub("?", sql.replace(LIMIT, "LIMIT x"))


@asynccontextmanager
async def traced(name: str) -> AsyncIterator[list[str]]:
    """Keep what a connection of the running front executes while the block runs."""
    lines: list[str] = []
    async with connections.get(name).acquire_connection() as connection:
        await connection.set_trace_callback(lines.append)
    try:
        yield lines
    finally:
        async with connections.get(name).acquire_connection() as connection:
            await connection.set_trace_callback(None)


@pytest.mark.timeout(240)
async def test_both_fronts_ask_the_same(tmp_path: Path) -> None:
    filled = await fronts.fill(str(tmp_path), "", 1)
    (ident,) = filled["jobs"]
    async with fronts.engines(str(tmp_path), 0, "") as engines:
        asked = await questions.of(engines.ports.database, engines.ports.broker)
        service = Service(engines, (), {})
        await service.start(http=True)
        bearer = {"Authorization": f"Bearer {filled['key']}"}
        try:
            async with ClientSession(service.url, headers=bearer) as client:
                # The first request also looks the key up.
                await client.get(f"/api/generate/{ident}")
                async with traced("default") as reads:
                    assert (await client.get(f"/api/generate/{ident}")).status == 200
                async with traced("default") as places, traced("writer") as writes:
                    answer = await client.post(
                        "/api/generate/image",
                        json={"prompt": clients.PROMPT},
                        headers={"Idempotency-Key": "one"},
                    )
                    assert answer.status == 202
        finally:
            await service.stop()
    assert [shape(line) for line in reads] == [shape(asked.show.sql)]
    assert [shape(line) for line in places] == [shape(asked.place.sql)]
    claim, unit, *more = tape.transactions(writes)
    assert more == []
    assert [shape(sql) for sql, _ in claim.statements] == [shape(asked.claim.sql)]
    assert sorted(shape(sql) for sql, _ in unit.statements) == sorted(
        shape(one.sql) for one in asked.create
    )


async def test_the_bare_database_commits_what_it_is_given(tmp_path: Path) -> None:
    await fronts.fill(str(tmp_path), "", 1)
    async with fronts.engines(str(tmp_path), 0, "") as engines:
        asked = await questions.of(engines.ports.database, engines.ports.broker)
    path = tmp_path / "limner.db"
    async with questions.opened(f"sqlite://{path}") as database:
        for n in range(2):
            fresh = {
                questions.JOB: f"job_{n}",
                questions.UNIT: f"{n}",
                questions.MESSAGE: f"{n}",
                questions.REQUEST: f"{n}",
            }
            (row,) = await database.query(*asked.place.filled(fresh))
            assert row["ahead"] == n
            await database.execute(*asked.claim.filled(fresh))
            await database.transact([one.filled(fresh) for one in asked.create])

    def stored() -> list[tuple[str, int]]:
        with sqlite3.connect(path) as connection:
            jobs = connection.execute("SELECT id FROM jobs WHERE state = 'queued' ORDER BY id")
            answered = "SELECT COUNT(*) FROM idempotent_requests WHERE status = 202"
            (count,) = connection.execute(answered).fetchone()
            return [(str(ident), count) for (ident,) in jobs]

    assert await asyncio.to_thread(stored) == [("job_0", 2), ("job_1", 2)]

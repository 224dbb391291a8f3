"""Bare aiomysql: a pool as everyone opens it, and transactions with the statements of a unit."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiomysql
from yarl import URL

from benchmarks.child import Measured

POOL = 20
CEILING = (
    f"MariaDB's ceiling: the same four statements in a transaction each, bare aiomysql on {POOL} "
    "connections."
)
MOVE = (
    "UPDATE tasks SET version = version + 1, updated_at = UTC_TIMESTAMP(6), "
    "line_count = line_count + 1, lease_until = NULL, state = %s WHERE id = %s AND state = %s"
)
LINE = (
    "INSERT INTO timeline (kind, object_id, n, at, type, state, detail, data, user_id) "
    "SELECT 'task', id, line_count, UTC_TIMESTAMP(6), 'status', %s, '', '{}', user_id "
    "FROM tasks WHERE id = %s"
)
SEEN = "INSERT INTO inbox (id, consumer, message_id, at) VALUES (%s, %s, %s, UTC_TIMESTAMP(6))"
SENT = (
    "INSERT INTO outbox (id, message_id, app_id, topic, kind, body, trace_id, attempt, due_at, "
    "publish_after, created_at) VALUES (%s, %s, 'limner', 'status.check', 'command', %s, %s, 1, "
    "UTC_TIMESTAMP(6), UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))"
)
BODY = b'{"task_id":"task_000","round":1,"n":1}'


async def commit(database_url: str, units: int, at_once: int, tasks: int) -> Measured:
    """Commit ``units`` transactions, ``at_once`` at the same time, each task in its turn.

    Raises:
        RuntimeError: a guard did not hold.
    """
    async with pooled(database_url) as pool:
        rounds = [iter(range(lane, units, at_once)) for lane in range(at_once)]

        async def one_by_one(lane: int) -> None:
            for n in rounds[lane]:
                turn, task = divmod(n, tasks)
                states = ("unknown", "running") if turn % 2 == 0 else ("running", "unknown")
                await _one(pool, f"task_{task:03}", *states, n)

        cpu_s, started = time.process_time(), time.perf_counter()
        await asyncio.gather(*(one_by_one(lane) for lane in range(at_once)))
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "cpu_ms": (time.process_time() - cpu_s) / units * 1000}


async def _one(pool: Any, task: str, to: str, expected: str, n: int) -> None:
    async with pool.acquire() as connection, connection.cursor() as cursor:
        await connection.begin()
        try:
            await cursor.execute(SEEN, (f"{n:064x}", "status", f"{n:032x}"))
            changed = await cursor.execute(MOVE, (to, task, expected))
            if not changed:
                raise RuntimeError(f"{task} is not {expected}")
            await cursor.execute(LINE, (to, task))
            await cursor.execute(SENT, (f"{n:032x}", f"{n:032x}", BODY, f"{n:032x}"))
            await connection.commit()
        except BaseException:
            await connection.rollback()
            raise


@asynccontextmanager
async def pooled(database_url: str) -> AsyncIterator[Any]:
    """Open a pool of ``POOL`` connections for the time of a block."""
    url = URL(database_url)
    pool = await aiomysql.create_pool(
        host=url.host,
        port=url.port,
        user=url.user,
        password=url.password,
        db=url.path[1:],
        autocommit=True,
        minsize=POOL,
        maxsize=POOL,
    )
    try:
        yield pool
    finally:
        pool.close()
        await pool.wait_closed()

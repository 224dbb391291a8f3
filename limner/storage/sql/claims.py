"""Claims: queued jobs taken by one transaction, each under a lease with a raised token.

On a server the candidates' rows are locked and those that another worker has locked are passed
over, so that two workers never choose the same job and never wait for each other.
"""

from collections.abc import Callable, Sequence

from limner.core.failpoints import declare, step
from limner.storage.sql.changes import Guarded, Line
from limner.storage.sql.connection import Connection, FromNow
from limner.storage.sql.database import Database
from limner.storage.sql.finding import column_names, made
from limner.storage.sql.groups import Plan
from limner.storage.sql.jobs import QUEUED, RUNNING, Job

CLAIM = declare("jobs.claim")
CANDIDATES = 100
"""How many queued jobs of each priority a claim looks at."""

Choose = Callable[[list[Job]], Sequence[Job]]


async def claim_jobs(
    database: Database, choose: Choose, *, lease_s: float, worker_id: str
) -> list[Job]:
    """Take those of the queued jobs that ``choose`` names, and give them as they were.

    Only their ``token`` is the raised one. ``choose`` is given the ``CANDIDATES`` oldest jobs of
    each priority; it runs inside the transaction and must be quick.

    Raises:
        EngineUnavailable: the database does not answer. If only the answer to the commit was
            lost, the sweeper gives the jobs back after ``lease_s``.
    """
    if not await _is_any_queued(database):
        return []

    async def take(connection: Connection) -> list[Job]:
        chosen = list(choose(await _candidates(connection)))
        taken = [_taken(job, lease_s, worker_id) for job in chosen]
        await Plan.of(taken).apply(connection)
        return chosen

    async with step(CLAIM):
        claimed = await database.run(take)
    for job in claimed:
        job.token += 1
    return claimed


def _taken(job: Job, lease_s: float, worker_id: str) -> Guarded:
    held = {
        "state": RUNNING,
        "token": job.token + 1,
        "lease_until": FromNow(lease_s),
        "worker_id": worker_id,
        "attempts": job.attempts + 1,
    }
    return Guarded(job, {"state": (QUEUED,), "token": job.token}, held, [Line("status", RUNNING)])


async def _is_any_queued(database: Database) -> bool:
    """Look with the readers first, so that an idle worker never takes the write lock."""
    return bool(
        await database.read().query("SELECT id FROM jobs WHERE state = ? LIMIT 1", [QUEUED])
    )


async def _candidates(connection: Connection) -> list[Job]:
    """Give the oldest jobs of each priority, highest priority first, and lock them."""
    jobs: list[Job] = []
    level = await _next_priority(connection, None)
    while level is not None:
        rows = await connection.query(
            f"SELECT {column_names(Job)} FROM jobs WHERE state = ? AND priority = ? "  # noqa: S608
            f"ORDER BY created_at, id LIMIT {CANDIDATES}{connection.skip_locked}",
            [QUEUED, level],
        )
        jobs += [made(Job, row) for row in rows]
        level = await _next_priority(connection, level)
    return jobs


async def _next_priority(connection: Connection, below: int | None) -> int | None:
    """Give the highest priority that waits, below the given one: one look into the index."""
    lower, values = ("", [QUEUED]) if below is None else (" AND priority < ?", [QUEUED, below])
    rows = await connection.query(
        f"SELECT MAX(priority) AS level FROM jobs WHERE state = ?{lower}",  # noqa: S608
        values,
    )
    level = rows[0]["level"]
    return None if level is None else int(level)

"""Generation jobs: claimed from this table under a lease, never carried in a message."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar

from tortoise import fields

from limner.core.ids import new_id
from limner.core.unit import UnitOfWork
from limner.storage.sql.aggregate import ID_LENGTH, Leased
from limner.storage.sql.database import Database

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = (
    "queued",
    "running",
    "succeeded",
    "failed",
    "cancelled",
)

PRIORITY_S = 120.0
"""A point of priority weighs as much as so many seconds of waiting: nobody is passed for ever."""

COUNTED = 5_000
"""How far a queue is counted to tell a place in it."""


class Job(Leased):
    """What to generate, how, for whom, and what came out."""

    kind: ClassVar[str] = "job"
    has_timeline: ClassVar[bool] = True
    transitions: ClassVar[dict[str, frozenset[str]]] = {
        QUEUED: frozenset({RUNNING, FAILED, CANCELLED}),
        RUNNING: frozenset({QUEUED, SUCCEEDED, FAILED, CANCELLED}),
        SUCCEEDED: frozenset(),
        FAILED: frozenset(),
        CANCELLED: frozenset(),
    }

    line_count = fields.IntField(default=1)
    media = fields.CharField(16, default="image")
    task_id = fields.CharField(ID_LENGTH, null=True, db_index=True)
    prompt = fields.CharField(2000)
    negative_prompt = fields.CharField(2000, default="")
    width = fields.IntField(default=256)
    height = fields.IntField(default=256)
    steps = fields.IntField(default=8)
    guidance = fields.FloatField(default=2.0)
    seed = fields.BigIntField(default=0)
    count = fields.IntField(default=1)
    frames = fields.IntField(default=0)
    fps = fields.IntField(default=0)
    model = fields.CharField(255, default="builtin")
    model_hash = fields.CharField(64, default="")
    priority = fields.IntField(default=0)
    attempts = fields.IntField(default=0)
    progress = fields.FloatField(default=0.0)
    outputs: list[dict[str, object]] = fields.JSONField(default=list)
    warnings: list[str] = fields.JSONField(default=list)
    cost = fields.IntField(default=0)
    worker_id = fields.CharField(128, default="")
    device = fields.CharField(32, default="")
    seconds = fields.FloatField(default=0.0)
    error = fields.CharField(1000, default="")
    cancel_requested = fields.BooleanField(default=False)

    class Meta:
        table = "jobs"
        indexes = (("state", "priority", "created_at"), ("user_id", "created_at"))


def claim_weight(job: Job, now: datetime) -> float:
    """Give how urgent a queued job is: the heavier is claimed first."""
    return (now - job.created_at).total_seconds() + job.priority * PRIORITY_S


def create_job(
    work: UnitOfWork,
    columns: Mapping[str, Any],
    *,
    user_id: str | None,
    ident: str | None = None,
    task_id: str | None = None,
    trace_id: str = "",
) -> Job:
    """Add a queued job in ``work``; ``columns`` say what to make. Its claimer is to be rung."""
    job = Job(
        id=ident or new_id("job"),
        state=QUEUED,
        user_id=user_id,
        task_id=task_id,
        trace_id=trace_id,
        **columns,
    )
    work.add(job)
    return job


def stop_job(work: UnitOfWork, job: Job, detail: str, **changes: Any) -> None:
    """End a job in ``work`` while it waits, or ask its worker to stop it at its next step.

    ``changes`` are of other columns, of a job that ends.
    """
    if job.state == QUEUED:
        work.move(job, expected=QUEUED, to=CANCELLED, detail=detail, **changes)
    else:
        work.change(job, guard={"state": RUNNING}, cancel_requested=True)


async def queue_position(database: Database, job: Job) -> int:
    """Give the place of a queued job, stored or not yet, in the order of claims, from 1.

    No more than ``COUNTED`` jobs are counted for each priority: behind them the place is only a
    lower bound, and the question stays cheap however long the queue is.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    count, values = _ahead(job, job.priority)
    # One question is enough as long as nobody waits with another priority.
    rows = await database.read().query(
        f"SELECT {count} AS ahead, "  # noqa: S608
        "(SELECT MAX(priority) FROM jobs WHERE state = ? AND priority > ?) AS above, "
        "(SELECT MAX(priority) FROM jobs WHERE state = ? AND priority < ?) AS below",
        [*values, QUEUED, job.priority, QUEUED, job.priority],
    )
    place = int(rows[0]["ahead"]) + 1
    if rows[0]["above"] is None and rows[0]["below"] is None:
        return place
    counts = [_ahead(job, level) for level in await _levels(database) if level != job.priority]
    rows = await database.read().query(
        f"SELECT {' + '.join(['0', *(count for count, _ in counts)])} AS ahead",
        [value for _, values in counts for value in values],
    )
    return place + int(rows[0]["ahead"])


def _ahead(job: Job, level: int) -> tuple[str, list[Any]]:
    """Give the expression that counts who of a priority comes before a job, and its values."""
    until = job.created_at + timedelta(seconds=(level - job.priority) * PRIORITY_S)
    # Equal weights: the claim takes the higher priority first, and then the smaller id.
    older = "created_at <= ?" if level > job.priority else "created_at < ?"
    count = (
        "(SELECT COUNT(*) FROM (SELECT 1 FROM jobs WHERE state = ? AND priority = ? "  # noqa: S608
        f"AND {older} LIMIT {COUNTED}) AS older)"
    )
    if level != job.priority:
        return count, [QUEUED, level, until]
    # Apart from the others, whom the index alone can count.
    same = (
        "(SELECT COUNT(*) FROM jobs WHERE state = ? AND priority = ? AND created_at = ? AND id < ?)"
    )
    return f"{count} + {same}", [QUEUED, level, until, QUEUED, level, until, job.id]


async def _levels(database: Database) -> list[int]:
    """Give the priorities that wait, each by one look into the index."""
    rows = await database.read().query(
        "WITH RECURSIVE levels (level) AS ("
        "SELECT MAX(priority) FROM jobs WHERE state = ? UNION ALL "
        "SELECT (SELECT MAX(priority) FROM jobs WHERE state = ? AND priority < level) "
        "FROM levels WHERE level IS NOT NULL) "
        "SELECT level FROM levels WHERE level IS NOT NULL",
        [QUEUED, QUEUED],
    )
    return [int(row["level"]) for row in rows]

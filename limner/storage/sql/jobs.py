"""Generation jobs: claimed from this table under a lease, never carried in a message."""

from datetime import datetime, timedelta
from typing import ClassVar

from tortoise import fields

from limner.storage.sql.aggregate import ID_LENGTH, Leased

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = (
    "queued",
    "running",
    "succeeded",
    "failed",
    "cancelled",
)

PRIORITY_S = 120.0
"""A point of priority weighs as much as so many seconds of waiting: nobody is passed for ever."""


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


async def queue_position(job: Job) -> int:
    """Give the place of a queued job in the order of claims, from 1."""
    ahead = 0
    for priority in await Job.filter(state=QUEUED).distinct().values_list("priority", flat=True):
        level = int(str(priority))
        until = job.created_at + timedelta(seconds=(level - job.priority) * PRIORITY_S)
        ahead += await Job.filter(state=QUEUED, priority=level, created_at__lt=until).count()
    return ahead + 1

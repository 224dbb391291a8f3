"""Schedules and their runs: (schedule, fire time) is unique, so that each time fires once."""

from datetime import datetime

from tortoise import fields
from tortoise.models import Model

from limner.core.errors import Conflict
from limner.core.ids import derived_id
from limner.core.unit import Units
from limner.storage.sql.aggregate import ID_LENGTH, STATE_LENGTH
from limner.storage.sql.connection import Connection


class Schedule(Model):
    """When something internal happens: every interval_s seconds with jitter, or by cron.

    ``topic`` and ``body`` are the command that is sent.
    """

    id = fields.CharField(ID_LENGTH, primary_key=True)
    name = fields.CharField(200, unique=True)
    subject_id = fields.CharField(ID_LENGTH, default="", db_index=True)
    cron = fields.CharField(120, default="")
    interval_s = fields.IntField(default=0)
    jitter_s = fields.FloatField(default=0.0)
    topic = fields.CharField(64)
    body = fields.BinaryField()
    enabled = fields.BooleanField(default=True)
    fire_at = fields.DatetimeField(db_index=True)
    created_at = fields.DatetimeField()

    class Meta:
        table = "schedules"


class ScheduleRun(Model):
    """One fire time of a schedule."""

    id = fields.CharField(ID_LENGTH, primary_key=True)
    schedule_id = fields.CharField(ID_LENGTH)
    fire_at = fields.DatetimeField()
    started_at = fields.DatetimeField()
    state = fields.CharField(STATE_LENGTH, default="fired")

    class Meta:
        table = "schedule_runs"
        unique_together = (("schedule_id", "fire_at"),)
        indexes = (("started_at",),)


async def ensure_schedule(
    units: Units, name: str, cron: str, topic: str, body: bytes, fire_at: datetime
) -> None:
    """Make a standing schedule if there is none of that name; change its cron if it differs."""
    existing = await Schedule.get_or_none(name=name)
    if existing is not None and existing.cron == cron:
        return
    work = units.open("scheduler")

    async def write(connection: Connection) -> None:
        await connection.execute("DELETE FROM schedules WHERE name = ?", [name])

    work.step(write)
    work.add(
        Schedule(
            id=derived_id("schedule", name),
            name=name,
            cron=cron,
            topic=topic,
            body=body,
            fire_at=fire_at,
            created_at=work.now,
        )
    )
    try:
        await units.commit(work)
    except Conflict:
        return  # another process was first

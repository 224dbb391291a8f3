"""The timeline: numbered, stored lines of what happened to an object; the source of SSE replay."""

from datetime import datetime

from tortoise import fields
from tortoise.models import Model

from limner.storage.sql.aggregate import ID_LENGTH, STATE_LENGTH, Aggregate
from limner.storage.sql.connection import Connection, marks

LINES_PER_DELETE = 1_000


class TimelineLine(Model):
    """Line n of an object, type is status, preview, log, error or done."""

    id = fields.BigIntField(primary_key=True)
    kind = fields.CharField(STATE_LENGTH)
    object_id = fields.CharField(ID_LENGTH)
    n = fields.IntField()
    at = fields.DatetimeField()
    type = fields.CharField(STATE_LENGTH)
    state = fields.CharField(STATE_LENGTH)
    detail = fields.CharField(1000, default="")
    data: dict[str, object] = fields.JSONField(default=dict)
    user_id = fields.CharField(ID_LENGTH, null=True)

    class Meta:
        table = "timeline"
        unique_together = (("object_id", "n"),)
        indexes = (("user_id", "id"), ("at",))


async def lines_after(object_id: str, n: int, limit: int = 1000) -> list[TimelineLine]:
    """Give the lines of an object with numbers greater than ``n``, ascending."""
    return await TimelineLine.filter(object_id=object_id, n__gt=n).order_by("n").limit(limit)


async def forget_lines(connection: Connection, model: type[Aggregate], before: datetime) -> int:
    """Delete the timelines of objects that have ended, and were last touched, before a time.

    They go whole: a stream of such an object tells nothing but its end. A bounded number per
    transaction; gives how many lines there were.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    ended, table, total = sorted(model.ended_states()), model._meta.db_table, 0
    while True:
        removed = await connection.execute(
            "DELETE FROM timeline WHERE id IN (SELECT id FROM (SELECT line.id FROM timeline line "  # noqa: S608
            f"JOIN {table} owner ON owner.id = line.object_id WHERE line.at < ? "
            f"AND owner.updated_at < ? AND owner.state IN ({marks(ended)}) "
            f"LIMIT {LINES_PER_DELETE}) AS old)",
            [before, before, *ended],
        )
        total += removed
        if removed < LINES_PER_DELETE:
            return total

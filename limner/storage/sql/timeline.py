"""The timeline: numbered, stored lines of what happened to an object; the source of SSE replay."""

from tortoise import fields
from tortoise.models import Model

from limner.storage.sql.aggregate import ID_LENGTH, STATE_LENGTH


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

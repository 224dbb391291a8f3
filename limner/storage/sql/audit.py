"""The audit log: every line is sealed into a hash chain, in batches, by the sweeper."""

from tortoise import fields
from tortoise.models import Model

from limner.storage.sql.aggregate import ID_LENGTH, TRACE_LENGTH


class AuditLine(Model):
    """Who did what to which object, seq and hash are null until it is sealed."""

    id = fields.CharField(ID_LENGTH, primary_key=True)
    at = fields.DatetimeField(db_index=True)
    event = fields.CharField(64, db_index=True)
    actor = fields.CharField(ID_LENGTH, default="")
    subject = fields.CharField(ID_LENGTH, default="", db_index=True)
    request_id = fields.CharField(64, default="")
    trace_id = fields.CharField(TRACE_LENGTH, default="")
    data: dict[str, object] = fields.JSONField(default=dict)
    seq = fields.BigIntField(null=True, unique=True)
    hash = fields.CharField(64, default="")

    class Meta:
        table = "audit"

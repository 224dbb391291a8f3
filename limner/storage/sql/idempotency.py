"""Requests that were sent with an Idempotency-Key, and their answers, kept for a day.

The answer is encrypted: it may hold what is shown only once, such as a new API key.
"""

from tortoise import fields
from tortoise.models import Model

from limner.storage.sql.aggregate import ID_LENGTH


class IdempotentRequest(Model):
    """One key of one account: under way while it has a lease, answered when it has a status.

    The id is derived from account and key. ``token`` rises with every run.
    """

    id = fields.CharField(ID_LENGTH, primary_key=True)
    user_id = fields.CharField(ID_LENGTH, default="")
    fingerprint = fields.CharField(64)
    token = fields.IntField(default=1)
    lease_until = fields.DatetimeField()
    status = fields.IntField(null=True)
    answer_sealed = fields.BinaryField(null=True)
    created_at = fields.DatetimeField(db_index=True)

    class Meta:
        table = "idempotent_requests"

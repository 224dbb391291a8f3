"""Notifications: what a person shall see in the pages, until they have read it."""

from tortoise import fields
from tortoise.models import Model

from limner.storage.sql.aggregate import ID_LENGTH


class Notification(Model):
    """One thing to know, kind says which, data what it is about."""

    id = fields.CharField(ID_LENGTH, primary_key=True)
    user_id = fields.CharField(ID_LENGTH)
    kind = fields.CharField(64)
    subject = fields.CharField(ID_LENGTH, default="")
    data: dict[str, object] = fields.JSONField(default=dict)
    created_at = fields.DatetimeField()
    read_at = fields.DatetimeField(null=True)

    class Meta:
        table = "notifications"
        indexes = (("user_id", "created_at"), ("created_at",))

"""Links that a mail carries: verify an address, set a new password, change an address.

A row holds no token. The token is the row's id under our signature, made when the mail is
rendered, so that who reads the database cannot open any link.
"""

from typing import ClassVar

from tortoise import fields
from tortoise.models import Model

from limner.storage.sql.aggregate import ID_LENGTH


class ActionLink(Model):
    """A link for one use, for one person and one purpose."""

    VERIFY: ClassVar[str] = "verify-email"
    RESET: ClassVar[str] = "reset-password"
    CHANGE: ClassVar[str] = "change-email"

    id = fields.CharField(ID_LENGTH, primary_key=True)
    user_id = fields.CharField(ID_LENGTH, db_index=True)
    purpose = fields.CharField(24)
    email = fields.CharField(320, default="")
    created_at = fields.DatetimeField()
    expires_at = fields.DatetimeField(db_index=True)
    used_at = fields.DatetimeField(null=True)

    class Meta:
        table = "action_links"

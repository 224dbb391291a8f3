"""Recovery codes: each signs in once in place of a code of the authenticator."""

from tortoise import fields
from tortoise.models import Model

from limner.storage.sql.aggregate import ID_LENGTH


class RecoveryCode(Model):
    """A code, only its hash is stored."""

    id = fields.CharField(ID_LENGTH, primary_key=True)
    user_id = fields.CharField(ID_LENGTH)
    sha256 = fields.CharField(64)
    created_at = fields.DatetimeField()
    used_at = fields.DatetimeField(null=True)

    class Meta:
        table = "recovery_codes"
        unique_together = (("user_id", "sha256"),)

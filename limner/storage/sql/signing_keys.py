"""The keys that sign access tokens: shared by all processes, the private half encrypted."""

from tortoise import fields
from tortoise.models import Model

from limner.storage.sql.aggregate import ID_LENGTH


class SigningKey(Model):
    """An ES256 key pair, the id is the kid of the tokens it signs.

    Published from ``created_at``, signs from ``signs_from`` until the next one does, and is
    published until ``expires_at``.
    """

    id = fields.CharField(ID_LENGTH, primary_key=True)
    algorithm = fields.CharField(16, default="ES256")
    public: dict[str, object] = fields.JSONField()
    private_sealed = fields.BinaryField()
    created_at = fields.DatetimeField()
    signs_from = fields.DatetimeField()
    expires_at = fields.DatetimeField(null=True, db_index=True)

    class Meta:
        table = "signing_keys"

"""Accounts elsewhere that sign somebody in here, and sign-ins that are under way there."""

from tortoise import fields
from tortoise.models import Model

from limner.storage.sql.aggregate import ID_LENGTH


class Identity(Model):
    """An account at an OAuth provider that belongs to one of ours."""

    id = fields.CharField(ID_LENGTH, primary_key=True)
    user_id = fields.CharField(ID_LENGTH, db_index=True)
    provider = fields.CharField(16)
    issuer = fields.CharField(255)
    subject = fields.CharField(255)
    email = fields.CharField(320, default="")
    created_at = fields.DatetimeField()
    last_used_at = fields.DatetimeField(null=True)

    class Meta:
        table = "identities"
        unique_together = (("issuer", "subject"),)


class Authorization(Model):
    """A sign-in that was begun at a provider: state and browser by hash, used once.

    ``linking_user_id`` is who wants to link an identity, if that is what it is for.
    """

    id = fields.CharField(ID_LENGTH, primary_key=True)
    provider = fields.CharField(16)
    state_sha256 = fields.CharField(64, unique=True)
    browser_sha256 = fields.CharField(64)
    sealed = fields.BinaryField()
    redirect = fields.CharField(500, default="")
    linking_user_id = fields.CharField(ID_LENGTH, null=True)
    created_at = fields.DatetimeField()
    expires_at = fields.DatetimeField(db_index=True)
    used_at = fields.DatetimeField(null=True)

    class Meta:
        table = "authorizations"

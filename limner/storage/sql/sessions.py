"""Sessions: who is signed in where, and the refresh tokens of those who use access tokens."""

from typing import ClassVar

from tortoise import fields
from tortoise.models import Model

from limner.storage.sql.aggregate import ID_LENGTH


class Session(Model):
    """One signed-in browser or program, only the hash of a browser's token is stored.

    ``kind`` is web (a cookie) or token (access and refresh tokens).
    """

    WEB: ClassVar[str] = "web"
    TOKEN: ClassVar[str] = "token"  # noqa: S105 - a kind, no secret

    id = fields.CharField(ID_LENGTH, primary_key=True)
    user_id = fields.CharField(ID_LENGTH, db_index=True)
    kind = fields.CharField(8)
    sha256 = fields.CharField(64, null=True, unique=True)
    created_at = fields.DatetimeField()
    last_seen_at = fields.DatetimeField()
    idle_until = fields.DatetimeField()
    expires_at = fields.DatetimeField(db_index=True)
    revoked_at = fields.DatetimeField(null=True)
    revoked_because = fields.CharField(64, default="")
    signed_in_by = fields.CharField(32, default="")
    user_agent = fields.CharField(255, default="")
    address = fields.CharField(64, default="")

    class Meta:
        table = "sessions"


class RefreshToken(Model):
    """A refresh token of a session, used once, a second use revokes the session."""

    id = fields.CharField(ID_LENGTH, primary_key=True)
    session_id = fields.CharField(ID_LENGTH, db_index=True)
    user_id = fields.CharField(ID_LENGTH, db_index=True)
    sha256 = fields.CharField(64, unique=True)
    created_at = fields.DatetimeField()
    expires_at = fields.DatetimeField(db_index=True)
    used_at = fields.DatetimeField(null=True)

    class Meta:
        table = "refresh_tokens"

"""Accounts, their API keys, and the one-time links that sign the owner in."""

import base64
import hashlib
import hmac
import os
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, ClassVar

from tortoise import fields
from tortoise.models import Model

from limner.core.errors import Invalid, Unauthenticated
from limner.core.ids import derived_id, new_id
from limner.core.unit import Step, UnitOfWork, Units
from limner.storage.sql.aggregate import ID_LENGTH, Aggregate
from limner.storage.sql.changes import must_change
from limner.storage.sql.connection import Connection

OWNER_NAME = "Owner"
OWNER_ID = derived_id("user", "owner")
KEY_PREFIX = "lim_"
KEY_SHOWN_CHARACTERS = 12
SECRET_BYTES = 32
SIGN_IN_LINK_S = 30 * 60
USE_NOTED_EVERY_S = 60.0

ADMIN = "admin"
USER_SCOPES = frozenset(
    {
        "account:read",
        "account:write",
        "generate:read",
        "generate:write",
        "sources:read",
        "sources:write",
        "tasks:read",
        "tasks:write",
    }
)
ADMIN_SCOPES = frozenset(
    {
        ADMIN,
        "audit:read",
        "mailbox:read",
        "mailbox:write",
        "ops:read",
        "ops:write",
        "providers:read",
        "providers:write",
        "settings:read",
        "settings:write",
        "suppressions:read",
        "suppressions:write",
        "users:read",
        "users:write",
    }
)
SCOPES = USER_SCOPES | ADMIN_SCOPES
"""What a key can be allowed; the scope ``admin`` contains every other."""

ROLE_SCOPES = {"user": USER_SCOPES, "tutor": USER_SCOPES, "admin": SCOPES}


class User(Aggregate):
    """An account, the owner is the first, made by the first migration, without a password."""

    kind: ClassVar[str] = "user"
    transitions: ClassVar[dict[str, frozenset[str]]] = {
        "active": frozenset({"disabled", "deleted"}),
        "disabled": frozenset({"active", "deleted"}),
        "deleted": frozenset(),
    }

    email = fields.CharField(320, null=True, unique=True)
    name = fields.CharField(200, default="")
    role = fields.CharField(16, default="user")
    plan = fields.CharField(16, default="free")
    is_owner = fields.BooleanField(default=False)
    password_hash = fields.CharField(255, null=True)
    verified_at = fields.DatetimeField(null=True)
    language = fields.CharField(16, default="en")
    timezone = fields.CharField(64, default="UTC")
    avatar_key = fields.CharField(255, default="")
    defaults: dict[str, object] = fields.JSONField(default=dict)
    last_sign_in_at = fields.DatetimeField(null=True)
    totp_sealed = fields.BinaryField(null=True)
    totp_enabled_at = fields.DatetimeField(null=True)
    totp_last_step = fields.BigIntField(default=0)

    class Meta:
        table = "users"

    @property
    def is_verified(self) -> bool:
        """Whether the address is known to be theirs."""
        return self.verified_at is not None

    @property
    def confirmed_email(self) -> str | None:
        """The account's address, if it is known to be theirs."""
        return self.email if self.is_verified else None

    @property
    def has_password(self) -> bool:
        """Whether a password signs in to the account."""
        return self.password_hash is not None

    @property
    def totp_enabled(self) -> bool:
        """Whether the second factor is in force."""
        return self.totp_enabled_at is not None


class ApiKey(Model):
    """A bearer key: only its prefix and SHA-256 are stored (256 random bits need no slow hash)."""

    id = fields.CharField(ID_LENGTH, primary_key=True)
    user_id = fields.CharField(ID_LENGTH, db_index=True)
    name = fields.CharField(200, default="")
    prefix = fields.CharField(16)
    sha256 = fields.CharField(64, unique=True)
    scopes: list[str] = fields.JSONField(default=list)
    created_at = fields.DatetimeField()
    last_used_at = fields.DatetimeField(null=True)
    expires_at = fields.DatetimeField(null=True)
    revoked_at = fields.DatetimeField(null=True)

    class Meta:
        table = "api_keys"


class SignInLink(Model):
    """A link that signs its user in once, only the hash of its token is stored."""

    id = fields.CharField(ID_LENGTH, primary_key=True)
    user_id = fields.CharField(ID_LENGTH)
    sha256 = fields.CharField(64, unique=True)
    expires_at = fields.DatetimeField()
    used_at = fields.DatetimeField(null=True)
    created_at = fields.DatetimeField()

    class Meta:
        table = "sign_in_links"


def new_user(email: str, **fields: Any) -> User:
    """Give an active account with an id of its own, still to be added; ``email`` in normal form."""
    ident = new_id("user")
    return User(id=ident, user_id=ident, state="active", email=email, **fields)


async def ensure_owner(units: Units) -> User:
    """Give the owner's account and make it first if there is none; any number may do so at once.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    owner = await User.get_or_none(id=OWNER_ID)
    if owner is not None:
        return owner
    work = units.open("accounts")

    async def write(connection: Connection) -> None:
        await connection.execute(
            f"{connection.insert_or_ignore} users (id, user_id, trace_id, state, version, "
            "created_at, updated_at, name, role, plan, is_owner) "
            "VALUES (?, ?, '', 'active', 1, ?, ?, ?, ?, 'free', ?)",
            [OWNER_ID, OWNER_ID, work.now, work.now, OWNER_NAME, ADMIN, True],
        )

    work.step(write)
    await units.commit(work)
    return await User.get(id=OWNER_ID)


def effective_scopes(user: User, granted: frozenset[str] | None = None) -> frozenset[str]:
    """Give what a caller may do: the role's scopes, cut down to those of the key, if there is one.

    The scope ``admin`` of a key stands for all scopes of its account's role.
    """
    role = ROLE_SCOPES.get(user.role, frozenset())
    return role if granted is None or ADMIN in granted else role & granted


def create_key(
    work: UnitOfWork,
    user: User,
    scopes: Collection[str],
    name: str = "",
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """Add a key in ``work``; give its row and the key itself, which is never shown again.

    The key is ``lim_`` and 256 random bits in base64url.

    Raises:
        Invalid: an unknown scope, or one that the account's role does not have.
    """
    allowed = ROLE_SCOPES.get(user.role, frozenset())
    faults = [
        (f"/scopes/{place}", f"{scope} is no scope that this account can give")
        for place, scope in enumerate(scopes)
        if scope not in allowed
    ]
    if faults or not scopes:
        raise Invalid(
            "these scopes cannot be given", faults=faults or [("/scopes", "at least one is needed")]
        )
    secret = KEY_PREFIX + new_secret()
    key = ApiKey(
        id=new_id("key"),
        user_id=user.id,
        name=name,
        prefix=secret[:KEY_SHOWN_CHARACTERS],
        sha256=digest(secret),
        scopes=sorted(set(scopes)),
        created_at=work.now,
        expires_at=expires_at,
    )
    work.add(key)
    work.audit("key.created", subject=key.id, data={"user": user.id, "scopes": key.scopes})
    return key, secret


def revoke_key(work: UnitOfWork, key: ApiKey) -> None:
    """Revoke a key in ``work``; it works no more from the commit on."""
    work.step(
        must_change(
            "UPDATE api_keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL",
            [work.now, key.id],
            stale="the key was revoked before",
        )
    )
    work.forget(key.id)
    work.audit("key.revoked", subject=key.id, data={"user": key.user_id})


async def find_key(secret: str, now: datetime) -> tuple[User, ApiKey]:
    """Give the account and the row of a bearer key.

    Raises:
        Unauthenticated: no such key, revoked, expired, or its account is not active.
    """
    wanted = digest(secret)
    key = await ApiKey.get_or_none(sha256=wanted)
    if key is None or not hmac.compare_digest(key.sha256, wanted) or not key_lives(key, now):
        raise Unauthenticated("the API key is not valid")
    return await active_user(key.user_id), key


def key_lives(key: ApiKey, now: datetime) -> bool:
    """Whether a key is neither revoked nor expired."""
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > now)


async def active_user(user_id: str) -> User:
    """Give an account that may sign in.

    Raises:
        Unauthenticated: there is none, or it is disabled or deleted.
    """
    user = await User.get_or_none(id=user_id)
    if user is None or user.state != "active":
        raise Unauthenticated("the account is not active")
    return user


def use_is_stale(key: ApiKey, now: datetime) -> bool:
    """Whether the last noted use of a key is so old that this one shall be noted."""
    used = key.last_used_at
    return used is None or (now - used).total_seconds() >= USE_NOTED_EVERY_S


async def note_use(connection: Connection, key: ApiKey, now: datetime) -> None:
    """Store that a key was used, unless another request of the last minute has done so."""
    before = now - timedelta(seconds=USE_NOTED_EVERY_S)
    await connection.execute(
        "UPDATE api_keys SET last_used_at = ? WHERE id = ? "
        "AND (last_used_at IS NULL OR last_used_at <= ?)",
        [now, key.id, before],
    )


def create_sign_in_link(work: UnitOfWork, user: User) -> str:
    """Add a link for one sign-in within 30 minutes in ``work``; give its token.

    The link is ``{public_url}/sign-in/{token}``.
    """
    token = new_secret()
    work.add(
        SignInLink(
            id=new_id("link"),
            user_id=user.id,
            sha256=digest(token),
            expires_at=work.now + timedelta(seconds=SIGN_IN_LINK_S),
            created_at=work.now,
        )
    )
    return token


async def find_sign_in_link(token: str, now: datetime) -> tuple[User, SignInLink]:
    """Give the account that a link signs in.

    Raises:
        Unauthenticated: no such link, used, expired, or its account is not active.
    """
    link = await SignInLink.get_or_none(sha256=digest(token))
    if link is None or link.used_at is not None or link.expires_at <= now:
        raise Unauthenticated("This sign-in link was used or has expired", code="link_expired")
    return await active_user(link.user_id), link


def spend_sign_in_link(link: SignInLink, now: datetime) -> Step:
    """Give the step that uses a link up; of two at the same time the second drops its unit."""
    return must_change(
        "UPDATE sign_in_links SET used_at = ? WHERE id = ? AND used_at IS NULL AND expires_at > ?",
        [now, link.id, now],
        stale="the link was used before",
    )


def new_secret() -> str:
    """Give 256 random bits as 43 characters of base64url."""
    return base64.urlsafe_b64encode(os.urandom(SECRET_BYTES)).rstrip(b"=").decode()


def digest(secret: str) -> str:
    """Give the SHA-256 of a secret, 64 hex digits."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()

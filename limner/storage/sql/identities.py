"""Accounts elsewhere that sign somebody in here, and sign-ins that are under way there."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from tortoise import fields
from tortoise.models import Model

from limner.core.errors import Stale
from limner.core.ids import new_id
from limner.core.unit import UnitOfWork
from limner.storage.sql.accounts import User, digest
from limner.storage.sql.aggregate import ID_LENGTH
from limner.storage.sql.changes import must_change
from limner.storage.sql.connection import Connection
from limner.storage.sql.notifications import notify

AUTHORIZATION_LIFE_S = 600


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


def begin_authorization(
    work: UnitOfWork,
    ident: str,
    provider: str,
    *,
    state: str,
    browser: str,
    sealed: bytes,
    redirect: str,
    linking_user_id: str | None,
) -> None:
    """Add a sign-in under way in ``work``, good for ten minutes; of secrets only hashes."""
    work.add(
        Authorization(
            id=ident,
            provider=provider,
            state_sha256=digest(state),
            browser_sha256=digest(browser),
            sealed=sealed,
            redirect=redirect,
            linking_user_id=linking_user_id,
            created_at=work.now,
            expires_at=work.now + timedelta(seconds=AUTHORIZATION_LIFE_S),
        )
    )


async def find_authorization(
    state: str, browser: str, provider: str, now: datetime
) -> Authorization | None:
    """Give the sign-in under way that ``state`` names, if this browser began it there lately."""
    row = await Authorization.get_or_none(state_sha256=digest(state))
    if row is None or row.used_at is not None or row.expires_at <= now:
        return None
    return row if row.provider == provider and row.browser_sha256 == digest(browser) else None


def spend_authorization(work: UnitOfWork, row: Authorization) -> None:
    """Use a sign-in under way up; of two at the same time the second drops its unit."""
    work.step(
        must_change(
            "UPDATE authorizations SET used_at = ? WHERE id = ? AND used_at IS NULL AND "
            "expires_at > ?",
            [work.now, row.id, work.now],
            stale="the sign-in was used before",
        )
    )


async def find_identity(issuer: str, subject: str) -> Identity | None:
    """Give the identity, whosever it is; names are compared by every letter and case."""
    row = await Identity.get_or_none(issuer=issuer, subject=subject)
    return row if row is not None and (row.issuer, row.subject) == (issuer, subject) else None


def link_identity(
    work: UnitOfWork,
    user: User,
    provider: str,
    *,
    issuer: str,
    subject: str,
    email: str,
) -> Identity:
    """Add an identity to an account in ``work``, and tell its owner.

    A commit raises Conflict if the identity was linked meanwhile, to whomever.
    """
    row = Identity(
        id=new_id("identity"),
        user_id=user.id,
        provider=provider,
        issuer=issuer,
        subject=subject,
        email=email,
        created_at=work.now,
        last_used_at=work.now,
    )
    work.add(row)
    work.audit("identity.linked", subject=row.id, data={"user": user.id, "provider": provider})
    notify(work, user.id, "identity.linked", subject=row.id, data={"provider": provider})
    return row


def use_identity(work: UnitOfWork, row: Identity, email: str) -> None:
    """Note in ``work`` that an identity signs in; if it was unlinked meanwhile, drop the unit."""

    async def write(connection: Connection) -> None:
        # Asked first, because a server counts an update that changes nothing as none.
        if not await connection.query("SELECT id FROM identities WHERE id = ?", [row.id]):
            raise Stale("the identity was unlinked")
        await connection.execute(
            "UPDATE identities SET last_used_at = ?, email = ? WHERE id = ?",
            [work.now, email or row.email, row.id],
        )

    work.step(write)


async def is_last_way(user: User, row: Identity) -> bool:
    """Whether the account could not sign in any more without this identity."""
    others = await Identity.filter(user_id=user.id).exclude(id=row.id).exists()
    return not user.has_password and not others


def unlink_identity(work: UnitOfWork, user: User, row: Identity) -> None:
    """Remove an identity from its account in ``work``, and tell its owner.

    ``user`` is as it was when ``is_last_way`` was asked: two that are unlinked at the same time
    change the account both, so that one of the units is dropped and asks again.
    """
    work.change(user, guard={"version": user.version})
    work.step(
        must_change(
            "DELETE FROM identities WHERE id = ?",
            [row.id],
            stale="the identity was unlinked before",
        )
    )
    data: Mapping[str, str] = {"user": user.id, "provider": row.provider}
    work.audit("identity.unlinked", subject=row.id, data=data)
    notify(work, user.id, "identity.unlinked", subject=row.id, data={"provider": row.provider})

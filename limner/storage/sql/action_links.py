"""Links that a mail carries: verify an address, set a new password, change an address.

A row holds no token. The token is the row's id under our signature, made when the mail is
rendered, so that who reads the database cannot open any link.
"""

from datetime import datetime, timedelta
from typing import ClassVar

from tortoise import fields
from tortoise.models import Model

from limner.core.errors import Invalid, Unauthenticated
from limner.core.ids import new_id
from limner.core.unit import UnitOfWork
from limner.storage.sql.accounts import User
from limner.storage.sql.aggregate import ID_LENGTH
from limner.storage.sql.changes import must_change
from limner.storage.sql.connection import Connection, marks

RECENT_S = 3600.0
RECENT_LIMIT = 5
"""Links of one purpose that one account gets in an hour, or while they work if that is shorter:
whoever has many sent to somebody else leaves that person with one that works."""


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


LIFE_S = {ActionLink.VERIFY: 86_400.0, ActionLink.RESET: 1_800.0, ActionLink.CHANGE: 86_400.0}
"""Seconds that a link of each purpose works."""


def counted_since(purpose: str, now: datetime) -> datetime:
    """Give since when links, or mails, of a purpose count against their limit."""
    return now - timedelta(seconds=min(RECENT_S, LIFE_S.get(purpose, RECENT_S)))


def create_link(work: UnitOfWork, user: User, purpose: str, *, email: str = "") -> ActionLink:
    """Add a link in ``work`` and give it; ``email`` is where it goes if not to the account's.

    Raises:
        Invalid: neither the account nor the caller has an address.
    """
    address = email or user.email
    if not address:
        raise Invalid("the account has no mail address", code="no_email")
    link = ActionLink(
        id=new_id("link"),
        user_id=user.id,
        purpose=purpose,
        email=address,
        created_at=work.now,
        expires_at=work.now + timedelta(seconds=LIFE_S[purpose]),
    )
    work.add(link)
    return link


async def has_enough_links(user_id: str, purpose: str, now: datetime) -> bool:
    """Whether an account has been given as many links of a purpose as it gets."""
    since = counted_since(purpose, now)
    recent = ActionLink.filter(user_id=user_id, purpose=purpose, created_at__gt=since)
    return await recent.count() >= RECENT_LIMIT


async def find_link(ident: str, purpose: str, now: datetime) -> ActionLink:
    """Give a link that can still be used for a purpose.

    Raises:
        Unauthenticated: code ``link_expired``; there is none, it was used or has expired.
    """
    link = await ActionLink.get_or_none(id=ident)
    if link is None or link.purpose != purpose or link.used_at or link.expires_at <= now:
        raise spent()
    return link


def spent() -> Unauthenticated:
    """Give the error for a link that cannot be used any more."""
    return Unauthenticated("This link was used or has expired", code="link_expired")


def spend_link(work: UnitOfWork, link: ActionLink) -> None:
    """Use a link up in ``work``; of two uses at the same time the second drops its unit."""
    work.step(
        must_change(
            "UPDATE action_links SET used_at = ? WHERE id = ? AND used_at IS NULL "
            "AND expires_at > ?",
            [work.now, link.id, work.now],
            stale="the link was used before",
        )
    )


def void_links(work: UnitOfWork, user_id: str, *purposes: str) -> None:
    """Make all links of an account for some purposes useless in ``work``."""

    async def write(connection: Connection) -> None:
        await connection.execute(
            "UPDATE action_links SET used_at = ? WHERE user_id = ? "  # noqa: S608 - marks only
            f"AND purpose IN ({marks(purposes)}) AND used_at IS NULL",
            [work.now, user_id, *purposes],
        )

    work.step(write)

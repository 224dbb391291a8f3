"""Notifications: what a person shall see in the pages, until they have read it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from tortoise import fields
from tortoise.models import Model

from limner.core.ids import new_id
from limner.core.message import Event
from limner.core.unit import Step, UnitOfWork
from limner.storage.sql.aggregate import ID_LENGTH
from limner.storage.sql.connection import Connection, marks

CREATED = "notification.created"


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


def notify(
    work: UnitOfWork,
    user_id: str,
    kind: str,
    *,
    subject: str = "",
    data: Mapping[str, Any] | None = None,
) -> None:
    """Tell a person in ``work`` what has happened, and announce ``notification.created``.

    Args:
        work: the unit in which it happens; without its commit nobody is told.
        user_id: who shall know.
        kind: what has happened, as the audit log would name it, e.g. ``key.created``.
        subject: the id of the object it happened to.
        data: what a page needs to say it in words; no secrets and no other person's data.
    """
    row = Notification(
        id=new_id("notification"),
        user_id=user_id,
        kind=kind,
        subject=subject,
        data=dict(data or {}),
        created_at=work.now,
    )
    work.add(row)
    work.announce(
        Event(
            id=row.id,
            type=CREATED,
            at=work.now,
            user_id=user_id,
            subject={"kind": "notification", "id": row.id},
            data={"kind": kind, "subject": subject},
        )
    )


async def unread_count(user_id: str) -> int:
    """Give how many notifications of a person are unread."""
    return await Notification.filter(user_id=user_id, read_at=None).count()


def mark_read(user_id: str, idents: Sequence[str] | None, now: datetime) -> Step:
    """Give the step that marks a person's notifications as read; all of them if ``idents`` is None.

    What is read already, or somebody else's, stays as it is.
    """

    async def write(connection: Connection) -> None:
        sql = "UPDATE notifications SET read_at = ? WHERE user_id = ? AND read_at IS NULL"
        if idents is None:
            await connection.execute(sql, [now, user_id])
        elif idents:
            await connection.execute(f"{sql} AND id IN ({marks(idents)})", [now, user_id, *idents])

    return write

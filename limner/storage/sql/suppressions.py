"""Suppressions: addresses that must not be written to, and why."""

from datetime import datetime

from tortoise import fields
from tortoise.models import Model

from limner.core.errors import Stale
from limner.core.ids import new_id
from limner.core.unit import Step
from limner.storage.sql.aggregate import ID_LENGTH
from limner.storage.sql.database import Connection


class Suppression(Model):
    """One address, lower case, reason is unsubscribed, bounced, complained or manual."""

    id = fields.CharField(ID_LENGTH, primary_key=True)
    address = fields.CharField(320, unique=True)
    reason = fields.CharField(32)
    created_at = fields.DatetimeField()

    class Meta:
        table = "suppressions"


async def is_suppressed(address: str) -> bool:
    """Whether mail to ``address`` is refused."""
    return await Suppression.exists(address=address.lower())


def suppress(address: str, reason: str, now: datetime) -> Step:
    """Give the step that suppresses an address; that it is already is fine."""

    async def write(connection: Connection) -> None:
        await connection.execute(
            f"{connection.insert_or_ignore} suppressions (id, address, reason, created_at) "
            "VALUES (?, ?, ?, ?)",
            [new_id("suppression"), address.lower(), reason, now],
        )

    return write


def remove(row: Suppression) -> Step:
    """Give the step that takes a suppression back."""

    async def write(connection: Connection) -> None:
        gone = await connection.execute("DELETE FROM suppressions WHERE id = ?", [row.id])
        if not gone:
            raise Stale("the suppression was removed before")

    return write

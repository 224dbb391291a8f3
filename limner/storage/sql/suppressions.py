"""Suppressions: addresses that must not be written to, and why.

An address that was erased stays suppressed by its hash alone.
"""

from datetime import datetime

from tortoise import fields
from tortoise.models import Model

from limner.core.ids import new_id
from limner.core.unit import Step
from limner.storage.sql.accounts import digest
from limner.storage.sql.aggregate import ID_LENGTH
from limner.storage.sql.changes import must_change
from limner.storage.sql.connection import Connection

HASHED = "sha256:"


class Suppression(Model):
    """One address, lower case, or its hash, reason is unsubscribed, bounced, complained, manual."""

    id = fields.CharField(ID_LENGTH, primary_key=True)
    address = fields.CharField(320, unique=True)
    reason = fields.CharField(32)
    created_at = fields.DatetimeField()

    class Meta:
        table = "suppressions"


def hashed(address: str) -> str:
    """Give what stands for an address that was erased: ``sha256:`` and 64 hex digits."""
    return f"{HASHED}{digest(address.lower())}"


async def suppression_of(address: str) -> Suppression | None:
    """Give the row that suppresses ``address``, by itself or by its hash."""
    return await Suppression.filter(address__in=[address.lower(), hashed(address)]).first()


async def is_suppressed(address: str) -> bool:
    """Whether mail to ``address`` is refused."""
    return await suppression_of(address) is not None


def suppress(address: str, reason: str, now: datetime) -> Step:
    """Give the step that suppresses an address; that it is already is fine."""

    async def write(connection: Connection) -> None:
        if await connection.query(
            "SELECT id FROM suppressions WHERE address = ?", [hashed(address)]
        ):
            return
        await connection.execute(
            f"{connection.insert_or_ignore} suppressions (id, address, reason, created_at) "
            "VALUES (?, ?, ?, ?)",
            [new_id("suppression"), address.lower(), reason, now],
        )

    return write


def forget_address(address: str) -> Step:
    """Give the step that leaves of a suppressed address only its hash."""

    async def write(connection: Connection) -> None:
        mark = hashed(address)
        if await connection.query("SELECT id FROM suppressions WHERE address = ?", [mark]):
            await connection.execute(
                "DELETE FROM suppressions WHERE address = ?", [address.lower()]
            )
        else:
            await connection.execute(
                "UPDATE suppressions SET address = ? WHERE address = ?", [mark, address.lower()]
            )

    return write


def remove(row: Suppression) -> Step:
    """Give the step that takes a suppression back."""
    return must_change(
        "DELETE FROM suppressions WHERE id = ?",
        [row.id],
        stale="the suppression was removed before",
    )

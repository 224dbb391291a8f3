"""Recovery codes: each signs in once in place of a code of the authenticator.

A code has 120 random bits, so that a plain hash protects it (OWASP ASVS 5.0, 6.5.2).
"""

import base64
import os
import re

from tortoise import fields
from tortoise.models import Model

from limner.core.ids import new_id
from limner.core.unit import Step, UnitOfWork
from limner.storage.sql.accounts import User, digest
from limner.storage.sql.aggregate import ID_LENGTH
from limner.storage.sql.changes import must_change
from limner.storage.sql.connection import Connection

CODES = 10
CODE_BYTES = 15
GROUP_CHARACTERS = 4

_FORM = re.compile(r"[a-z2-7]{24}")


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


def new_codes(work: UnitOfWork, user_id: str) -> list[str]:
    """Replace a person's codes in ``work`` and give the new ones, which are never shown again.

    A code is 24 characters of base32 (RFC 4648 section 6, lower case) in groups of four.
    """
    work.step(drop_codes(user_id))
    codes = [base64.b32encode(os.urandom(CODE_BYTES)).decode().lower() for _ in range(CODES)]
    work.add(
        *(
            RecoveryCode(
                id=new_id("recovery"), user_id=user_id, sha256=digest(code), created_at=work.now
            )
            for code in codes
        )
    )
    return [_grouped(code) for code in codes]


def _grouped(code: str) -> str:
    starts = range(0, len(code), GROUP_CHARACTERS)
    return "-".join(code[start : start + GROUP_CHARACTERS] for start in starts)


def drop_second_factor(work: UnitOfWork, user: User) -> None:
    """Take the second factor of an account away in ``work``, with its recovery codes."""
    guard = {"state": ("active", "disabled")}
    work.change(user, guard=guard, totp_sealed=None, totp_enabled_at=None, totp_last_step=0)
    work.step(drop_codes(user.id))


def drop_codes(user_id: str) -> Step:
    """Give the step that deletes a person's codes."""

    async def write(connection: Connection) -> None:
        await connection.execute("DELETE FROM recovery_codes WHERE user_id = ?", [user_id])

    return write


async def unused_code(user_id: str, typed: str) -> RecoveryCode | None:
    """Give a person's unused code that ``typed`` is, whatever its case, spaces and dashes."""
    code = re.sub(r"[\s-]", "", typed).lower()
    if not _FORM.fullmatch(code):
        return None
    return await RecoveryCode.get_or_none(user_id=user_id, sha256=digest(code), used_at=None)


async def codes_left(user_id: str) -> int:
    """Give how many codes a person has left."""
    return await RecoveryCode.filter(user_id=user_id, used_at=None).count()


def use_code(work: UnitOfWork, code: RecoveryCode) -> None:
    """Use a code up in ``work``; of two units that use the same one the second is dropped."""
    work.step(
        must_change(
            "UPDATE recovery_codes SET used_at = ? WHERE id = ? AND used_at IS NULL",
            [work.now, code.id],
            stale="the recovery code was used before",
        )
    )

"""The keys that sign access tokens: shared by all processes, the private half encrypted.

The keys are a chain: each has one successor at most, whose id is derived from its own. Of any
number of processes that make the next key at once, one does; the others find its row.
"""

from datetime import datetime, timedelta

from tortoise import fields
from tortoise.models import Model

from limner.core.errors import Conflict, Stale
from limner.core.ids import derived_id
from limner.core.key_pairs import ALGORITHM, make_key_pair
from limner.core.sealing import Sealer
from limner.core.unit import UnitOfWork
from limner.storage.sql.aggregate import ID_LENGTH
from limner.storage.sql.changes import Insert
from limner.storage.sql.connection import Connection

PUBLISHED_AHEAD_S = 3600.0
"""Whoever keeps our key set for an hour at most has seen a key before anything is signed by it."""
KEPT_AFTER_S = 3600.0
"""An old key stays published for so long after its last signature; a token lives 15 minutes."""
ROTATED_AFTER_S = 24 * 3600.0
ALL_KEYS = "signing-keys"
"""What to forget when a key is added: memories of the key set name this beside its rows."""


class SigningKey(Model):
    """An ES256 key pair, the kid of its tokens is in its public half.

    Published from ``created_at``, signs from ``signs_from`` until the next one does, and is
    published until ``expires_at``.
    """

    id = fields.CharField(ID_LENGTH, primary_key=True)
    algorithm = fields.CharField(16, default=ALGORITHM)
    public: dict[str, object] = fields.JSONField()
    private_sealed = fields.BinaryField()
    created_at = fields.DatetimeField()
    signs_from = fields.DatetimeField()
    expires_at = fields.DatetimeField(null=True, db_index=True)

    class Meta:
        table = "signing_keys"


async def all_keys() -> list[SigningKey]:
    """Give the chain, oldest first; it is short, since the sweeper deletes what has ended."""
    return await SigningKey.all().order_by("created_at", "id")


def is_published(key: SigningKey, now: datetime) -> bool:
    """Whether tokens that a key signed are accepted now."""
    return key.expires_at is None or key.expires_at > now


async def newest_key() -> SigningKey | None:
    """Give the end of the chain."""
    return await SigningKey.all().order_by("-created_at", "-id").first()


def open_private(sealer: Sealer, key: SigningKey) -> bytes:
    """Give the private half.

    Raises:
        NotConfigured: it was sealed under another secret key.
    """
    return sealer.open(_sealed_as(key.id), bytes(key.private_sealed))


def add_key(
    work: UnitOfWork, sealer: Sealer, newest: SigningKey | None, *, ahead_s: float
) -> SigningKey:
    """Add the successor of ``newest`` in ``work``; it signs in ``ahead_s`` seconds.

    The keys before it end when their last tokens have. If another process adds one first, the
    unit is dropped.
    """
    ident = derived_id("sigkey", newest.id if newest else "first")
    public, private = make_key_pair()
    at = work.now
    if newest is not None:
        # The order of the chain holds whatever the clocks of two machines say.
        at = max(at, newest.created_at + timedelta(milliseconds=1))
    signs_from = work.now + timedelta(seconds=ahead_s)
    key = SigningKey(
        id=ident,
        public=public,
        private_sealed=sealer.seal(_sealed_as(ident), private),
        created_at=at,
        signs_from=signs_from,
    )

    async def write(connection: Connection) -> None:
        try:
            await Insert([key]).apply(connection)
        except Conflict:
            raise Stale("another process has made the next key") from None
        await connection.execute(
            "UPDATE signing_keys SET expires_at = ? WHERE id <> ? AND expires_at IS NULL",
            [signs_from + timedelta(seconds=KEPT_AFTER_S), ident],
        )

    work.step(write)
    work.forget(ALL_KEYS)
    work.audit("signing_key.made", subject=ident, data={"signs_from": signs_from.isoformat()})
    return key


def _sealed_as(ident: str) -> str:
    return f"signing_key/{ident}"

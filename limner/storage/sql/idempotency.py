"""Requests that were sent with an Idempotency-Key, and their answers, kept for a day.

The answer is encrypted: it may hold what is shown only once, such as a new API key. A row is a
marker while its request runs: it has a lease by the database's time, and a token that rises when
another run takes the request over. Every statement here is a transaction of its own but ``keep``,
which is part of the unit that makes the object.
"""

from dataclasses import dataclass

from tortoise import fields
from tortoise.models import Model

from limner.core.errors import Stale
from limner.core.unit import Step
from limner.storage.sql.aggregate import ID_LENGTH
from limner.storage.sql.connection import NOW, Connection, FromNow
from limner.storage.sql.database import Database

LEASE_S = 60.0
LOOKS = 3


class IdempotentRequest(Model):
    """One key of one account: under way while it has a lease, answered when it has a status.

    The id is derived from account and key. ``token`` rises with every run.
    """

    id = fields.CharField(ID_LENGTH, primary_key=True)
    user_id = fields.CharField(ID_LENGTH, default="")
    fingerprint = fields.CharField(64)
    token = fields.IntField(default=1)
    lease_until = fields.DatetimeField()
    status = fields.IntField(null=True)
    answer_sealed = fields.BinaryField(null=True)
    created_at = fields.DatetimeField(db_index=True)

    class Meta:
        table = "idempotent_requests"


@dataclass(frozen=True)
class Asked:
    """A request that shall be run once: its id, whose it is, and the hash of what it asks."""

    id: str
    user_id: str
    fingerprint: str


@dataclass(frozen=True)
class Run:
    """The right to run a request, as long as its marker has this token and no answer."""

    id: str
    token: int


@dataclass(frozen=True)
class Earlier:
    """A request of the same key that came before.

    ``status`` and ``sealed`` are None while it runs.
    """

    fingerprint: str
    status: int | None
    sealed: bytes | None


async def claim(database: Database, asked: Asked) -> Run | Earlier:
    """Give the right to run a request, or what is known of the earlier one of its key.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    writer = database.write()
    earlier: Earlier | None = None
    for _ in range(LOOKS):
        # A statement alone holds no lock that many of the same key could deadlock over.
        fresh = await writer.execute(
            f"{writer.insert_or_ignore} idempotent_requests "
            "(id, user_id, fingerprint, token, lease_until, created_at) VALUES (?, ?, ?, 1, ?, ?)",
            [asked.id, asked.user_id, asked.fingerprint, FromNow(LEASE_S), NOW],
        )
        if fresh:
            return Run(asked.id, 1)
        rows = await writer.query(
            "SELECT fingerprint, token, status, answer_sealed, lease_until > ? AS held "
            "FROM idempotent_requests WHERE id = ?",
            [NOW, asked.id],
        )
        if not rows:
            # Its run failed between the two statements, or its day was over.
            continue
        row = rows[0]
        earlier = Earlier(row["fingerprint"], row["status"], row["answer_sealed"])
        is_other = earlier.fingerprint != asked.fingerprint
        if earlier.status is not None or is_other or row["held"]:
            return earlier
        token = int(row["token"])
        if await _take_over(writer, Run(asked.id, token)):
            return Run(asked.id, token + 1)
    return earlier or Earlier(asked.fingerprint, None, None)


async def _take_over(writer: Connection, dead: Run) -> bool:
    """Run again what a process that died was running; of many who try, one does."""
    return bool(
        await writer.execute(
            "UPDATE idempotent_requests SET token = token + 1, lease_until = ? "
            "WHERE id = ? AND token = ? AND status IS NULL AND lease_until <= ?",
            [FromNow(LEASE_S), dead.id, dead.token, NOW],
        )
    )


async def renew(database: Database, run: Run) -> bool:
    """Hold a request for another ``LEASE_S`` seconds; False if another run has taken it over.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    return bool(
        await database.write().execute(
            "UPDATE idempotent_requests SET lease_until = ? "
            "WHERE id = ? AND token = ? AND status IS NULL",
            [FromNow(LEASE_S), run.id, run.token],
        )
    )


def keep(run: Run, status: int, sealed: bytes) -> Step:
    """Give the step that stores the answer; if another run took over, the unit is dropped."""

    async def write(connection: Connection) -> None:
        kept = await connection.execute(
            "UPDATE idempotent_requests SET status = ?, answer_sealed = ? "
            "WHERE id = ? AND token = ? AND status IS NULL",
            [status, sealed, run.id, run.token],
        )
        if not kept:
            raise Stale("another run of this request has taken over")

    return write


async def release(database: Database, run: Run) -> None:
    """Forget a request that has made nothing, so that it may be sent again, changed or not.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    await database.write().execute(
        "DELETE FROM idempotent_requests WHERE id = ? AND token = ? AND status IS NULL",
        [run.id, run.token],
    )

"""The tables that make messages happen once: outbox, inbox, dead letters."""

import hashlib

from tortoise import fields
from tortoise.models import Model

from limner.core.errors import Stale
from limner.core.message import Envelope
from limner.core.unit import UnitOfWork
from limner.storage.sql.aggregate import ID_LENGTH, STATE_LENGTH, TRACE_LENGTH
from limner.storage.sql.connection import NOW, Connection

NAME_LENGTH = 255
TOPIC_LENGTH = 64
INBOX_LIFE_DAYS = 14
PUT_BACK = "put back"


class OutboxRow(Model):
    """A message that waits to be published or, with an embedded broker, to be handled.

    Until ``publish_after`` only the process that wrote the row publishes it; after that any relay
    may claim it. ``due_at`` is when it is meant to be handled at the earliest.
    """

    id = fields.CharField(ID_LENGTH, primary_key=True)
    message_id = fields.CharField(NAME_LENGTH)
    app_id = fields.CharField(NAME_LENGTH, default="")
    topic = fields.CharField(TOPIC_LENGTH)
    kind = fields.CharField(STATE_LENGTH, default="command")
    body = fields.BinaryField()
    trace_id = fields.CharField(TRACE_LENGTH, default="")
    attempt = fields.IntField(default=1)
    due_at = fields.DatetimeField()
    publish_after = fields.DatetimeField(db_index=True)
    created_at = fields.DatetimeField()

    class Meta:
        table = "outbox"


class InboxRow(Model):
    """A unit that has committed: the hash of (consumer, app_id, message_id, attempt)."""

    id = fields.CharField(64, primary_key=True)
    consumer = fields.CharField(STATE_LENGTH)
    message_id = fields.CharField(NAME_LENGTH, default="")
    at = fields.DatetimeField(db_index=True)

    class Meta:
        table = "inbox"


class DeadLetter(Model):
    """A message that could not be handled, with the reason, an operator retries or discards it."""

    id = fields.CharField(ID_LENGTH, primary_key=True)
    consumer = fields.CharField(STATE_LENGTH)
    topic = fields.CharField(TOPIC_LENGTH)
    message_id = fields.CharField(NAME_LENGTH)
    app_id = fields.CharField(NAME_LENGTH, default="")
    body = fields.BinaryField()
    attempt = fields.IntField()
    reason = fields.CharField(64)
    detail = fields.CharField(2000, default="")
    trace_id = fields.CharField(TRACE_LENGTH, default="")
    state = fields.CharField(STATE_LENGTH, default="open", db_index=True)
    created_at = fields.DatetimeField()
    settled_at = fields.DatetimeField(null=True)

    class Meta:
        table = "dead_letters"


def settle_dead_letter(work: UnitOfWork, letter: DeadLetter, *, again: bool) -> None:
    """Mark an open dead letter ``retried`` and send its message anew, or mark it ``discarded``.

    The message goes out as a first attempt under a fresh id: it is a person's decision, not a
    repetition. A letter that has been settled before drops the unit (Stale).
    """

    async def mark(connection: Connection) -> None:
        changed = await connection.execute(
            "UPDATE dead_letters SET state = ?, settled_at = ? WHERE id = ? AND state = 'open'",
            ["retried" if again else "discarded", NOW, letter.id],
        )
        if not changed:
            raise Stale(f"{letter.id} has been settled before")

    work.step(mark)
    work.follow(letter.trace_id)
    if again:
        work.send_stored(letter.topic, bytes(letter.body))
    work.audit(f"dead_letter.{'retried' if again else 'discarded'}", subject=letter.id)


def put_back(work: UnitOfWork, envelope: Envelope, reason: str, *, after_s: float) -> None:
    """Have a message that the broker gave up come again as its next attempt, once.

    ``work`` is a unit of its consumer with that message: taking the key of the attempt that was
    given up, it puts nothing back that was handled after all. A row of the inbox remembers it
    whatever the attempt; the second time, the commit raises Conflict.
    """
    key = hashlib.sha256("\x1f".join((PUT_BACK, envelope.app_id, envelope.message_id)).encode())

    async def mark(connection: Connection) -> None:
        await connection.execute(
            "INSERT INTO inbox (id, consumer, message_id, at) VALUES (?, ?, ?, ?)",
            [key.hexdigest(), PUT_BACK, envelope.message_id[:NAME_LENGTH], NOW],
        )

    work.step(mark)
    work.retry(reason, after_s=after_s)

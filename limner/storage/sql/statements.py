"""The statements of a unit: its key, its changes, its messages, its fate.

With an embedded broker the outbox row is the message: the consumer's unit deletes it, and that is
dedup, acknowledgement and durability in one. With a durable broker a row of the inbox is written.
"""

from typing import TYPE_CHECKING

from tortoise.exceptions import IntegrityError

from limner.core.ids import derived_id, uuid7
from limner.core.message import OWN_APP_ID, Envelope
from limner.core.unit import Again, Dead
from limner.storage.sql.changes import Insert
from limner.storage.sql.database import NOW, Connection, FromNow
from limner.storage.sql.messaging import DeadLetter, InboxRow

if TYPE_CHECKING:
    from limner.storage.sql.unit import SqlUnit

PUBLISH_GRACE_S = 5.0
DETAIL_LENGTH = 2000


class UnitWriter:
    """Writes units into an open transaction."""

    def __init__(self, *, durable_broker: bool) -> None:
        self._durable_broker = durable_broker

    async def apply(self, connection: Connection, unit: "SqlUnit") -> None:
        """Write everything the unit collected, in order, then its messages and its fate."""
        for change in unit.changes:
            await change.apply(connection)
        for envelope, after_s in unit.commands:
            await self._insert_outbox(connection, envelope, after_s)
        if self._durable_broker:
            for envelope in self._event_envelopes(unit):
                await self._insert_outbox(connection, envelope, 0)
        if unit.fate is not None and unit.envelope is not None:
            await self._write_fate(connection, unit, unit.envelope, unit.fate)

    async def take_key(self, connection: Connection, unit: "SqlUnit") -> bool:
        """Write the unit's own id, or take its message from the outbox; False if done before."""
        envelope = unit.envelope
        if envelope is not None and envelope.outbox_id and not self._durable_broker:
            taken = await self._take_outbox_row(connection, unit, envelope)
            if not taken or envelope.app_id == OWN_APP_ID:
                return taken
        row = InboxRow(
            id=unit.key,
            consumer=unit.consumer[:24],
            message_id=(envelope.message_id if envelope else "")[:255],
            at=unit.now,
        )
        values = [row.id, row.consumer, row.message_id, NOW]
        try:
            await connection.execute(
                "INSERT INTO inbox (id, consumer, message_id, at) VALUES (?, ?, ?, ?)", values
            )
        except IntegrityError:
            return False
        return True

    async def _take_outbox_row(
        self, connection: Connection, unit: "SqlUnit", envelope: Envelope
    ) -> bool:
        """Delete the consumed row, or move it on in place if the message shall come again."""
        if isinstance(unit.fate, Again):
            unit.moved_on = True
            return bool(
                await connection.execute(
                    "UPDATE outbox SET attempt = attempt + 1, due_at = ?, publish_after = ? "
                    "WHERE id = ? AND attempt = ?",
                    [
                        FromNow(unit.fate.after_s),
                        FromNow(unit.fate.after_s + self._grace_s(unit.fate.after_s)),
                        envelope.outbox_id,
                        envelope.attempt,
                    ],
                )
            )
        return bool(
            await connection.execute(
                "DELETE FROM outbox WHERE id = ? AND attempt = ?",
                [envelope.outbox_id, envelope.attempt],
            )
        )

    async def _write_fate(
        self, connection: Connection, unit: "SqlUnit", envelope: Envelope, fate: Again | Dead
    ) -> None:
        if isinstance(fate, Dead):
            await Insert([_dead_letter(unit, envelope, fate)]).apply(connection)
        elif not unit.moved_on:
            again = envelope.next_attempt()
            await self._insert_outbox(connection, again, fate.after_s, row_id=uuid7().hex)

    async def _insert_outbox(
        self, connection: Connection, envelope: Envelope, after_s: float, row_id: str = ""
    ) -> None:
        await connection.execute(
            "INSERT INTO outbox (id, message_id, app_id, topic, kind, body, trace_id, attempt, "
            "due_at, publish_after, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                row_id or envelope.outbox_id,
                envelope.message_id,
                envelope.app_id,
                envelope.topic,
                envelope.kind,
                envelope.body,
                envelope.trace_id,
                envelope.attempt,
                FromNow(after_s),
                FromNow(after_s + self._grace_s(after_s)),
                NOW,
            ],
        )

    @staticmethod
    def _grace_s(after_s: float) -> float:
        """How long only the writer may publish: it does so at once, unless the row is delayed."""
        return 0.0 if after_s > 0 else PUBLISH_GRACE_S

    def _event_envelopes(self, unit: "SqlUnit") -> list[Envelope]:
        return [
            Envelope(
                message_id=event.id,
                topic=event.type,
                body=event.to_bytes(),
                kind="event",
                trace_id=row.trace_id if row is not None else unit.trace_id,
                outbox_id=event.id,
                sent_at=event.at,
            )
            for row, event in unit.events
        ]

    def outgoing(self, unit: "SqlUnit") -> list[Envelope]:
        """Give what goes out at once: everything that is not delayed."""
        commands = [envelope for envelope, after_s in unit.commands if after_s <= 0]
        return [*commands, *self._event_envelopes(unit)]


def _dead_letter(unit: "SqlUnit", envelope: Envelope, fate: Dead) -> DeadLetter:
    return DeadLetter(
        id=derived_id("dead", unit.key),
        consumer=unit.consumer[:24],
        topic=envelope.topic[:64],
        message_id=envelope.message_id[:255],
        app_id=envelope.app_id[:255],
        body=envelope.body,
        attempt=envelope.attempt,
        reason=fate.reason[:64],
        detail=fate.detail[:DETAIL_LENGTH],
        trace_id=envelope.trace_id,
        state="open",
        created_at=unit.now,
    )

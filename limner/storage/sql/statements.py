"""The statements of a unit: its key, its changes, its messages, its fate.

With an embedded broker the outbox row is the message: the consumer's unit deletes it, and that is
dedup, acknowledgement and durability in one. With a durable broker a row of the inbox is written.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tortoise.exceptions import IntegrityError

from limner.core.ids import derived_id, uuid7_hex
from limner.core.message import OWN_APP_ID, Envelope, announced
from limner.core.unit import Again, Dead
from limner.storage.sql.aggregate import STATE_LENGTH
from limner.storage.sql.changes import ROWS_PER_INSERT, Insert, Statement
from limner.storage.sql.connection import NOW, Connection, FromNow
from limner.storage.sql.groups import Plan
from limner.storage.sql.messaging import NAME_LENGTH, DeadLetter

if TYPE_CHECKING:
    from limner.storage.sql.unit import SqlUnit

PUBLISH_GRACE_S = 5.0
DETAIL_LENGTH = 2000
INSERT_INBOX = "INSERT INTO inbox (id, consumer, message_id, at) VALUES"
OUTBOX_COLUMNS = (
    "id",
    "message_id",
    "app_id",
    "topic",
    "kind",
    "body",
    "trace_id",
    "attempt",
    "due_at",
    "publish_after",
    "created_at",
)


class UnitWriter:
    """Writes units into an open transaction."""

    def __init__(self, *, durable_broker: bool) -> None:
        self._durable_broker = durable_broker

    @property
    def merges(self) -> bool:
        """Whether units can be merged: with an embedded broker each takes its own message."""
        return self._durable_broker

    async def apply(self, connection: Connection, unit: "SqlUnit") -> None:
        """Write everything the unit collected, in order, then its messages and its fate."""
        for change in unit.changes:
            await change.apply(connection)
        for statement in _outbox_statements(_outbox_rows(unit)):
            await connection.execute(statement.sql, statement.values)
        letter = _letter(unit)
        if letter is not None:
            await Insert([letter]).apply(connection)

    def group(self, units: "Sequence[SqlUnit]") -> list[Statement]:
        """Give the merged statements of units, each ``mergeable``, for a durable broker.

        If one of them fails, or finds fewer rows than it must, some unit is at fault.
        """
        values = [value for unit in units for value in _inbox_row(unit)]
        every = ", ".join(["(?, ?, ?, ?)"] * len(units))
        made = [Statement(f"{INSERT_INBOX} {every}", values)]
        made += Plan.of(change for unit in units for change in unit.changes).statements()
        made += _outbox_statements([row for unit in units for row in _outbox_rows(unit)])
        letters = [letter for unit in units if (letter := _letter(unit)) is not None]
        return made + (Insert(letters).statements() if letters else [])

    async def take_key(self, connection: Connection, unit: "SqlUnit") -> bool:
        """Write the unit's own id, or take its message from the outbox; False if done before."""
        envelope = unit.envelope
        if envelope is not None and envelope.outbox_id and not self._durable_broker:
            taken = await self._take_outbox_row(connection, unit, envelope)
            if not taken or envelope.app_id == OWN_APP_ID:
                return taken
        try:
            await connection.execute(f"{INSERT_INBOX} (?, ?, ?, ?)", _inbox_row(unit))
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
                        FromNow(unit.fate.after_s + _grace_s(unit.fate.after_s)),
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

    def outgoing(self, unit: "SqlUnit") -> list[Envelope]:
        """Give what goes out at once: everything that is not delayed, and the events.

        Events are not stored: no state depends on them, and who missed one reads the timeline.
        """
        commands = [envelope for envelope, after_s in unit.commands if after_s <= 0]
        return [*commands, *_event_envelopes(unit)]


def _inbox_row(unit: "SqlUnit") -> tuple[Any, ...]:
    message_id = unit.envelope.message_id if unit.envelope else ""
    return unit.key, unit.consumer[:STATE_LENGTH], message_id[:NAME_LENGTH], NOW


def _outbox_rows(unit: "SqlUnit") -> list[tuple[Any, ...]]:
    rows = [_outbox_row(envelope, after_s) for envelope, after_s in unit.commands]
    if isinstance(unit.fate, Again) and unit.envelope is not None and not unit.moved_on:
        again = unit.envelope.next_attempt()
        rows.append(_outbox_row(again, unit.fate.after_s, row_id=uuid7_hex()))
    return rows


def _outbox_row(envelope: Envelope, after_s: float, row_id: str = "") -> tuple[Any, ...]:
    return (
        row_id or envelope.outbox_id,
        envelope.message_id,
        envelope.app_id,
        envelope.topic,
        envelope.kind,
        envelope.body,
        envelope.trace_id,
        envelope.attempt,
        FromNow(after_s),
        FromNow(after_s + _grace_s(after_s)),
        NOW,
    )


def _outbox_statements(rows: Sequence[tuple[Any, ...]]) -> list[Statement]:
    marks = f"({', '.join('?' * len(OUTBOX_COLUMNS))})"
    made = []
    for start in range(0, len(rows), ROWS_PER_INSERT):
        part = rows[start : start + ROWS_PER_INSERT]
        every = ", ".join([marks] * len(part))
        sql = f"INSERT INTO outbox ({', '.join(OUTBOX_COLUMNS)}) VALUES {every}"  # noqa: S608
        made.append(Statement(sql, [value for row in part for value in row]))
    return made


def _grace_s(after_s: float) -> float:
    """How long only the writer may publish: it does so at once, unless the row is delayed."""
    return 0.0 if after_s > 0 else PUBLISH_GRACE_S


def _event_envelopes(unit: "SqlUnit") -> list[Envelope]:
    return [
        announced(event, row.trace_id if row is not None else unit.trace_id)
        for row, event in unit.events
    ]


def _letter(unit: "SqlUnit") -> DeadLetter | None:
    if isinstance(unit.fate, Dead) and unit.envelope is not None:
        return _dead_letter(unit, unit.envelope, unit.fate)
    return None


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

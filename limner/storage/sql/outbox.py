"""The outbox: publishes what units have committed, and what a dead process left behind.

The writer offers its messages to the broker at once; whatever is not confirmed, and every delayed
message, is claimed later by a relay, which moves ``publish_after`` on so that two relays never
publish the same row at the same time.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from limner.core.broker import Broker, Outcome
from limner.core.clock import Clock
from limner.core.errors import EngineUnavailable, FailpointReached
from limner.core.failpoints import declare, step
from limner.core.logs import get_logger
from limner.core.message import Envelope
from limner.core.metrics import Metrics
from limner.storage.sql.database import NOW, Connection, Database, FromNow

CLAIM = declare("outbox.claim")
CLAIM_S = 30.0
CLAIM_ROWS = 500
TICK_S = 0.25

log = get_logger("outbox")


class Outbox:
    """One per process: offers, relays, and deletes what a durable broker has confirmed."""

    def __init__(self, database: Database, broker: Broker, clock: Clock, metrics: Metrics) -> None:
        self._database = database
        self._broker = broker
        self._clock = clock
        self._metrics = metrics
        self._running: set[asyncio.Task[None]] = set()

    async def offer(self, envelopes: list[Envelope]) -> None:
        """Publish now; never raises: what does not get through is the relay's."""
        if not envelopes:
            return
        if not self._broker.durable:
            await self._publish_safely(envelopes)
            return
        task = asyncio.create_task(self._publish_safely(envelopes))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _publish_safely(self, envelopes: Sequence[Envelope]) -> None:
        try:
            await self._publish(envelopes)
        except (EngineUnavailable, FailpointReached) as error:
            log.warning("left to the relay", messages=len(envelopes), error=error.detail)

    async def _publish(self, envelopes: Sequence[Envelope]) -> None:
        outcomes = await self._broker.publish(envelopes)
        confirmed = []
        for envelope, outcome in zip(envelopes, outcomes, strict=True):
            if outcome is Outcome.CONFIRMED:
                confirmed.append(envelope.outbox_id)
                exchange = f"limner.{envelope.kind}s"
                self._metrics.messages_published.labels(exchange, envelope.topic).inc()
            elif outcome is Outcome.UNROUTABLE:
                level = log.warning if self._broker.durable else log.debug
                level("no queue takes it", topic=envelope.topic)
        if self._broker.durable and confirmed:
            marks = ", ".join("?" * len(confirmed))
            await self._database.write().execute(
                f"DELETE FROM outbox WHERE id IN ({marks})",  # noqa: S608
                sorted(confirmed),
            )

    async def claim(self, limit: int = CLAIM_ROWS) -> list[Envelope]:
        """Take rows that are due, oldest first, by moving their ``publish_after`` on."""
        async with step(CLAIM), self._database.transaction() as connection:
            rows = await self._due(connection, limit)
            if rows:
                marks = ", ".join("?" * len(rows))
                await connection.execute(
                    f"UPDATE outbox SET publish_after = ? WHERE id IN ({marks})",  # noqa: S608
                    [FromNow(CLAIM_S), *(row["id"] for row in rows)],
                )
        return [_envelope(row) for row in rows]

    async def _due(self, connection: Connection, limit: int) -> list[dict[str, Any]]:
        skip = " FOR UPDATE SKIP LOCKED" if connection.dialect == "mysql" else ""
        return await connection.query(
            "SELECT id, message_id, app_id, topic, kind, body, trace_id, attempt, created_at "  # noqa: S608
            f"FROM outbox WHERE publish_after <= ? ORDER BY publish_after, id LIMIT ?{skip}",
            [NOW, limit],
        )

    async def relay_once(self) -> int:
        """Publish one batch of due rows and give how many there were.

        Raises:
            EngineUnavailable: database or broker do not answer; the rows stay claimed for 30 s.
        """
        if not await self._any_due():
            return 0
        envelopes = await self.claim()
        if envelopes:
            await self._publish(envelopes)
        return len(envelopes)

    async def _any_due(self) -> bool:
        """Look with the readers first, so that an idle relay never takes the write lock."""
        rows = await self._database.read().query(
            "SELECT id FROM outbox WHERE publish_after <= ? LIMIT 1", [NOW]
        )
        return bool(rows)

    async def relay(self, stop: asyncio.Event) -> None:
        """Relay until ``stop``; looks every ``TICK_S`` seconds, at once while batches are full."""
        while not stop.is_set():
            full = await self.relay_once() >= CLAIM_ROWS
            if not full:
                try:
                    await asyncio.wait_for(stop.wait(), TICK_S)
                except TimeoutError:
                    continue

    async def recover(self) -> None:
        """At an embedded start: nothing is in memory, so every message is due when it is due."""
        await self._database.write().execute(
            "UPDATE outbox SET publish_after = due_at WHERE publish_after <> due_at"
        )

    async def depth(self) -> int:
        """Give the number of rows."""
        rows = await self._database.read().query("SELECT COUNT(*) AS n FROM outbox")
        return int(rows[0]["n"])

    async def drain(self) -> None:
        """Wait for publishes in flight."""
        if self._running:
            await asyncio.gather(*tuple(self._running), return_exceptions=True)


def _envelope(row: dict[str, Any]) -> Envelope:
    created = row["created_at"]
    return Envelope(
        message_id=row["message_id"],
        topic=row["topic"],
        body=bytes(row["body"]),
        kind=row["kind"],
        app_id=row["app_id"],
        attempt=int(row["attempt"]),
        trace_id=row["trace_id"],
        outbox_id=row["id"],
        sent_at=datetime.fromisoformat(created) if isinstance(created, str) else created,
    )

"""The outbox: publishes what units have committed, and what a dead process left behind.

The writer offers its messages to the broker at once; whatever is not confirmed, and every delayed
message, is claimed later by a relay, which moves ``publish_after`` on so that two relays never
publish the same row at the same time.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from datetime import datetime
from typing import Any

from tortoise.exceptions import OperationalError

from limner.core.broker import Broker, Outcome
from limner.core.clock import Clock
from limner.core.errors import EngineUnavailable, FailpointReached, Transient
from limner.core.failpoints import declare, step
from limner.core.logs import get_logger
from limner.core.message import Envelope
from limner.core.metrics import Metrics
from limner.storage.sql.connection import NOW, Connection, FromNow, marks
from limner.storage.sql.database import Database

CLAIM = declare("outbox.claim")
CLAIM_S = 30.0
CLAIM_ROWS = 500
CLEAR_ROWS = 500
IN_FLIGHT = 2_000
TICK_S = 0.25
EXCHANGES = {"command": "limner.commands", "event": "limner.events"}

log = get_logger("outbox")


class Outbox:
    """One per process: offers, relays, and deletes what a durable broker has confirmed."""

    def __init__(self, database: Database, broker: Broker, clock: Clock, metrics: Metrics) -> None:
        self._database = database
        self._broker = broker
        self._clock = clock
        self._metrics = metrics
        self._running: set[asyncio.Task[None]] = set()
        self._gathered: list[Envelope] = []
        self._in_flight = 0
        self._confirmed: list[str] = []
        self._is_clearing = False

    async def offer(self, envelopes: list[Envelope]) -> None:
        """Publish now; never raises: what does not get through is the relay's.

        A durable broker is given what all units of one group have to say at once, and the caller
        goes on meanwhile; it waits only while ``IN_FLIGHT`` messages are not confirmed.
        """
        if not envelopes:
            return
        if not self._broker.durable:
            await self._publish_safely(envelopes)
            return
        while self._in_flight >= IN_FLIGHT:
            await asyncio.wait(tuple(self._running), return_when=asyncio.FIRST_COMPLETED)
        self._in_flight += len(envelopes)
        self._gathered += envelopes
        if len(self._gathered) == len(envelopes):
            self._spawn(self._publish_gathered())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _publish_gathered(self) -> None:
        envelopes, self._gathered = self._gathered, []
        try:
            await self._publish_safely(envelopes)
        finally:
            self._in_flight -= len(envelopes)

    async def _publish_safely(self, envelopes: Sequence[Envelope]) -> None:
        try:
            await self._publish(envelopes)
        except (EngineUnavailable, FailpointReached) as error:
            log.warning("left to the relay", messages=len(envelopes), error=error.detail)

    async def _publish(self, envelopes: Sequence[Envelope]) -> list[str]:
        """Publish, and give the rows of what found a full queue."""
        busy: list[str] = []
        outcomes = await self._broker.publish(envelopes)
        for envelope, outcome in zip(envelopes, outcomes, strict=True):
            if outcome is Outcome.CONFIRMED:
                if envelope.outbox_id:
                    self._confirmed.append(envelope.outbox_id)
                self._metrics.count_published(EXCHANGES[envelope.kind], envelope.topic)
            elif outcome is Outcome.UNROUTABLE:
                level = log.warning if self._broker.durable else log.debug
                level("no queue takes it", topic=envelope.topic)
            elif envelope.outbox_id:
                busy.append(envelope.outbox_id)
        if not self._broker.durable:
            self._confirmed.clear()
        elif self._confirmed and not self._is_clearing:
            self._is_clearing = True
            self._spawn(self._clear())
        return busy

    async def _clear(self) -> None:
        """Delete confirmed rows; what is confirmed while one statement runs is the next one's."""
        try:
            while self._confirmed:
                part = sorted(self._confirmed[:CLEAR_ROWS])
                del self._confirmed[:CLEAR_ROWS]
                await self._database.write().execute(
                    f"DELETE FROM outbox WHERE id IN ({marks(part)})",  # noqa: S608
                    part,
                )
        except (EngineUnavailable, Transient, OperationalError) as error:
            # The relay publishes these rows once more, and their consumers drop the repetition.
            log.warning("published rows are left to the relay", error=str(error))
        finally:
            self._is_clearing = False

    async def claim(self, limit: int = CLAIM_ROWS) -> list[Envelope]:
        """Take rows that are due, oldest first, by moving their ``publish_after`` on."""

        async def move_on(connection: Connection) -> list[dict[str, Any]]:
            rows = await self._due(connection, limit)
            if rows:
                await connection.execute(
                    f"UPDATE outbox SET publish_after = ? WHERE id IN ({marks(rows)})",  # noqa: S608
                    [FromNow(CLAIM_S), *(row["id"] for row in rows)],
                )
            return rows

        async with step(CLAIM):
            rows = await self._database.run(move_on)
        return [_envelope(row) for row in rows]

    async def _due(self, connection: Connection, limit: int) -> list[dict[str, Any]]:
        return await connection.query(
            "SELECT id, message_id, app_id, topic, kind, body, trace_id, attempt, created_at "  # noqa: S608
            "FROM outbox WHERE publish_after <= ? ORDER BY publish_after, id "
            f"LIMIT ?{connection.skip_locked}",
            [NOW, limit],
        )

    async def relay_once(self) -> int:
        """Publish one batch of due rows and give how many queues had room for.

        Raises:
            EngineUnavailable: database or broker do not answer; the rows stay claimed for 30 s.
        """
        if not await self._any_due():
            return 0
        envelopes = await self.claim()
        if not envelopes:
            return 0
        busy = await self._publish(envelopes)
        if busy:
            await self._put_back(busy)
        return len(envelopes) - len(busy)

    async def _put_back(self, busy: list[str]) -> None:
        """Let rows be claimed again soon: the queue was full, and nobody holds them."""
        await self._database.write().execute(
            f"UPDATE outbox SET publish_after = ? WHERE id IN ({marks(busy)})",  # noqa: S608
            [FromNow(TICK_S), *sorted(busy)],
        )

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
        """Wait for what is being published, and for the rows of what was."""
        while self._running:
            await asyncio.gather(*tuple(self._running), return_exceptions=True)


def _envelope(row: dict[str, Any]) -> Envelope:
    return Envelope(
        message_id=row["message_id"],
        topic=row["topic"],
        body=bytes(row["body"]),
        kind=row["kind"],
        app_id=row["app_id"],
        attempt=int(row["attempt"]),
        trace_id=row["trace_id"],
        outbox_id=row["id"],
        sent_at=datetime.fromisoformat(row["created_at"]),
    )

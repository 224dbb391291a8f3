"""Ringing: a row whose message is lost is sent it again.

With a durable broker the message in its queue is all that moves a row on, and a disk that is wiped
takes the queues with it. The broker is a doorbell, the database is the truth: what has stood still
while no queue, no row of the outbox and no dead letter carries its message is rung anew. One ring
too many is dropped by the guards of whoever hears it.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from limner.actors.intent.messages import Read
from limner.actors.mailer.messages import Deliver
from limner.actors.ports import Ports
from limner.actors.status.messages import Check
from limner.actors.submitter.messages import Submit
from limner.actors.submitter.rules import LOCAL
from limner.core.errors import Busy, EngineUnavailable
from limner.core.logs import get_logger
from limner.core.message import Message
from limner.storage.sql.connection import NOW, FromNow

log = get_logger("sweeper")

RING_EVERY_S = 30.0
RING_AFTER_S = 120.0
RING_AGAIN_S = 600.0
RING_ROWS = 200
CARRIER_ROWS = 10_000
CARRIER_BYTES = 512
"""Longer than any message that names a row; a foreign producer's may have a megabyte."""
RUNG_ROWS = 20_000
LOCK = "sweeper.ring"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """Rows of one table that wait for one message.

    ``columns`` give what the message needs, ``named`` the id in it. A row whose message does harm
    if it comes once too often is rung when it was found in two rounds (``twice``).
    """

    name: str
    message: type[Message]
    table: str
    columns: str
    where: str
    make: Callable[[Row], Message]
    twice: bool = False

    @property
    def actor(self) -> str:
        """Who takes the message: the first word of its topic."""
        return self.message.topic.partition(".")[0]


UNLEASED = "(lease_until IS NULL OR lease_until <= ?)"
KINDS = (
    Kind(
        "comments_new",
        Read,
        "comments",
        "id AS named",
        "state = 'new'",
        lambda row: Read(comment_id=row["named"]),
    ),
    Kind(
        "tasks_pending",
        Read,
        "tasks",
        "comment_id AS named",
        f"state = 'pending' AND {UNLEASED}",
        lambda row: Read(comment_id=row["named"]),
    ),
    Kind(
        "tasks_extracted",
        Submit,
        "tasks",
        "id AS named",
        f"state = 'extracted' AND {UNLEASED}",
        lambda row: Submit(task_id=row["named"]),
    ),
    # A check that goes on leaves its task as it is and sends the next one: while it is in
    # somebody's hand nothing tells it from a lost one, and a second chain would ask the provider
    # twice as often. A task of the generator waits for no message: the sweep sees its job end.
    Kind(
        "tasks_submitted",
        Check,
        "tasks",
        "id AS named, `round` AS in_round",
        f"state IN ('submitted', 'running') AND provider <> '{LOCAL}' AND {UNLEASED}",
        lambda row: Check(task_id=row["named"], round=int(row["in_round"])),
        twice=True,
    ),
    Kind(
        "deliveries_pending",
        Deliver,
        "deliveries",
        "id AS named",
        f"state = 'pending' AND {UNLEASED}",
        lambda row: Deliver(delivery_id=row["named"]),
    ),
)


@dataclass(frozen=True)
class Carriers:
    """Ids in messages that are kept: in the outbox, or among the dead since a certain time."""

    waiting: frozenset[str]
    dead_at: Mapping[str, datetime]

    def has(self, row: Row) -> bool:
        """Say whether the row's message is kept; a dead one, if the row stands still since."""
        dead_at = self.dead_at.get(row["named"])
        if dead_at is not None and dead_at >= datetime.fromisoformat(row["updated_at"]):
            return True
        return row["named"] in self.waiting

    def __len__(self) -> int:
        return len(self.waiting) + len(self.dead_at)


class Ringer:
    """Rings, and remembers in this process what it rang."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._rung_s: dict[tuple[str, str], float] = {}
        self._missed: dict[str, frozenset[str]] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Ring every ``RING_EVERY_S`` seconds until ``stop``; nothing where no broker is durable.

        Raises:
            EngineUnavailable: broker or database do not answer.
        """
        if not self._ports.broker.durable:
            # There the outbox row is the message, and stays until it is handled.
            await stop.wait()
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), RING_EVERY_S)
            except TimeoutError:
                await self.ring_alone()

    async def ring_alone(self) -> int:
        """Ring unless another process does so now, and give how many rows were rung.

        Two may ring all the same, one after the other: their handlers do once what both ask for.

        Raises:
            EngineUnavailable: broker or database do not answer.
        """
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._ports.cache.lock(LOCK, RING_EVERY_S))
            except Busy:
                return 0
            except EngineUnavailable as error:
                # The lock only spares work; without a cache nothing but rate limits may be amiss.
                log.debug("ringing without a lock", error=error.detail)
            return await self.ring()

    async def ring(self) -> int:
        """Ring once whatever has lost its message and give how many rows that were.

        Raises:
            EngineUnavailable: broker or database do not answer.
        """
        if not self._ports.broker.durable:
            return 0
        self._forget()
        # All are looked for before any is rung: two kinds wait for the same queue.
        lost = [(kind, await self._quiet(kind)) for kind in KINDS]
        counts = {kind.name: await self._send(kind, rows) for kind, rows in lost if rows}
        if counts:
            log.warning("rows had lost their messages; rung again", **counts)
        return sum(counts.values())

    async def _quiet(self, kind: Kind) -> Sequence[Row]:
        """Give what has lost its message; a queue that holds anything may hold just that."""
        if await self._is_queued(kind):
            return ()
        carriers = await self._carriers(kind.message.topic)
        if carriers is None:
            return ()
        lost = await self._lost(kind, carriers)
        if kind.twice:
            before, found = self._missed.get(kind.name, frozenset()), lost
            self._missed[kind.name] = frozenset(row["named"] for row in found)
            lost = [row for row in found if row["named"] in before]
        return () if not lost or await self._is_queued(kind) else lost

    async def _send(self, kind: Kind, rows: Sequence[Row]) -> int:
        work = self._ports.units.open("sweeper")
        for row in rows:
            work.send(kind.make(row))
        await self._ports.units.commit(work)
        now_s = self._ports.clock.monotonic()
        self._rung_s.update({(kind.name, row["named"]): now_s for row in rows})
        return len(rows)

    async def _is_queued(self, kind: Kind) -> bool:
        return (await self._ports.broker.depth(kind.actor)).ready > 0

    async def _lost(self, kind: Kind, carriers: Carriers) -> Sequence[Row]:
        """Give the oldest rows that stand still and have no message, ``RING_ROWS`` at most."""
        values: list[Any] = [FromNow(-RING_AFTER_S)]
        if UNLEASED in kind.where:
            values.insert(0, NOW)
        rows = await self._ports.database.read().query(
            f"SELECT {kind.columns}, updated_at FROM {kind.table} "  # noqa: S608 - our own words
            f"WHERE {kind.where} AND updated_at <= ? ORDER BY updated_at, id LIMIT ?",
            # So many that rows which are not lost can never hide the ones behind them.
            [*values, RING_ROWS + len(carriers) + len(self._rung_s)],
        )
        lost = [
            row
            for row in rows
            if (kind.name, row["named"]) not in self._rung_s and not carriers.has(row)
        ]
        return lost[:RING_ROWS]

    async def _carriers(self, topic: str) -> Carriers | None:
        """Read which ids the kept messages of a topic name; None if there are too many to read.

        A dead letter is a message in an operator's hand: ringing would only make one more. One
        that was sent again is a message like any other and may be lost.
        """
        reader = self._ports.database.read()
        limits = [topic, CARRIER_BYTES, CARRIER_ROWS + 1]
        waiting = await reader.query(
            "SELECT body FROM outbox WHERE topic = ? AND LENGTH(body) <= ? LIMIT ?", limits
        )
        dead = await reader.query(
            "SELECT body, created_at FROM dead_letters WHERE topic = ? AND LENGTH(body) <= ? "
            "AND state <> 'retried' ORDER BY created_at, id LIMIT ?",
            limits,
        )
        if max(len(waiting), len(dead)) > CARRIER_ROWS:
            log.warning("too many messages are kept to tell which rows lost theirs", topic=topic)
            return None
        dead_at = {
            name: datetime.fromisoformat(row["created_at"]) for row in dead for name in _named(row)
        }
        return Carriers(frozenset(name for row in waiting for name in _named(row)), dead_at)

    def _forget(self) -> None:
        """Forget what was rung long ago, and the oldest of too many."""
        before_s = self._ports.clock.monotonic() - RING_AGAIN_S
        # A key is never renewed while it is here: the dictionary has the order of time.
        for key, at_s in list(self._rung_s.items()):
            if at_s > before_s and len(self._rung_s) <= RUNG_ROWS:
                break
            del self._rung_s[key]


def _named(row: Row) -> list[str]:
    """Give the strings in a kept message: the id of the row it is about."""
    try:
        body = json.loads(bytes(row["body"]))
    except ValueError:
        return []
    values = body.values() if isinstance(body, dict) else ()
    return [value for value in values if isinstance(value, str)]

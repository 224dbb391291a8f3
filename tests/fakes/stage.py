"""A stage on which actors play message by message, so that a test sees every step.

``stage.act()`` takes what is due in the outbox to its fate, one message after the other, until
nothing is due: no loop runs in between and nothing waits. Messages for actors that are not on the
stage stay where they are and can be looked at with ``stage.waiting()``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from limner.actors.ports import Ports
from limner.core.actor import Actor, ActorLoop
from limner.core.clock import HeldClock
from limner.core.ids import uuid7
from limner.core.message import Envelope, Message
from limner.storage.sql.messaging import DeadLetter, OutboxRow

MOST_STEPS = 200


@dataclass(frozen=True)
class Waiting:
    """A message in the outbox: its topic, its body, which attempt it is and when it is due."""

    topic: str
    body: str
    attempt: int
    due_at: datetime


class Stage:
    """Some actors over real ports; ``timeout_s`` and ``max_attempts`` are the settings' part."""

    def __init__(
        self,
        ports: Ports,
        *actors: Actor[Any],
        timeout_s: float = 20.0,
        max_attempts: int = 4,
        concurrency: int = 4,
    ) -> None:
        self.ports = ports
        self.loops = {
            actor.name: ActorLoop(
                actor.with_defaults(
                    concurrency=concurrency, timeout_s=timeout_s, max_attempts=max_attempts
                ),
                ports.broker,
                ports.units,
                ports.clock,
                ports.metrics,
            )
            for actor in actors
        }

    async def keep(self, *rows: Any) -> None:
        """Store rows in a unit of their own."""
        work = self.ports.units.open("test")
        work.add(*rows)
        await self.ports.units.commit(work)

    async def send(self, *messages: Message) -> None:
        """Put commands into the outbox, as another actor's unit would."""
        work = self.ports.units.open("test")
        for message in messages:
            work.send(message)
        await self.ports.units.commit(work)

    async def tune(self, **changes: Any) -> None:
        """Change settings that change while it runs."""
        work = self.ports.units.open("test")
        await self.ports.tunables.put(work, changes, "test")
        await self.ports.units.commit(work)
        self.ports.tunables.forget()

    async def publish(
        self, message: Message | bytes, topic: str, *, message_id: str, app_id: str = "producer"
    ) -> None:
        """Take a foreign producer's message to its fate: no outbox row stands behind it."""
        body = message if isinstance(message, bytes) else message.to_bytes()
        envelope = Envelope(message_id, topic, body, app_id=app_id, trace_id=uuid7().hex)
        await self.loops[envelope.consumer].settle(envelope)

    async def act(self) -> int:
        """Take everything that is due to its fate and give how many messages that were."""
        for taken in range(MOST_STEPS):
            due = await self._due()
            if not due:
                return taken
            await self.loops[due[0].consumer].settle(due[0])
        raise AssertionError(f"{MOST_STEPS} messages and no end: {await self.waiting()}")

    async def act_later(self) -> float:
        """Move the held clock to the next message that is not due yet, act; give the seconds."""
        clock = self.ports.clock
        assert isinstance(clock, HeldClock)
        rows = [row for row in await OutboxRow.all() if _consumer(row) in self.loops]
        assert rows, "nothing is waiting"
        wait_s = (min(row.due_at for row in rows) - clock.now()).total_seconds()
        clock.advance(max(0.0, wait_s))
        await self.act()
        return wait_s

    async def _due(self) -> Sequence[Envelope]:
        rows = await OutboxRow.filter(due_at__lte=self.ports.clock.now()).order_by("due_at", "id")
        return [envelope_of(row) for row in rows if _consumer(row) in self.loops]

    async def waiting(self) -> list[Waiting]:
        """Give what is in the outbox, the next first."""
        rows = await OutboxRow.all().order_by("due_at", "id")
        return [Waiting(row.topic, row.body.decode(), row.attempt, row.due_at) for row in rows]

    async def dead(self) -> list[DeadLetter]:
        """Give the dead letters, oldest first."""
        return await DeadLetter.all().order_by("created_at", "id")


def envelope_of(row: OutboxRow) -> Envelope:
    """Give the envelope in which a relay would publish a row."""
    return Envelope(
        message_id=row.message_id,
        topic=row.topic,
        body=bytes(row.body),
        kind="event" if row.kind == "event" else "command",
        app_id=row.app_id,
        attempt=row.attempt,
        trace_id=row.trace_id,
        outbox_id=row.id,
        sent_at=row.created_at,
    )


def _consumer(row: OutboxRow) -> str:
    return row.topic.partition(".")[0]

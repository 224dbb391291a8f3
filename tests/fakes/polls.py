"""The poller at work, step by step: a loop whose messages a test takes one at a time."""

from collections.abc import Mapping
from typing import Any

from limner.actors.poller.actor import Poller
from limner.actors.poller.connector import Connector
from limner.actors.poller.connectors import CONNECTORS
from limner.actors.poller.messages import Poll
from limner.core.actor import Actor, ActorLoop
from limner.core.brokers.embedded import EmbeddedBroker
from limner.core.clock import HeldClock
from limner.core.ids import new_id
from limner.core.message import Envelope
from limner.core.metrics import Metrics
from limner.core.outgoing import Outgoing
from limner.core.unit import Commit
from limner.storage.sql.comments import Comment
from limner.storage.sql.database import Database
from limner.storage.sql.leases import Leases
from limner.storage.sql.messaging import DeadLetter, OutboxRow
from limner.storage.sql.outbox import Outbox
from limner.storage.sql.sources import Source, create_source
from limner.storage.sql.tunables import SecretStore
from limner.storage.sql.unit import SqlUnits

MOST_STEPS = 200


class Polls:
    """A poller over a database; ``crash`` forgets everything that only memory held."""

    def __init__(
        self,
        database: Database,
        clock: HeldClock,
        outgoing: Outgoing,
        *,
        max_attempts: int = 3,
        timeout_s: float = 30.0,
        connectors: Mapping[str, Connector] | None = None,
    ) -> None:
        self.database = database
        self.clock = clock
        self.metrics = Metrics("test")
        self.secrets = SecretStore(b"k" * 32)
        self.leases = Leases(database)
        if connectors is None:
            connectors = {name: kind(outgoing, self.secrets) for name, kind in CONNECTORS.items()}
        self.handler = Poller(connectors, self.leases)
        self.actor = Actor(
            name="poller",
            inbox=Poll,
            handler=self.handler,
            concurrency=4,
            timeout_s=timeout_s,
            max_attempts=max_attempts,
        )
        self._start()

    def _start(self) -> None:
        self.broker = EmbeddedBroker(self.clock)
        self.outbox = Outbox(self.database, self.broker, self.clock, self.metrics)
        self.units = SqlUnits(self.database, self.broker, self.clock, self.outbox.offer)
        self.loop = ActorLoop(self.actor, self.broker, self.units, self.clock, self.metrics)

    async def crash(self) -> None:
        """Lose broker and loop; the outbox offers again what it still has."""
        self._start()
        await self.broker.start(["poller"])
        await self.outbox.recover()
        await self.outbox.relay_once()

    async def source(self, connector: str, options: Mapping[str, Any], **fields: Any) -> Source:
        """Store a source with its schedule."""
        values = {"name": "a feed", "external_id": "n/42", "user_id": "user_1", **fields}
        source = Source(
            id=new_id("source"),
            state="active",
            connector=connector,
            options=dict(options),
            **values,
        )
        work = self.units.open("test")
        create_source(work, source, Poll(source_id=source.id))
        assert await self.units.commit(work) is Commit.DONE
        return await self.fresh(source)

    async def ask(self, source: Source) -> None:
        """Ask for a poll, as the schedule and the button do."""
        await self.broker.start(["poller"])
        work = self.units.open("test")
        work.send(Poll(source_id=source.id))
        assert await self.units.commit(work) is Commit.DONE

    async def take(self) -> Envelope | None:
        """Take the next message out of the queue without handling it."""
        if not (await self.broker.depth("poller")).ready:
            return None
        async with self.broker.consume("poller", 1) as deliveries:
            delivery = await anext(deliveries)
            await delivery.ack()
            return delivery.envelope

    async def step(self) -> bool:
        """Handle the next message; False if there is none."""
        envelope = await self.take()
        if envelope is not None:
            await self.loop.settle(envelope)
        return envelope is not None

    async def run(self) -> int:
        """Handle messages until there are none and give how many there were."""
        for done in range(MOST_STEPS):
            if not await self.step():
                return done
        raise AssertionError("the poll has no end")

    async def poll(self, source: Source) -> Source:
        """Do a whole poll, retries included, and give the source after it."""
        await self.ask(source)
        await self.run()
        while await OutboxRow.filter(topic=Poll.topic).exists():
            await self.later(61)
            await self.run()
        return await self.fresh(source)

    async def later(self, seconds: float) -> None:
        """Let time pass, and what has become due go out."""
        self.clock.advance(seconds)
        await self.outbox.relay_once()

    async def fresh(self, source: Source) -> Source:
        """Read the source anew."""
        found = await Source.found(source.id)
        assert found is not None
        return found

    async def ids(self, source: Source) -> list[str]:
        """Give the external ids of the stored comments, in the order they came in."""
        rows = await Comment.filter(source_id=source.id).order_by("id")
        return [row.external_id for row in rows]

    async def dead(self) -> list[tuple[str, str]]:
        """Give reason and detail of all dead letters."""
        return [(each.reason, each.detail) for each in await DeadLetter.all().order_by("id")]

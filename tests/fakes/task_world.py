"""A world for tasks: submitter and status actor over a real database, in time that a test moves.

``await world.run()`` handles what is due, message after message, and moves the held clock on to
the next one, until nothing is left for the two actors. What they send to others stays in the
outbox, where ``world.sent("mailer.deliver")`` finds it.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from limner.actors.ports import Ports
from limner.actors.status.actor import build as build_status
from limner.actors.submitter.actor import build as build_submitter
from limner.actors.submitter.messages import Reconcile, Submit
from limner.core.actor import ActorLoop
from limner.core.answers import Limits
from limner.core.brokers.embedded import EmbeddedBroker
from limner.core.clock import HeldClock
from limner.core.ids import new_id
from limner.core.llm import ChatModel
from limner.core.message import Envelope, Message
from limner.core.metrics import Metrics
from limner.core.outgoing import Outgoing
from limner.core.sealing import Sealer
from limner.core.settings import Settings
from limner.core.signing import Signer
from limner.storage.cache.memory import MemoryCache
from limner.storage.objects.local import LocalObjects
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.database import Database
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.jobs import Job
from limner.storage.sql.leases import Leases
from limner.storage.sql.messaging import DeadLetter
from limner.storage.sql.outbox import Outbox, _envelope
from limner.storage.sql.providers import Provider
from limner.storage.sql.tasks import Task
from limner.storage.sql.timeline import TimelineLine, lines_after
from limner.storage.sql.tunables import SecretStore, TunableStore
from limner.storage.sql.unit import SqlUnits

SECRET = b"0123456789abcdef0123456789abcdef"
MOST_MESSAGES = 200
LEASE_S = 15.0
LIMITS = Limits(total_s=0.5)


class World:
    """See the module."""

    def __init__(self, ports: Ports, clock: HeldClock) -> None:
        self.ports = ports
        self.clock = clock
        self.taken: list[tuple[str, dict[str, Any], datetime]] = []
        self._loops = {
            actor.name: ActorLoop(
                actor.with_defaults(concurrency=1, timeout_s=30, max_attempts=4),
                ports.broker,
                ports.units,
                clock,
                ports.metrics,
            )
            for actor in (build_submitter(ports, LIMITS), build_status(ports))
        }

    # Making things

    async def task(self, **columns: Any) -> Task:
        """Store a task, extracted unless told otherwise."""
        values = {
            "state": "extracted",
            "user_id": "user_1",
            "comment_id": new_id("comment"),
            "source_id": "source_1",
            "email": "wish@example.org",
            "prompt": "a red fox",
        }
        task = Task(id=new_id("task"), **{**values, **columns})
        await self._commit(task)
        return task

    async def provider(
        self, config: dict[str, Any], *, name: str = "acme", media: str = "both"
    ) -> Provider:
        """Store a provider and have the settings name it for everything."""
        row = Provider(id=new_id("provider"), state="active", name=name, media=media, config=config)
        await self._commit(row)
        await self.set(image_provider=name, video_provider=name)
        return row

    async def secret(self, name: str, value: str) -> None:
        """Store a secret."""
        work = self.ports.units.open("test")
        await self.ports.secrets.put(work, name, value, "test")
        await self.ports.units.commit(work)

    async def set(self, **changes: Any) -> None:
        """Change settings."""
        for name, value in changes.items():
            await self.ports.database.write().execute(
                "REPLACE INTO tunables (name, value, updated_at, updated_by) VALUES (?, ?, ?, '')",
                [name, json.dumps(value), self.clock.now()],
            )
        self.ports.tunables.forget()

    async def change(self, row: Any, **columns: Any) -> None:
        """Change columns of a row, whatever its state."""
        work = self.ports.units.open("test")
        work.change(row, **columns)
        await self.ports.units.commit(work)

    async def finish(self, job: Job, state: str, **columns: Any) -> None:
        """Do the generator's part: end a job."""
        work = self.ports.units.open("generator")
        work.move(job, expected="queued", to="running")
        if state != "running":
            work.move(job, expected="running", to=state, **columns)
        await self.ports.units.commit(work)

    async def send(self, message: Message) -> Envelope:
        """Put a message into the outbox and give it as it would be delivered."""
        work = self.ports.units.open("test")
        work.send(message)
        await self.ports.units.commit(work)
        rows = await self.ports.database.read().query(
            "SELECT * FROM outbox ORDER BY id DESC LIMIT 1"
        )
        return _envelope(rows[0])

    async def submit(self, task: Task) -> Task:
        """Send a task to the submitter, let everything happen, and give how it stands then."""
        await self.send(Submit(task_id=task.id))
        await self.run()
        return await self.now(task)

    async def _commit(self, *rows: Any) -> None:
        work = self.ports.units.open("test")
        work.add(*rows)
        await self.ports.units.commit(work)

    # Letting things happen

    async def run(self, *, until: str = "", most: int = MOST_MESSAGES) -> None:
        """Handle messages in the order of their time until none is left.

        ``until`` stops before the first message of that topic, ``most`` after so many messages.
        """
        for _ in range(most):
            coming = await self.next()
            if coming is None or coming.topic == until:
                return
            await self.handle(coming)
        if most == MOST_MESSAGES:
            raise AssertionError("there is no end of messages")

    async def next(self) -> Envelope | None:
        """Move the clock to the next message for the two actors and give it."""
        rows = await self.ports.database.read().query(
            "SELECT * FROM outbox WHERE topic LIKE 'submitter.%' OR topic LIKE 'status.%' "
            "ORDER BY due_at, id LIMIT 1"
        )
        if not rows:
            return None
        due_at = datetime.fromisoformat(rows[0]["due_at"])
        due_at = due_at if due_at.tzinfo else due_at.replace(tzinfo=UTC)
        self.clock.advance(max(0.0, (due_at - self.clock.now()).total_seconds()))
        return _envelope(rows[0])

    async def handle(self, envelope: Envelope) -> None:
        """Have a message handled as the actor's loop does."""
        self.taken.append((envelope.topic, json.loads(envelope.body), self.clock.now()))
        await self._loops[envelope.consumer].settle(envelope)

    async def sweep(self, after_s: float = LEASE_S) -> None:
        """Do the sweeper's part for tasks whose lease has ended ``after_s`` from now."""
        self.clock.advance(after_s)
        for ident in await self.ports.leases.expired(Task, ("extracted", "unknown")):
            task = await Task.get(id=ident)
            work = self.ports.units.open("sweeper")
            work.move(task, expected=("extracted", "unknown"), to="unknown", token=task.token)
            work.send(Reconcile(task_id=ident))
            await self.ports.units.commit(work)

    # Looking

    async def now(self, task: Task) -> Task:
        """Read a task anew."""
        return await Task.get(id=task.id)

    async def states(self, task: Task) -> list[str]:
        """Give the states of a task's timeline."""
        lines = await lines_after(task.id, 0)
        return [line.state for line in lines if line.type == "status"]

    async def lines(self, task: Task, kind: str) -> list[TimelineLine]:
        """Give a task's lines of one type."""
        return [line for line in await lines_after(task.id, 0) if line.type == kind]

    async def sent(self, topic: str) -> list[dict[str, Any]]:
        """Give the bodies of the messages that wait under a topic."""
        rows = await self.ports.database.read().query(
            "SELECT body FROM outbox WHERE topic = ? ORDER BY id", [topic]
        )
        return [json.loads(bytes(row["body"])) for row in rows]

    def times(self, topic: str) -> list[float]:
        """Give the seconds between the messages of a topic that were handled."""
        at = [when for name, _, when in self.taken if name == topic]
        return [(b - a) / timedelta(seconds=1) for a, b in pairwise(at)]

    async def deliveries(self, task: Task) -> list[Delivery]:
        """Give a task's mails."""
        return await Delivery.filter(task_id=task.id).order_by("attempt")

    async def dead(self) -> list[DeadLetter]:
        """Give all dead letters."""
        return await DeadLetter.all()

    async def audits(self, event: str) -> list[AuditLine]:
        """Give the audit lines of an event."""
        return await AuditLine.filter(event=event)

    def requests(self, outcome: str, name: str = "acme") -> float:
        """Give how often the metric counted an outcome."""
        labels = {"provider": name, "outcome": outcome}
        registry = self.ports.metrics.registry
        return registry.get_sample_value("limner_provider_requests_total", labels) or 0.0


@asynccontextmanager
async def opened_world(
    *,
    home: Path,
    clock: HeldClock,
    database: Database,
    units: SqlUnits,
    outbox: Outbox,
    broker: EmbeddedBroker,
    metrics: Metrics,
    hosts: frozenset[str] = frozenset(),
    max_retries: int = 3,
) -> AsyncIterator[World]:
    """Open a world whose outgoing calls may go to ``hosts``, and close it."""
    outgoing = Outgoing(allow_private_hosts=hosts)
    signer = Signer([SECRET])
    settings = Settings(
        home=home,
        public_url="https://limner.test",
        mail_from="Limner <art@limner.test>",
        max_retries=max_retries,
    )
    ports = Ports(
        settings=settings,
        clock=clock,
        database=database,
        units=units,
        outbox=outbox,
        leases=Leases(database, LEASE_S, 0.05),
        broker=broker,
        objects=LocalObjects(home / "objects", signer, settings.base_url, clock),
        cache=MemoryCache(clock),
        outgoing=outgoing,
        llm=ChatModel(None, None, None, outgoing),
        signer=signer,
        sealer=Sealer(SECRET[:32]),
        tunables=TunableStore(clock),
        secrets=SecretStore(SECRET),
        metrics=metrics,
        worker_id="test",
    )
    try:
        yield World(ports, clock)
    finally:
        await ports.objects.aclose()
        await outgoing.aclose()

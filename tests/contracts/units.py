"""What the suites of the unit of work and of the outbox run over: one line per database."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from tortoise.models import Model

from limner.core.brokers.embedded import EmbeddedBroker
from limner.core.clock import Clock, HeldClock
from limner.core.ids import new_id, uuid7
from limner.core.message import OWN_APP_ID, Envelope, Message
from limner.core.metrics import Metrics
from limner.core.unit import Commit
from limner.storage.sql.comments import Comment
from limner.storage.sql.database import Database
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.messaging import OutboxRow
from limner.storage.sql.outbox import Outbox
from limner.storage.sql.schema import migrate, pending
from limner.storage.sql.tasks import Task
from limner.storage.sql.unit import SqlUnit, SqlUnits
from tests.contracts.engines import START, Engine, PassTime, held
from tests.contracts.mariadb import empty_database
from tests.engines.missing import no_mariadb
from tests.fakes.broker import DurableBroker

QUEUE_LIMIT = 40


class Say(Message):
    """What these suites send."""

    topic: ClassVar[str] = "echo.say"

    text: str = "hello"


@dataclass(frozen=True)
class Sql:
    """An open database with the newest schema, its clock, and a way to let its time pass."""

    database: Database
    clock: HeldClock
    pass_time: PassTime


@dataclass(frozen=True)
class World:
    """A process' units, outbox and broker over a database."""

    sql: Sql
    broker: EmbeddedBroker
    outbox: Outbox
    units: SqlUnits

    @property
    def published(self) -> list[Envelope]:
        """What a durable broker was given."""
        assert isinstance(self.broker, DurableBroker)
        return self.broker.published

    async def settle(self) -> None:
        """Wait for what is being published."""
        await self.outbox.drain()

    async def commit(self, *rows: Model) -> None:
        """Commit rows in a unit of their own."""
        work = self.units.open("test")
        work.add(*rows)
        assert await self.units.commit(work) is Commit.DONE
        await self.settle()

    async def send(self, text: str = "hello", *, after_s: float = 0.0) -> Envelope:
        """Send a message of ours by a unit and give it as its consumer gets it."""
        work = self.units.open("test")
        work.send(Say(text=text), after_s=after_s)
        assert await self.units.commit(work) is Commit.DONE
        await self.settle()
        return work.commands[0][0]

    def receive(self, envelope: Envelope) -> SqlUnit:
        """Open the unit of a consumer of ``envelope``."""
        return self.units.open("echo", envelope)


def process(sql: Sql, make_broker: Callable[[Clock], EmbeddedBroker] = EmbeddedBroker) -> World:
    """Give a process of its own over the same database."""
    broker = make_broker(sql.clock)
    outbox = Outbox(sql.database, broker, sql.clock, Metrics("test"))
    return World(sql, broker, outbox, SqlUnits(sql.database, broker, sql.clock, outbox.offer))


def embedded_process(sql: Sql) -> World:
    """Give a process with the embedded broker."""
    return process(sql, partial(EmbeddedBroker, queue_limit=QUEUE_LIMIT))


def durable_process(sql: Sql) -> World:
    """Give a process with a durable broker."""
    return process(sql, DurableBroker)


def task(**values: Any) -> Task:
    """Give a task that waits to be read."""
    return Task(
        **{
            "id": new_id("task"),
            "comment_id": new_id("comment"),
            "source_id": new_id("source"),
            "state": "pending",
            **values,
        }
    )


def delivery(**values: Any) -> Delivery:
    """Give a mail that waits to be sent."""
    ident = new_id("delivery")
    return Delivery(
        **{
            "id": ident,
            "address": "a@b.test",
            "message_id": f"<{ident}@limner.test>",
            "state": "pending",
            **values,
        }
    )


def comment(**values: Any) -> Comment:
    """Give a comment as it came in."""
    return Comment(
        **{
            "id": new_id("comment"),
            "source_id": "source_1",
            "external_id": new_id("x"),
            "text": "draw a cat",
            "state": "new",
            **values,
        }
    )


def foreign(app_id: str = "shop", **values: Any) -> Envelope:
    """Give a message of a producer that is not ours."""
    given = {"message_id": "order-1", "topic": "echo.say", "body": b'{"text": "hi"}', **values}
    return Envelope(app_id=app_id, sent_at=START, **given)


async def outbox_row(world: World, envelope: Envelope) -> OutboxRow:
    """Store a message in the outbox as another process might have, due at once."""
    row = OutboxRow(
        id=envelope.outbox_id or uuid7().hex,
        message_id=envelope.message_id,
        app_id=envelope.app_id,
        topic=envelope.topic,
        kind=envelope.kind,
        body=envelope.body,
        trace_id=envelope.trace_id,
        attempt=envelope.attempt,
        due_at=world.sql.clock.now(),
        publish_after=world.sql.clock.now() - timedelta(seconds=1),
        created_at=envelope.sent_at,
    )
    await world.commit(row)
    return row


def message(n: int = 0, app_id: str = OWN_APP_ID, **values: Any) -> Envelope:
    """Give a stored message; ids rise with each."""
    ident = uuid7().hex
    body = Say(text=str(n)).to_bytes()
    given = {"message_id": ident, "topic": "echo.say", "outbox_id": ident, **values}
    return Envelope(body=body, app_id=app_id, sent_at=START, **given)


@asynccontextmanager
async def sqlite(folder: Path) -> AsyncIterator[Sql]:
    """Open a SQLite file; one that lies there already is used as it is."""
    clock = HeldClock(START)
    database = Database(f"sqlite://{folder / 'limner.db'}", clock)
    await database.open()
    try:
        if await pending(database):
            await migrate(database)
        yield Sql(database, clock, held(clock))
    finally:
        await database.close()


@asynccontextmanager
async def mariadb(_: Path) -> AsyncIterator[Sql]:
    """Open the MariaDB of this process, without rows."""
    async with empty_database() as (database, clock):
        yield Sql(database, clock, held(clock))


Opened = AbstractAsyncContextManager[Sql]
DATABASES: list[Engine[Sql]] = [
    Engine("sqlite", sqlite),
    Engine("mariadb", mariadb, real=True, missing=no_mariadb),
]

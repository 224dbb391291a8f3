"""What the suite of the broker port runs over: one line per adapter."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from limner.core.broker import Broker, Delivery
from limner.core.brokers.embedded import SUBSCRIBER_LIMIT, EmbeddedBroker
from limner.core.brokers.rabbit import RabbitBroker
from limner.core.clock import HeldClock
from limner.core.ids import uuid7
from limner.core.message import Envelope
from tests.contracts.engines import START, Engine
from tests.engines import missing, shared
from tests.fakes.broker import DurableBroker

QUEUE_LIMIT = 40
# A quorum queue tells publishers' channels that it is full, and takes what comes until they know.
OVERSHOOT = 20


LIMIT_S = 10.0
MOMENT_S = 0.1


@dataclass(frozen=True)
class BrokerUnderTest:
    """A broker with the queues ``echo`` and ``other``, and how much it keeps.

    ``queue_limit`` is how many messages ``echo`` takes before publishing is answered BUSY, and
    ``overshoot`` how many more while it makes up its mind; ``event_limit`` how many events wait
    for one subscriber.
    """

    broker: Broker
    queue_limit: int = QUEUE_LIMIT
    overshoot: int = 0
    event_limit: int = SUBSCRIBER_LIMIT


@asynccontextmanager
async def embedded_broker(_: Path) -> AsyncIterator[BrokerUnderTest]:
    """Open the embedded broker."""
    broker = EmbeddedBroker(HeldClock(START), QUEUE_LIMIT)
    await broker.start(["echo", "other"])
    yield BrokerUnderTest(broker)
    await broker.aclose()


@asynccontextmanager
async def durable_fake(_: Path) -> AsyncIterator[BrokerUnderTest]:
    """Open the fake that other tests take for a durable broker."""
    broker = DurableBroker(HeldClock(START), QUEUE_LIMIT)
    await broker.start(["echo", "other"])
    yield BrokerUnderTest(broker)
    await broker.aclose()


@asynccontextmanager
async def rabbit_broker(_: Path) -> AsyncIterator[BrokerUnderTest]:
    """Open RabbitMQ in a virtual host of its own."""
    server = await asyncio.to_thread(shared.rabbitmq)
    url = await asyncio.to_thread(server.fresh_vhost)
    broker = RabbitBroker(url, HeldClock(START))
    short = {"pattern": r"^limner\.echo$", "definition": {"max-length": QUEUE_LIMIT}}
    try:
        await asyncio.to_thread(server.api, "PUT", f"/policies{urlsplit(url).path}/short", short)
        await broker.start(["echo", "other"])
        yield BrokerUnderTest(broker, overshoot=OVERSHOOT)
    finally:
        await broker.aclose()
        await asyncio.to_thread(server.drop_vhost, url)


def command(n: int = 0, topic: str = "echo.say", **other: Any) -> Envelope:
    """Give a command; ids rise with each."""
    ident = uuid7().hex
    body = b'{"n": %d}' % n
    return Envelope(ident, topic, body, outbox_id=ident, sent_at=START, **other)


def event(n: int = 0) -> Envelope:
    """Give an event."""
    return command(n, "task.submitted", kind="event")


async def coming(deliveries: AsyncIterator[Delivery]) -> Delivery:
    """Wait for the next delivery, at most ``LIMIT_S``."""
    return await asyncio.wait_for(anext(deliveries), LIMIT_S)


async def nothing_comes(items: AsyncIterator[Any]) -> bool:
    """Whether nothing more comes within a moment; the wait is cancelled then."""
    try:
        await asyncio.wait_for(anext(items), MOMENT_S)
    except TimeoutError:
        return True
    return False


async def is_empty(broker: Broker, actor: str = "echo") -> bool:
    """Whether an actor's queue holds nothing and nobody has anything in hand."""
    depth = await broker.depth(actor)
    return (depth.ready, depth.in_hand) == (0, 0)


BROKERS: list[Engine[BrokerUnderTest]] = [
    Engine("embedded", embedded_broker),
    Engine("durable fake", durable_fake),
    Engine("rabbitmq", rabbit_broker, real=True, missing=missing.no_rabbitmq),
]

"""What the suite of the broker port runs over: one line per adapter."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from limner.core.broker import Broker
from limner.core.brokers.embedded import SUBSCRIBER_LIMIT, EmbeddedBroker
from limner.core.clock import HeldClock
from tests.contracts.engines import START, Engine
from tests.fakes.broker import DurableBroker

QUEUE_LIMIT = 40


@dataclass(frozen=True)
class BrokerUnderTest:
    """A broker with the queues ``echo`` and ``other``, and how much it keeps.

    ``queue_limit`` is how many messages a queue takes before publishing is answered BUSY;
    ``event_limit`` how many events wait for one subscriber.
    """

    broker: Broker
    queue_limit: int = QUEUE_LIMIT
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


BROKERS: list[Engine[BrokerUnderTest]] = [
    Engine("embedded", embedded_broker),
    Engine("durable fake", durable_fake),
]

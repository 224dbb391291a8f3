"""A virtual host of RabbitMQ for one test, and ways to put anything at all into it."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import pika
import pytest

from limner.core.broker import Delivery
from limner.core.brokers.rabbit import RabbitBroker
from limner.core.clock import Clock, SystemClock
from limner.core.ids import uuid7
from limner.core.message import Envelope
from tests.contracts.engines import Engine, prepare
from tests.engines import missing, shared
from tests.engines.rabbitmq import RabbitServer

LIMIT_S = 10.0
RABBITMQ: Engine[None] = Engine(
    "rabbitmq", lambda _: nullcontext(), real=True, missing=missing.no_rabbitmq
)


@dataclass(frozen=True)
class Written:
    """A message as some producer writes it; ``raw`` replaces the encoded properties."""

    body: bytes = b'{"text": "hi"}'
    routing_key: str = "echo.say"
    properties: dict[str, Any] = field(default_factory=dict)
    raw: bytes = b""
    exchange: str = "limner.commands"


class RawProperties(pika.BasicProperties):  # type: ignore[misc] # untyped there
    """Properties whose flags and values are the bytes of a test."""

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self._raw = raw

    def encode(self) -> list[bytes]:
        return [self._raw]


@dataclass(frozen=True)
class Vhost:
    """A virtual host: its server and its URL."""

    server: RabbitServer
    url: str

    async def api(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the management API about this host; ``path`` goes on after ``/KIND/VHOST``."""
        kind, _, rest = path.partition("/")
        whole = f"/{kind}/{quote(urlsplit(self.url).path[1:], safe='')}/{rest}".rstrip("/")
        return await asyncio.to_thread(self.server.api, method, whole, body)

    async def write(self, *messages: Written) -> None:
        """Publish as a producer in another language would."""
        await asyncio.to_thread(self._write, messages)

    def _write(self, messages: tuple[Written, ...]) -> None:
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        channel = connection.channel()
        channel.confirm_delivery()
        for message in messages:
            properties = (
                RawProperties(message.raw)
                if message.raw
                else pika.BasicProperties(**message.properties)
            )
            channel.basic_publish(message.exchange, message.routing_key, message.body, properties)
        connection.close()


@asynccontextmanager
async def fresh_vhost(request: pytest.FixtureRequest) -> AsyncIterator[Vhost]:
    """Give a virtual host without queues; skip the test where there is no RabbitMQ."""
    prepare(RABBITMQ, request)
    server = await asyncio.to_thread(shared.rabbitmq)
    url = await asyncio.to_thread(server.fresh_vhost)
    try:
        yield Vhost(server, url)
    finally:
        await asyncio.to_thread(server.drop_vhost, url)


@asynccontextmanager
async def started(
    url: str, *actors: str, clock: Clock | None = None
) -> AsyncIterator[RabbitBroker]:
    """Give a broker with the actors' queues."""
    broker = RabbitBroker(url, clock or SystemClock())
    try:
        await broker.start(actors)
        yield broker
    finally:
        await broker.aclose()


def command(n: int = 0, topic: str = "echo.say", **other: Any) -> Envelope:
    """Give a message of ours."""
    ident = uuid7().hex
    body = b'{"text": "%d"}' % n
    return Envelope(**{"message_id": ident, "topic": topic, "body": body, **other})


async def coming(deliveries: AsyncIterator[Delivery]) -> Delivery:
    """Give the next delivery, within the limit."""
    return await asyncio.wait_for(anext(deliveries), LIMIT_S)


def short(text: bytes) -> bytes:
    """Encode a short string of AMQP."""
    return struct.pack("B", len(text)) + text


def table(content: bytes) -> bytes:
    """Encode a field table around entries that are encoded already."""
    return struct.pack(">I", len(content)) + content


MESSAGE_ID_FLAG = struct.pack(">H", 1 << 7)
HEADERS_FLAG = struct.pack(">H", 1 << 13)
TIMESTAMP_FLAG = struct.pack(">H", 1 << 6)
"""Flags of the properties (AMQP 0-9-1, 4.2.6.1): bit 15 is content-type, and so on downwards."""


def nested(levels: int) -> bytes:
    """Encode headers whose only value is a table in a table in a table …"""
    content = b""
    for _ in range(levels):
        content = short(b"a") + b"F" + table(content)
    return HEADERS_FLAG + table(content)


UNREADABLE: dict[str, bytes] = {
    "a message id that is no UTF-8": MESSAGE_ID_FLAG + short(b"\xff\xfe"),
    "a header name that is no UTF-8": HEADERS_FLAG + table(short(b"\xff") + b"t\x01"),
    "a timestamp beyond all calendars": TIMESTAMP_FLAG + struct.pack(">Q", 1 << 63),
    "headers in headers 3000 deep": nested(3000),
}
"""Properties that RabbitMQ takes from a producer and hands on as they are."""

"""The broker RabbitMQ, 3.10 and later, over AMQP 0-9-1."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Protocol

from aio_pika.abc import AbstractChannel
from pamqp import commands as spec
from pamqp.common import FieldTable

from limner.core.broker import PUBLISH, Deliveries, Outcome, QueueDepth
from limner.core.brokers import rabbit_topology as topology
from limner.core.brokers.rabbit_deliveries import CONSUMER_TAG, RabbitDeliveries, RabbitEvents
from limner.core.brokers.rabbit_lane import Arrival, Lane
from limner.core.brokers.rabbit_link import (
    ANSWER_LIMIT_S,
    CLOSE_LIMIT_S,
    Link,
    close_lane,
    translated,
)
from limner.core.brokers.rabbit_properties import dead_envelope_of, envelope_of
from limner.core.brokers.rabbit_publisher import Publisher
from limner.core.clock import Clock
from limner.core.errors import EngineUnavailable
from limner.core.failpoints import step
from limner.core.ids import uuid7_hex
from limner.core.message import Envelope

PUBLISH_LIMIT_S = 15.0
CHECK_LIMIT_S = 5.0
SUBSCRIBER_LIMIT = 1_000
DEAD_PREFETCH = 10
KNOWN_S = 30.0
"""How long a queue that others declared counts as there."""
KNOWN_LIMIT = 1_000
EVENT_QUEUE: FieldTable = {"x-max-length": SUBSCRIBER_LIMIT, "x-overflow": "drop-head"}


class _Taker(Protocol):
    """What takes the messages of a lane."""

    def arrive(self, arrival: Arrival) -> None: ...

    def lose(self, reason: str) -> None: ...

    def close(self) -> None: ...


class RabbitBroker:
    """Two connections: a broker that holds back publishers must not hold back consumers."""

    durable = True

    def __init__(self, url: str, clock: Clock) -> None:
        self._clock = clock
        place = f"{socket.gethostname()}:{os.getpid()}"
        self._publishing = Link(url, f"limner {place} publishes", self._declare)
        self._consuming = Link(url, f"limner {place} consumes", self._declare)
        self._started = False
        self._actors: dict[str, None] = {}
        self._suspect: set[str] = set()
        self._known: dict[str, float] = {}
        self._publisher: Publisher | None = None
        self._preparing = asyncio.Lock()
        self._consumers: dict[str, set[RabbitDeliveries]] = {}

    async def _declare(self, channel: AbstractChannel) -> None:
        """Declare everything on a new connection, except for a doctor, who only looks."""
        if self._started:
            await topology.declare(channel, tuple(self._actors))

    async def start(self, actors: Iterable[str]) -> None:
        self._started = True
        self._actors.update(dict.fromkeys(actors))
        await self._publishing.declare_again()
        self._suspect.clear()

    async def publish(self, envelopes: Sequence[Envelope]) -> list[Outcome]:
        async with step(PUBLISH):
            if not envelopes:
                return []
            with translated("publishing"):
                try:
                    async with asyncio.timeout(PUBLISH_LIMIT_S):
                        return await self._publish(envelopes)
                except TimeoutError as error:
                    await self._publishing.drop_if_silent()
                    raise EngineUnavailable("broker: no confirm in time") from error

    async def _publish(self, envelopes: Sequence[Envelope]) -> list[Outcome]:
        wanted = {one.consumer for one in envelopes if one.kind == "command"}
        missing = {actor for actor in wanted if not await self._is_there(actor)}
        going = [one for one in envelopes if one.kind == "event" or one.consumer not in missing]
        opened = await self._publishing.opened()
        publisher = await self._ready_publisher()
        # A broker that is short of memory or disk lets publishers wait; nothing is sent then.
        await opened.underlying.ready()
        outcomes = await publisher.publish(going)
        if len(going) == len(envelopes):
            return outcomes
        told = iter(outcomes)
        return [
            next(told) if one.kind == "event" or one.consumer not in missing
            else Outcome.UNROUTABLE
            for one in envelopes
        ]  # fmt: skip

    async def _is_there(self, actor: str) -> bool:
        """Say whether an actor has a queue: the alternate exchange hides from us that none has."""
        if actor in self._actors:
            if actor in self._suspect:
                await self._publishing.declare_again()
                self._suspect.clear()
            return True
        now = self._clock.monotonic()
        if self._known.get(actor, now) > now:
            return True
        queue = topology.queue_name(actor)
        found = await self._publishing.ask(partial(topology.ready_messages, queue=queue))
        if found is None:
            self._known.pop(actor, None)
            return False
        if len(self._known) >= KNOWN_LIMIT:
            self._known.clear()
        self._known[actor] = now + KNOWN_S
        return True

    async def _ready_publisher(self) -> Publisher:
        publisher = self._publisher
        if publisher is not None and not publisher.is_lost:
            return publisher
        async with self._preparing:
            publisher = self._publisher
            if publisher is not None and not publisher.is_lost:
                return publisher
            if publisher is not None:
                # What ended the channel may have been an exchange that is gone.
                await self._publishing.declare_again()
            publisher = Publisher()
            lane = await self._publishing.lane(
                confirm=publisher.confirm, returned=publisher.returned
            )
            publisher.attach(lane)
            self._publisher = publisher
            return publisher

    @asynccontextmanager
    async def consume(self, actor: str, prefetch: int) -> AsyncIterator[Deliveries]:
        deliveries = RabbitDeliveries(prefetch, self._read)
        held = self._consumers.setdefault(actor, set())
        queue = topology.queue_name(actor)
        async with self._taking(deliveries, queue, prefetch, [actor]) as lane:
            lane.watch(lambda _: self._suspect.add(actor))
            held.add(deliveries)
            try:
                yield deliveries
            finally:
                held.discard(deliveries)

    @asynccontextmanager
    async def dead(self) -> AsyncIterator[Deliveries]:
        deliveries = RabbitDeliveries(DEAD_PREFETCH, self._read_dead)
        async with self._taking(deliveries, topology.DEAD, DEAD_PREFETCH, []):
            yield deliveries

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[AsyncIterator[Envelope]]:
        events = RabbitEvents(SUBSCRIBER_LIMIT, self._read)
        lane = await self._consuming.lane(arrive=events.arrive)
        queue = f"{topology.EVENTS}.{uuid7_hex()}"
        async with self._ending(lane, events):
            with translated("subscribing"):
                async with asyncio.timeout(ANSWER_LIMIT_S):
                    await lane.queue_declare(
                        queue, exclusive=True, auto_delete=True, arguments=dict(EVENT_QUEUE)
                    )
                    await lane.queue_bind(queue, topology.EVENTS, topology.ALL)
                    await _begin(lane, queue, no_ack=True)
            yield events

    @asynccontextmanager
    async def _taking(
        self, deliveries: RabbitDeliveries, queue: str, prefetch: int, actors: list[str]
    ) -> AsyncIterator[Lane]:
        """Consume a queue while the block runs; it is declared first, it may have been deleted."""
        await self._consuming.ask(partial(topology.declare, actors=actors))
        lane = await self._consuming.lane(arrive=deliveries.arrive)
        deliveries.attach(lane)
        async with self._ending(lane, deliveries):
            with translated("consuming"):
                async with asyncio.timeout(ANSWER_LIMIT_S):
                    await lane.basic_qos(prefetch_count=prefetch)
                    await _begin(lane, queue, no_ack=False)
            yield lane

    @asynccontextmanager
    async def _ending(self, lane: Lane, taker: _Taker) -> AsyncIterator[None]:
        lane.watch(taker.lose)
        try:
            yield
        finally:
            await self._consuming.finish(_end(lane, taker))

    def _read(self, arrival: Arrival) -> Envelope:
        return envelope_of(arrival, self._clock.now())

    def _read_dead(self, arrival: Arrival) -> Envelope:
        return dead_envelope_of(arrival, self._clock.now())

    async def depth(self, actor: str) -> QueueDepth:
        queue = topology.queue_name(actor)
        ready = await self._publishing.ask(partial(topology.ready_messages, queue=queue))
        held = self._consumers.get(actor, set())
        return QueueDepth(
            ready=(ready or 0) + sum(deliveries.waiting for deliveries in held),
            in_hand=sum(deliveries.in_hand for deliveries in held),
        )

    async def check(self) -> None:
        async def round_trip(channel: AbstractChannel) -> None:
            await channel.set_qos(prefetch_count=0)

        await self._publishing.ask(round_trip, CHECK_LIMIT_S)

    async def aclose(self) -> None:
        await self._consuming.aclose()
        await self._publishing.aclose()


async def _begin(lane: Lane, queue: str, *, no_ack: bool) -> None:
    await lane.rpc(spec.Basic.Consume(queue=queue, consumer_tag=CONSUMER_TAG, no_ack=no_ack))


async def _end(lane: Lane, taker: _Taker) -> None:
    """Stop the flow, give back what is in hand, close the channel."""
    with suppress(EngineUnavailable), translated("closing a consumer"):
        if not lane.is_lost:
            lane.dismiss()
            async with asyncio.timeout(CLOSE_LIMIT_S):
                await lane.rpc(spec.Basic.Cancel(consumer_tag=CONSUMER_TAG))
    taker.close()
    await close_lane(lane)

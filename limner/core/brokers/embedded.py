"""The embedded broker: bounded queues in this process, made durable by the outbox rows."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from limner.core.broker import ACK, PUBLISH, Deliveries, Delivery, Outcome, QueueDepth
from limner.core.clock import Clock
from limner.core.failpoints import step
from limner.core.message import Envelope

QUEUE_LIMIT = 10_000
SUBSCRIBER_LIMIT = 1_000


@dataclass
class _Queue:
    """One actor's messages, and how many of them consumers hold."""

    ready: deque[Envelope] = field(default_factory=deque)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    in_hand: int = 0


class _Delivery:
    """A message of the embedded broker in a consumer's hand.

    Giving it up needs no await: a cancelled consumer cannot leave it half given up.
    """

    def __init__(self, envelope: Envelope, settle: "_Settle") -> None:
        self._envelope = envelope
        self._settle: _Settle | None = settle

    @property
    def envelope(self) -> Envelope:
        return self._envelope

    async def ack(self) -> None:
        async with step(ACK):
            self.close(again=False)

    async def release(self) -> None:
        self.close(again=True)

    def close(self, *, again: bool) -> None:
        """Take the message out of the hand, once."""
        settle, self._settle = self._settle, None
        if settle is not None:
            settle(self, again)


_Settle = Callable[[_Delivery, bool], None]


class _Deliveries:
    """What one consumer takes from a queue; a cancelled wait may be taken up again."""

    def __init__(self, queue: _Queue, prefetch: int, forget: Callable[[Envelope], None]) -> None:
        self._queue = queue
        self._prefetch = prefetch
        self._forget = forget
        self._mine: dict[_Delivery, None] = {}
        self._closed = False

    def __aiter__(self) -> "_Deliveries":
        return self

    async def __anext__(self) -> Delivery:
        queue = self._queue
        while not self._closed:
            if queue.ready and len(self._mine) < self._prefetch:
                delivery = _Delivery(queue.ready.popleft(), self._settle)
                queue.in_hand += 1
                self._mine[delivery] = None
                return delivery
            queue.changed.clear()
            await queue.changed.wait()
        raise StopAsyncIteration

    def _settle(self, delivery: _Delivery, again: bool) -> None:
        del self._mine[delivery]
        self._queue.in_hand -= 1
        if again:
            self._queue.ready.appendleft(delivery.envelope)
        else:
            self._forget(delivery.envelope)
        self._queue.changed.set()

    async def cease(self) -> None:
        self._closed = True
        self._queue.changed.set()

    def close(self) -> None:
        """Give back what is in hand, so that the oldest comes first again."""
        self._closed = True
        for delivery in reversed(tuple(self._mine)):
            delivery.close(again=True)
        self._queue.changed.set()


class _Events:
    """What one subscriber hears; a cancelled wait may be taken up again."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[Envelope] = asyncio.Queue(SUBSCRIBER_LIMIT)

    def __aiter__(self) -> "_Events":
        return self

    async def __anext__(self) -> Envelope:
        return await self.inbox.get()

    def offer(self, envelope: Envelope) -> None:
        """Add an event; the oldest makes room."""
        if self.inbox.full():
            self.inbox.get_nowait()
        self.inbox.put_nowait(envelope)


def _key(envelope: Envelope) -> tuple[str, int]:
    return (envelope.outbox_id or envelope.message_id, envelope.attempt)


class EmbeddedBroker:
    """Queues in memory. Full queues answer BUSY; the relay offers the row again later."""

    durable = False

    def __init__(self, clock: Clock, queue_limit: int = QUEUE_LIMIT) -> None:
        self._clock = clock
        self._limit = queue_limit
        self._queues: dict[str, _Queue] = {}
        self._held: set[tuple[str, int]] = set()
        self._dead = _Queue()
        self._subscribers: set[_Events] = set()

    async def start(self, actors: Iterable[str]) -> None:
        for actor in actors:
            self._queues.setdefault(actor, _Queue())

    async def publish(self, envelopes: Sequence[Envelope]) -> list[Outcome]:
        async with step(PUBLISH):
            return [self._publish(envelope) for envelope in envelopes]

    def _publish(self, envelope: Envelope) -> Outcome:
        if envelope.kind == "event":
            for subscriber in self._subscribers:
                subscriber.offer(envelope)
            return Outcome.CONFIRMED
        queue = self._queues.get(envelope.consumer)
        if queue is None:
            return Outcome.UNROUTABLE
        key = _key(envelope)
        if key in self._held:
            return Outcome.CONFIRMED
        if len(queue.ready) >= self._limit:
            return Outcome.BUSY
        self._held.add(key)
        queue.ready.append(envelope)
        queue.changed.set()
        return Outcome.CONFIRMED

    @asynccontextmanager
    async def consume(self, actor: str, prefetch: int) -> AsyncIterator[Deliveries]:
        async with self._taking(self._queues.setdefault(actor, _Queue()), prefetch) as deliveries:
            yield deliveries

    @asynccontextmanager
    async def dead(self) -> AsyncIterator[Deliveries]:
        """Give nothing: each message is a row, and lives until a unit has settled it."""
        async with self._taking(self._dead, prefetch=1) as deliveries:
            yield deliveries

    @asynccontextmanager
    async def _taking(self, queue: _Queue, prefetch: int) -> AsyncIterator[Deliveries]:
        deliveries = _Deliveries(queue, prefetch, self._forget)
        try:
            yield deliveries
        finally:
            deliveries.close()

    def _forget(self, envelope: Envelope) -> None:
        self._held.discard(_key(envelope))

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[AsyncIterator[Envelope]]:
        events = _Events()
        self._subscribers.add(events)
        try:
            yield events
        finally:
            self._subscribers.discard(events)

    async def depth(self, actor: str) -> QueueDepth:
        queue = self._queues.get(actor, _Queue())
        oldest = queue.ready[0].sent_at if queue.ready else None
        age = (self._clock.now() - oldest).total_seconds() if oldest else None
        return QueueDepth(ready=len(queue.ready), in_hand=queue.in_hand, oldest_age_s=age)

    async def check(self) -> None:
        return

    async def aclose(self) -> None:
        self._queues.clear()
        self._held.clear()
        self._subscribers.clear()

"""What consumers take from RabbitMQ: deliveries, acknowledged in batches, and events."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from pamqp import commands as spec
from pamqp import frame as frames

from limner.core.broker import ACK, Delivery
from limner.core.brokers.rabbit_lane import Arrival, Lane
from limner.core.brokers.rabbit_link import CLOSE_LIMIT_S, translated
from limner.core.errors import EngineUnavailable
from limner.core.failpoints import step
from limner.core.message import Envelope

ACK_DELAY_S = 0.005
CONSUMER_TAG = "limner"

Read = Callable[[Arrival], Envelope]


class RabbitDelivery:
    """A message of RabbitMQ in a consumer's hand; its number is its channel's."""

    __slots__ = ("_deliveries", "_envelope", "_tag")

    def __init__(self, envelope: Envelope, tag: int, deliveries: "RabbitDeliveries") -> None:
        self._envelope = envelope
        self._tag = tag
        self._deliveries = deliveries

    @property
    def envelope(self) -> Envelope:
        return self._envelope

    async def ack(self) -> None:
        async with step(ACK):
            self._deliveries.finish(self._tag)

    async def release(self) -> None:
        self._deliveries.give_back(self._tag)


class RabbitDeliveries:
    """What one consumer takes; a cancelled wait may be taken up again.

    Acknowledgements are gathered for ``ACK_DELAY_S`` seconds, or until half of ``prefetch``
    waits; then one frame goes out for the finished beginning of what came, and one for each that
    was finished beyond an unfinished one.
    """

    def __init__(self, prefetch: int, read: Read) -> None:
        self._read = read
        self._lane: Lane | None = None
        self._ready: deque[RabbitDelivery] = deque()
        self._unfinished: dict[int, None] = {}
        self._finished: set[int] = set()
        self._batch = max(1, prefetch // 2)
        self._flushing: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._lost = ""
        self._closed = False
        self._ceased = False

    def attach(self, lane: Lane) -> None:
        """Take the lane that was opened for this consumer."""
        self._lane = lane

    @property
    def waiting(self) -> int:
        """How many have come and were not taken yet."""
        return len(self._ready)

    @property
    def in_hand(self) -> int:
        """How many were taken and not settled yet."""
        return len(self._unfinished) - len(self._ready)

    def __aiter__(self) -> "RabbitDeliveries":
        return self

    async def __anext__(self) -> Delivery:
        while True:
            if self._lost:
                raise EngineUnavailable(f"broker: {self._lost}")
            if self._closed or self._ceased:
                raise StopAsyncIteration
            if self._ready:
                return self._ready.popleft()
            self._changed.clear()
            await self._changed.wait()

    def arrive(self, arrival: Arrival) -> None:
        """Take what the broker sends."""
        self._unfinished[arrival.tag] = None
        if self._ceased:
            # It was on its way when we said that we want no more.
            self.give_back(arrival.tag)
            return
        self._ready.append(RabbitDelivery(self._read(arrival), arrival.tag, self))
        self._changed.set()

    def finish(self, tag: int) -> None:
        """Have a message acknowledged; nothing happens to one that is settled or not ours."""
        if tag not in self._unfinished:
            return
        del self._unfinished[tag]
        self._finished.add(tag)
        if len(self._finished) >= self._batch:
            self.flush()
        elif self._flushing is None:
            loop = asyncio.get_running_loop()
            self._flushing = loop.call_later(ACK_DELAY_S, self.flush)

    def give_back(self, tag: int) -> None:
        """Have a message delivered again."""
        if tag in self._unfinished:
            del self._unfinished[tag]
            self._write([spec.Basic.Nack(delivery_tag=tag, requeue=True)])

    async def cease(self) -> None:
        lane = self._lane
        if lane is None or lane.is_lost or self._closed or self._ceased:
            return
        self._ceased = True
        with suppress(EngineUnavailable), translated("stopping a consumer"):
            async with asyncio.timeout(CLOSE_LIMIT_S):
                await lane.rpc(spec.Basic.Cancel(consumer_tag=CONSUMER_TAG))
        for delivery in self._ready:
            await delivery.release()
        self._ready.clear()
        self._changed.set()

    def flush(self) -> None:
        """Send the acknowledgements that have gathered."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        if not self._finished:
            return
        first_unfinished = next(iter(self._unfinished), None)
        finished, self._finished = sorted(self._finished), set()
        beyond = finished
        acks: list[spec.Basic.Ack | spec.Basic.Nack] = []
        if first_unfinished is None or finished[0] < first_unfinished:
            prefix = [tag for tag in finished if first_unfinished is None or tag < first_unfinished]
            beyond = finished[len(prefix) :]
            acks.append(spec.Basic.Ack(delivery_tag=prefix[-1], multiple=len(prefix) > 1))
        acks += [spec.Basic.Ack(delivery_tag=tag) for tag in beyond]
        self._write(acks)

    def close(self) -> None:
        """Acknowledge what is finished and give back the rest."""
        self._closed = True
        self.flush()
        if self._unfinished:
            last = next(reversed(self._unfinished))
            self._write([spec.Basic.Nack(delivery_tag=last, multiple=True, requeue=True)])
        self._forget()

    def lose(self, reason: str) -> None:
        """Let whoever waits know that nothing more comes; what is in hand comes again."""
        if not self._closed:
            self._lost = reason
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        self._forget()

    def _forget(self) -> None:
        self._ready.clear()
        self._unfinished.clear()
        self._finished.clear()
        self._changed.set()

    def _write(self, methods: list[spec.Basic.Ack | spec.Basic.Nack]) -> None:
        lane = self._lane
        if lane is not None:
            lane.write(b"".join(frames.marshal(method, lane.number) for method in methods))


class RabbitEvents:
    """What one subscriber hears: the newest ``limit``; a cancelled wait may be taken up again."""

    def __init__(self, limit: int, read: Read) -> None:
        self._read = read
        self._ready: deque[Envelope] = deque(maxlen=limit)
        self._changed = asyncio.Event()
        self._lost = ""
        self._closed = False

    def __aiter__(self) -> "RabbitEvents":
        return self

    async def __anext__(self) -> Envelope:
        while True:
            if self._lost:
                raise EngineUnavailable(f"broker: {self._lost}")
            if self._closed:
                raise StopAsyncIteration
            if self._ready:
                return self._ready.popleft()
            self._changed.clear()
            await self._changed.wait()

    def arrive(self, arrival: Arrival) -> None:
        """Take an event; the oldest makes room."""
        self._ready.append(self._read(arrival))
        self._changed.set()

    def close(self) -> None:
        """End the iteration."""
        self._closed = True
        self._changed.set()

    def lose(self, reason: str) -> None:
        """Let whoever waits know that nothing more comes."""
        if not self._closed:
            self._lost = reason
        self._changed.set()

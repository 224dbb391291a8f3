"""Publishing with confirms: everything goes out at once, and the answers are counted off."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from limner.core.broker import Outcome
from limner.core.brokers.rabbit_lane import Arrival, Lane
from limner.core.brokers.rabbit_properties import envelope_of, marshal
from limner.core.errors import EngineUnavailable
from limner.core.logs import get_logger
from limner.core.message import Envelope

log = get_logger("rabbit")

WINDOW = 1_000
"""Messages in flight per channel: RabbitMQ's own measurements gain nothing beyond."""
WRITE_BYTES = 1 << 16


class _Batch:
    """The messages of one call; ``done`` is set when each has its outcome or none will come."""

    __slots__ = ("done", "envelopes", "lost", "missing", "outcomes")

    def __init__(self, envelopes: Sequence[Envelope]) -> None:
        self.envelopes = envelopes
        self.outcomes = [Outcome.CONFIRMED] * len(envelopes)
        self.missing = len(envelopes)
        self.lost = ""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def count_off(self) -> None:
        self.missing -= 1
        if not self.missing:
            self.end()

    def end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class Publisher:
    """Publishes over one lane, whose ``confirm`` and ``returned`` it is given as."""

    def __init__(self) -> None:
        self._lane: Lane | None = None
        self._frame_limit_bytes = 0
        self._tag = 0
        self._unconfirmed: dict[int, tuple[_Batch, int]] = {}
        self._room = asyncio.Event()
        self._lost = ""

    def attach(self, lane: Lane) -> None:
        """Take the lane that was opened for this publisher."""
        self._lane = lane
        self._frame_limit_bytes = lane.connection.connection_tune.frame_max
        lane.watch(self.lose)

    @property
    def is_lost(self) -> bool:
        """Whether nothing can be published here any more."""
        return self._lane is None or self._lane.is_lost

    async def publish(self, envelopes: Sequence[Envelope]) -> list[Outcome]:
        """Publish in order and wait for all outcomes.

        Raises:
            EngineUnavailable: the channel was lost before all had come.
        """
        if not envelopes:
            return []
        if self._lane is None:
            raise EngineUnavailable("broker: the channel was never opened")
        batch = _Batch(envelopes)
        await self._send(batch, self._lane)
        await batch.done
        if batch.lost:
            raise EngineUnavailable(f"broker: {batch.lost}")
        return batch.outcomes

    async def _send(self, batch: _Batch, lane: Lane) -> None:
        """Write a batch, in pieces; a number is given and its frames written without a wait."""
        pieces: list[bytes] = []
        size_bytes = 0
        for index, envelope in enumerate(batch.envelopes):
            if lane.is_lost:
                raise EngineUnavailable(f"broker: {self._lost or 'the channel is closed'}")
            frames = self._marshal(envelope, lane)
            if not frames:
                batch.outcomes[index] = Outcome.UNROUTABLE
                batch.count_off()
                continue
            self._tag += 1
            self._unconfirmed[self._tag] = (batch, index)
            pieces.append(frames)
            size_bytes += len(frames)
            if size_bytes >= WRITE_BYTES or len(self._unconfirmed) >= WINDOW:
                lane.write(b"".join(pieces))
                pieces, size_bytes = [], 0
                await self._wait_for_room(lane)
        lane.write(b"".join(pieces))

    def _marshal(self, envelope: Envelope, lane: Lane) -> bytes:
        """Give the frames, or none for what AMQP cannot carry: it must not hold up the others."""
        try:
            return marshal(envelope, lane.number, self._frame_limit_bytes)
        except Exception:
            log.exception("no AMQP message", topic=envelope.topic, outbox_id=envelope.outbox_id)
            return b""

    async def _wait_for_room(self, lane: Lane) -> None:
        await lane.drain()
        while len(self._unconfirmed) >= WINDOW and not lane.is_lost:
            self._room.clear()
            await self._room.wait()

    def confirm(self, tag: int, multiple: bool, taken: bool) -> None:
        """Count off one message, or all up to it."""
        if not multiple:
            self._count_off(tag, taken=taken)
        else:
            # Numbers are given in rising order, so the first that is too high ends the search.
            for waiting in tuple(self._unconfirmed):
                if waiting > tag:
                    break
                self._count_off(waiting, taken=taken)
        self._room.set()

    def _count_off(self, tag: int, *, taken: bool) -> None:
        entry = self._unconfirmed.pop(tag, None)
        if entry is not None:
            batch, index = entry
            if not taken:
                batch.outcomes[index] = Outcome.BUSY
            batch.count_off()

    def returned(self, arrival: Arrival) -> None:
        """Note that no queue took a message; its confirm follows."""
        back = envelope_of(arrival, datetime.now(UTC))
        for batch, index in self._unconfirmed.values():
            sent = batch.envelopes[index]
            if (sent.message_id, sent.attempt, sent.topic) == (
                back.message_id,
                back.attempt,
                arrival.routing_key,
            ) and batch.outcomes[index] is not Outcome.UNROUTABLE:
                batch.outcomes[index] = Outcome.UNROUTABLE
                return

    def lose(self, reason: str) -> None:
        """Let everybody who waits know that no more outcomes come."""
        self._lost = reason
        waiting, self._unconfirmed = self._unconfirmed, {}
        for batch, _ in waiting.values():
            batch.lost = reason
            batch.end()
        self._room.set()

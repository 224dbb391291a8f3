"""PORT: the broker, a doorbell between actors.

A broker may lose nothing it has confirmed, may deliver twice, and keeps no order across a
redelivery. What must happen once is the business of the unit of work, not of the broker.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from limner.core.failpoints import declare
from limner.core.message import Envelope

PUBLISH = declare("broker.publish")
ACK = declare("broker.ack")
DELIVERY_LIMIT = "delivery_limit"
"""The fault of a message that was delivered again and again and never acknowledged."""


class Outcome(StrEnum):
    """What became of one published message."""

    CONFIRMED = "confirmed"
    UNROUTABLE = "unroutable"
    BUSY = "busy"


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How full one actor's queue is; ``oldest_age_s`` is None where the broker cannot tell.

    ``in_hand`` counts what consumers of this process hold: not every broker tells of the others'.
    """

    ready: int
    in_hand: int
    oldest_age_s: float | None = None


class Delivery(Protocol):
    """One message in the hand of one consumer, until it is acknowledged or released."""

    @property
    def envelope(self) -> Envelope:
        """The message."""
        ...

    async def ack(self) -> None:
        """Say that the message is done with. Called after the unit has committed.

        The broker may learn of it some milliseconds later. If it is gone nothing happens: it will
        deliver the message again.
        """
        ...

    async def release(self) -> None:
        """Give the message back so that it is delivered again, here or elsewhere. Never raises."""
        ...


class Deliveries(Protocol):
    """What a consumer receives, an iterator; a cancelled wait may be taken up again."""

    def __aiter__(self) -> AsyncIterator[Delivery]:
        """Give itself."""
        ...

    async def __anext__(self) -> Delivery:
        """Wait for the next one."""
        ...

    async def cease(self) -> None:
        """Receive no more, and give back what nobody has taken yet; never raises.

        The iteration ends. What is in hand may still be acknowledged or released.
        """
        ...


class Broker(Protocol):
    """Carries commands to one consumer each and events to every subscriber."""

    @property
    def durable(self) -> bool:
        """Whether a confirmed message survives this process.

        If so, its outbox row is deleted after the confirm; if not, the row itself is the queue's
        durability and the consumer's unit deletes it.
        """
        ...

    async def start(self, actors: Iterable[str]) -> None:
        """Connect and declare one queue per actor; calling it again declares again.

        Raises:
            EngineUnavailable: the broker does not answer.
            NotConfigured: something of ours is there with other arguments; the sentence says what
                and how to mend it.
        """
        ...

    async def publish(self, envelopes: Sequence[Envelope]) -> list[Outcome]:
        """Publish all, in order, and give one outcome each, in the same order.

        A message that this process already holds counts as CONFIRMED. A command is UNROUTABLE if
        its consumer has no queue, BUSY if the queue takes no more; an event that nobody hears is
        CONFIRMED.

        Raises:
            EngineUnavailable: nothing can be said about any of them; publish them again.
        """
        ...

    def consume(self, actor: str, prefetch: int) -> AbstractAsyncContextManager[Deliveries]:
        """Receive the actor's commands, at most ``prefetch`` in hand; ends when the block ends.

        What is in hand then is given back. What a producer did wrong is told by the envelope's
        ``fault``; such a message is settled like any other.

        Raises:
            EngineUnavailable: at the beginning of the block or from the iterator: the broker, or
                the consumer's queue, is gone. Begin again with a new block.
        """
        ...

    def subscribe(self) -> AbstractAsyncContextManager[AsyncIterator[Envelope]]:
        """Receive events from now on; bounded, and the oldest are dropped when not read in time.

        Raises:
            EngineUnavailable: at the beginning of the block or from the iterator: the broker is
                gone, and with it events. Begin again with a new block.
        """
        ...

    def dead(self) -> AbstractAsyncContextManager[Deliveries]:
        """Receive what the broker gave up, of all actors.

        The envelope's ``fault`` says of what it died: ``DELIVERY_LIMIT``, ``unroutable`` (no queue
        takes it), ``rejected``, ``expired``, or what makes it unreadable. A broker that gives
        nothing up gives nothing here.

        Raises:
            EngineUnavailable: as ``consume``.
        """
        ...

    async def depth(self, actor: str) -> QueueDepth:
        """Tell how full the actor's queue is."""
        ...

    async def check(self) -> None:
        """Return if the broker answers.

        Raises:
            EngineUnavailable: it does not.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections; whatever is in hand is delivered again elsewhere."""
        ...

"""A broker that counts as durable, remembers what was published, and can be told to fail."""

from collections.abc import Sequence
from dataclasses import replace

from limner.core.broker import Outcome
from limner.core.brokers.embedded import EmbeddedBroker
from limner.core.clock import Clock
from limner.core.errors import EngineUnavailable
from limner.core.message import Envelope


class DurableBroker(EmbeddedBroker):
    """Queues in memory behind the promise of a durable broker; it passes the port's suite.

    ``away`` makes every publish fail before anything is taken; ``answer_lost`` after it.
    """

    durable = True

    def __init__(self, clock: Clock, queue_limit: int = 10_000) -> None:
        super().__init__(clock, queue_limit)
        self.published: list[Envelope] = []
        self.away = False
        self.answer_lost = False

    async def publish(self, envelopes: Sequence[Envelope]) -> list[Outcome]:
        if self.away:
            raise EngineUnavailable("broker: connection refused")
        self.published.extend(envelopes)
        outcomes = await super().publish(envelopes)
        if self.answer_lost:
            raise EngineUnavailable("broker: connection reset")
        return outcomes

    def give_up(self, envelope: Envelope, reason: str, detail: str = "") -> None:
        """Have a message among the dead."""
        self._dead.ready.append(replace(envelope, fault=(reason, detail)))
        self._dead.changed.set()

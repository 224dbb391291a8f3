"""The drain: what the broker gave up comes again once, and is a row that an operator sees."""

import asyncio
from dataclasses import replace

from limner.actors.ports import Ports
from limner.core.broker import DELIVERY_LIMIT, Delivery
from limner.core.errors import Conflict, EngineUnavailable
from limner.core.logs import get_logger
from limner.core.message import Envelope
from limner.core.patience import ENGINE_HOLD_S, ENGINE_PAUSE_S
from limner.core.unit import Commit
from limner.storage.sql.messaging import put_back

log = get_logger("sweeper")

PUT_BACK_S = 60.0
"""How long a message rests that has ended its workers, or met twenty bad moments."""
UNKNOWN = "unknown"
NO_FAULT = ("unroutable", "the broker does not say why it gave this up")


class Drain:
    """Takes what the broker gave up, one by one, until each is committed as something else."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def run(self, stop: asyncio.Event) -> None:
        """Drain until ``stop``.

        Raises:
            EngineUnavailable: broker or database stayed away.
        """
        async with self._ports.broker.dead() as deliveries:
            stopped = asyncio.ensure_future(stop.wait())
            coming = asyncio.ensure_future(anext(deliveries))
            try:
                while not stop.is_set():
                    await asyncio.wait({coming, stopped}, return_when=asyncio.FIRST_COMPLETED)
                    if coming.done():
                        await self._take(coming.result(), stop)
                        coming = asyncio.ensure_future(anext(deliveries))
            finally:
                coming.cancel()
                stopped.cancel()
                await asyncio.gather(coming, stopped, return_exceptions=True)

    async def _take(self, delivery: Delivery, stop: asyncio.Event) -> None:
        """Settle one; while the database is away it stays in hand for ``ENGINE_HOLD_S``."""
        until = self._ports.clock.monotonic() + ENGINE_HOLD_S
        while True:
            try:
                await self.settle(delivery.envelope)
                break
            except EngineUnavailable:
                if stop.is_set() or self._ports.clock.monotonic() >= until:
                    raise
                await asyncio.sleep(ENGINE_PAUSE_S)
        await delivery.ack()

    async def settle(self, envelope: Envelope) -> None:
        """Put a message back, or keep it as a dead letter.

        Raises:
            EngineUnavailable: nothing was committed; call it again.
        """
        reason, detail = envelope.fault or NO_FAULT
        consumer = envelope.consumer or UNKNOWN
        if reason == DELIVERY_LIMIT and await self._put_back(consumer, envelope, detail):
            return
        work = self._ports.units.open(consumer, envelope)
        work.bury(reason, detail)
        commit = await self._ports.units.commit(work)
        self._count("dead", commit, envelope, detail)

    async def _put_back(self, consumer: str, envelope: Envelope, detail: str) -> bool:
        """Give whether that was all: not if it has been put back before."""
        work = self._ports.units.open(consumer, replace(envelope, fault=None))
        put_back(work, envelope, DELIVERY_LIMIT, after_s=PUT_BACK_S)
        try:
            commit = await self._ports.units.commit(work)
        except Conflict:
            return False
        self._count("again", commit, envelope, detail)
        return True

    def _count(self, outcome: str, commit: Commit, envelope: Envelope, detail: str) -> None:
        if commit is Commit.REPEATED:
            log.info("given up, but handled before", topic=envelope.topic)
            return
        self._ports.metrics.jobs_finished.labels("sweeper", outcome).inc()
        log.warning("given up by the broker", topic=envelope.topic, outcome=outcome, detail=detail)

"""An actor and the sweeper's drain over RabbitMQ and SQLite, as a process has them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from limner.actors.ports import Ports
from limner.actors.sweeper.drain import Drain
from limner.core.actor import Actor, ActorLoop
from limner.core.brokers.rabbit import RabbitBroker
from limner.core.clock import Clock
from limner.storage.sql.messaging import DeadLetter
from limner.storage.sql.outbox import Outbox
from limner.storage.sql.unit import SqlUnits
from tests.contracts.engines import eventually
from tests.core.brokers.vhost import LIMIT_S, Vhost, started
from tests.fakes.actors import Echo, Say
from tests.fakes.ports import open_ports

CONCURRENCY = 4


@dataclass(frozen=True)
class Service:
    """What a test looks at: the handler, the rows and the queues."""

    vhost: Vhost
    ports: Ports
    broker: RabbitBroker
    echo: Echo

    async def letters(self) -> list[DeadLetter]:
        """Give the dead letters, oldest first."""
        return await DeadLetter.all().order_by("created_at", "id")

    async def settled(self, *, heard: int, letters: int) -> None:
        """Wait until the handler has heard so many messages and there are so many dead letters."""

        async def so_many() -> bool:
            return len(self.echo.heard) >= heard and await DeadLetter.all().count() >= letters

        await eventually(so_many)

    @asynccontextmanager
    async def running(self, *, drain: bool = True) -> AsyncIterator[None]:
        """Run the actor, and the drain, while the block does."""
        actor = Actor(
            "echo", inbox=Say, handler=self.echo, concurrency=CONCURRENCY, timeout_s=5.0,
            max_attempts=3,
        )  # fmt: skip
        ports = self.ports
        inbox = ActorLoop(actor, self.broker, ports.units, ports.clock, ports.metrics)
        stop = asyncio.Event()
        tasks = [asyncio.create_task(inbox.run(stop))]
        if drain:
            tasks.append(asyncio.create_task(Drain(ports).run(stop)))
        try:
            yield
        finally:
            stop.set()
            await asyncio.wait_for(asyncio.gather(*tasks), LIMIT_S)


@asynccontextmanager
async def open_service(
    vhost: Vhost, folder: Path, migrated: Path, clock: Clock | None = None
) -> AsyncIterator[Service]:
    """Open a service whose broker is RabbitMQ."""
    async with AsyncExitStack() as stack:
        ports = await stack.enter_async_context(open_ports(folder, clock=clock, migrated=migrated))
        broker = await stack.enter_async_context(started(vhost.url, "echo", clock=ports.clock))
        outbox = Outbox(ports.database, broker, ports.clock, ports.metrics)
        stack.push_async_callback(outbox.drain)
        units = SqlUnits(ports.database, broker, ports.clock, outbox.offer)
        ports = replace(ports, broker=broker, outbox=outbox, units=units)
        yield Service(vhost, ports, broker, Echo())

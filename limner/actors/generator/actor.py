"""The generator: claims jobs from the table, paints them in batches, stores what came out.

A message only rings. Jobs are claimed under a lease with a fencing token, so that a worker that
was paused overwrites nothing, and one that died gives its jobs back.
"""

import asyncio

from limner.actors.generator.batches import Batches
from limner.actors.generator.messages import Generate, Ring
from limner.actors.generator.painter import Painter
from limner.actors.generator.rules import Wanted, model_name
from limner.actors.generator.studio import Studio
from limner.actors.ports import Ports
from limner.core.actor import Actor, Loop
from limner.core.errors import Invalid
from limner.core.ids import derived_id
from limner.core.unit import UnitOfWork
from limner.storage.sql.accounts import User
from limner.storage.sql.jobs import create_job

LOOK_S = 5.0


class Bell:
    """Wakes the loop that claims."""

    def __init__(self) -> None:
        self.rung = asyncio.Event()

    async def handle(self, message: Ring, work: UnitOfWork) -> None:
        """Ring."""
        self.rung.set()


class Taker:
    """Takes the public command: makes the job under an id derived from the message's."""

    def __init__(self, model: str) -> None:
        self._model = model

    async def handle(self, message: Generate, work: UnitOfWork) -> None:
        """Store the job and ring.

        Raises:
            Invalid: there is no such user.
        """
        envelope = work.envelope
        user = (
            await User.get_or_none(email=message.user)
            if "@" in message.user
            else await User.get_or_none(id=message.user)
        )
        if user is None or user.state != "active":
            raise Invalid("no such user", faults=[("/user", "is no active account")])
        ident = None
        if envelope is not None:
            ident = derived_id("job", envelope.app_id, envelope.message_id)
        asked = message.model_dump(exclude={"user", "kind"})
        wanted = Wanted(media=message.kind, model=self._model, **asked)
        job = create_job(work, wanted.columns(), user_id=user.id, ident=ident)
        work.send(Ring(job_id=job.id))


def build(ports: Ports, painter: Painter | None = None) -> Actor[Ring]:
    """The generator needs a painter (default: the configured model) and the object store."""
    chosen = painter
    if chosen is None:
        chosen = Studio(ports.settings.generator.model, ports.settings.generator.device)
    bell = Bell()
    batches = Batches(ports, chosen)

    async def claim(stop: asyncio.Event) -> None:
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                bell.rung.clear()
                if await batches.run_one():
                    continue
                ringing = asyncio.create_task(bell.rung.wait())
                await asyncio.wait(
                    {ringing, stopped}, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED
                )
                ringing.cancel()
        finally:
            stopped.cancel()

    return Actor(
        name="generator",
        inbox=Ring,
        handler=bell,
        others={Generate: Taker(model_name(ports.settings.generator.model))},
        loops=(Loop("generator.claims", claim),),
        close=chosen.aclose,
    )

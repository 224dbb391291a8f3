"""The generator: claims jobs from the table, paints them in batches, stores what came out.

A message only rings. Jobs are claimed under a lease with a fencing token, so that a worker that
was paused overwrites nothing, and one that died gives its jobs back.
"""

import asyncio
import secrets

from limner.actors.generator.batches import Batches
from limner.actors.generator.messages import Generate, Ring
from limner.actors.generator.painter import Painter
from limner.actors.generator.studio import Studio
from limner.actors.ports import Ports
from limner.actors.submitter.rules import price
from limner.core.actor import Actor, Loop
from limner.core.errors import Invalid
from limner.core.ids import derived_id, new_id
from limner.core.unit import UnitOfWork
from limner.storage.sql.accounts import User
from limner.storage.sql.jobs import QUEUED, Job

LOOK_S = 5.0
SEED_BITS = 32


class Bell:
    """Wakes the loop that claims."""

    def __init__(self) -> None:
        self.rung = asyncio.Event()

    async def handle(self, message: Ring, work: UnitOfWork) -> None:
        """Ring."""
        self.rung.set()


class Taker:
    """Takes the public command: makes the job under an id derived from the message's."""

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
        ident = new_id("job")
        if envelope is not None:
            ident = derived_id("job", envelope.app_id, envelope.message_id)
        video = message.kind == "video"
        count = 1 if video else message.count
        job = Job(
            id=ident,
            state=QUEUED,
            user_id=user.id,
            media=message.kind,
            prompt=message.prompt,
            negative_prompt=message.negative_prompt,
            width=message.width,
            height=message.height,
            steps=message.steps,
            guidance=message.guidance,
            seed=secrets.randbits(SEED_BITS) if message.seed is None else message.seed,
            count=count,
            frames=message.frames if video else 0,
            fps=message.fps if video else 0,
            cost=price(
                message.kind,
                width=message.width,
                height=message.height,
                steps=message.steps,
                count=count,
            ),
        )
        work.add(job)
        work.send(Ring(job_id=ident))


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
        others={Generate: Taker()},
        loops=(Loop("generator.claims", claim),),
        close=chosen.aclose,
    )

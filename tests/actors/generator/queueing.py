"""Queued jobs, as the tests of this folder need them."""

from datetime import timedelta
from typing import Any

from limner.actors.generator.batches import Batches
from limner.actors.ports import Ports
from limner.core.ids import new_id
from limner.storage.sql.jobs import Job
from tests.fakes.stage import Stage


async def queue(ports: Ports, prompt: str, *, age_s: float = 0, **fields: Any) -> Job:
    """Store a job that has been waiting for ``age_s`` seconds."""
    job = Job(
        **{
            "id": new_id("job"),
            "state": "queued",
            "user_id": "user_1",
            "prompt": prompt,
            "created_at": ports.clock.now() - timedelta(seconds=age_s),
            **fields,
        }
    )
    await Stage(ports).keep(job)
    return job


async def state(job: Job) -> str:
    return (await Job.get(id=job.id)).state


async def paint_all(batches: Batches) -> None:
    while await batches.run_one():
        continue

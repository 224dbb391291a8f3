"""The sweeper: nothing stays stuck, nothing is kept for ever.

Every few seconds it looks for leases that have ended: an effect that was begun and never finished
becomes ``unknown`` and is reconciled, a job goes back into the queue. It seals the audit chain,
ends reviews that nobody made, and, by schedule, deletes what has served its time. What the broker
gave up it puts back once, and then keeps as a dead letter; what it lost is rung again.
"""

import asyncio
from datetime import timedelta

from limner.actors.mailer.messages import Reconcile as ReconcileMail
from limner.actors.ports import Ports
from limner.actors.status.messages import Check
from limner.actors.submitter.messages import Reconcile as ReconcileTask
from limner.actors.sweeper.cleaning import Cleaner, Retainer
from limner.actors.sweeper.drain import Drain
from limner.actors.sweeper.erasing import Erasing, Forgetting
from limner.actors.sweeper.messages import Clean, Erase, Forget, Retain, RotateKeys
from limner.actors.sweeper.ringing import Ringer
from limner.actors.sweeper.rotation import Rotator
from limner.core.actor import Actor, Loop
from limner.core.errors import LimnerError
from limner.core.logs import get_logger
from limner.core.unit import UnitOfWork
from limner.storage.sql import chain
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.jobs import FAILED, QUEUED, RUNNING, Job
from limner.storage.sql.tasks import Task

log = get_logger("sweeper")

TICK_S = 5.0
CLEANING_LIMIT_S = 1_500.0
"""RabbitMQ takes a message back that nobody acknowledged for 30 minutes; the next run goes on."""
# Only jobs that kill their workers shall end here. A machine that is restarted again and again
# says nothing about the jobs it had in hand, so the limit is that of a quorum queue's deliveries.
JOB_ATTEMPTS = 20
BATCH = 100


class Sweeper:
    """One sweep after the other."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep every ``TICK_S`` seconds until ``stop``."""
        while not stop.is_set():
            await self.sweep()
            try:
                await asyncio.wait_for(stop.wait(), TICK_S)
            except TimeoutError:
                continue

    async def sweep(self) -> int:
        """Sweep once and give how many rows were put right."""
        swept = 0
        for one in (
            self._deliveries,
            self._submissions,
            self._resubmissions,
            self._jobs,
            self._reviews,
            self._silent_jobs,
        ):
            swept += await one()
        while await chain.seal(self._ports.database) == chain.BATCH:
            continue
        self._ports.metrics.outbox_rows.set(await self._ports.outbox.depth())
        return swept

    async def _deliveries(self) -> int:
        """Mails whose sender died between the beginning and the end: nobody knows; look them up."""
        found = await self._ports.leases.expired(Delivery, ("sending",))
        for delivery in await Delivery.filter(id__in=found):
            work = self._ports.units.open("sweeper")
            work.follow(delivery.trace_id)
            reason = "the sender ended before the answer was stored"
            work.move(
                delivery, expected="sending", to="unknown", token=delivery.token, error=reason
            )
            task = await Task.found(delivery.task_id) if delivery.task_id else None
            if task is not None and task.state == "succeeded":
                work.move(task, expected="succeeded", to="unknown", detail=reason, error=reason)
            work.audit("mail.unknown", subject=delivery.id, data={"reason": reason})
            work.send(ReconcileMail(delivery_id=delivery.id))
            await self._ports.units.commit(work)
        return len(found)

    async def _submissions(self) -> int:
        """Tasks whose submission was begun and not finished: ask the provider."""
        found = await self._ports.leases.expired(Task, ("extracted",))
        for task in await Task.filter(id__in=found):
            work = self._ports.units.open("sweeper")
            work.follow(task.trace_id)
            reason = "the submission ended before the answer was stored"
            work.move(
                task,
                expected="extracted",
                to="unknown",
                token=task.token,
                detail=reason,
                error=reason,
            )
            work.send(ReconcileTask(task_id=task.id))
            await self._ports.units.commit(work)
        return len(found)

    async def _resubmissions(self) -> int:
        """Tasks whose reconciliation submitted again and died in it: reconcile once more."""
        found = await self._ports.leases.expired(Task, ("unknown",))
        for task in await Task.filter(id__in=found):
            work = self._ports.units.open("sweeper")
            work.follow(task.trace_id)
            work.change(task, guard={"state": "unknown", "token": task.token}, lease_until=None)
            work.send(ReconcileTask(task_id=task.id))
            await self._ports.units.commit(work)
        return len(found)

    async def _jobs(self) -> int:
        """Jobs whose worker died: back into the queue, or failed after too many workers."""
        found = await self._ports.leases.expired(Job, (RUNNING,))
        for job in await Job.filter(id__in=found):
            work = self._ports.units.open("sweeper")
            work.follow(job.trace_id)
            if job.attempts >= JOB_ATTEMPTS:
                reason = f"{job.attempts} workers ended while they made it"
                work.move(
                    job, expected=RUNNING, to=FAILED, token=job.token, detail=reason, error=reason
                )
                await self._look(job, work)
            else:
                work.move(
                    job, expected=RUNNING, to=QUEUED, token=job.token, detail="its worker ended"
                )
            await self._ports.units.commit(work)
        return len(found)

    async def _look(self, job: Job, work: UnitOfWork) -> None:
        task = await Task.found(job.task_id) if job.task_id else None
        if task is not None:
            work.send(Check(task_id=task.id, round=task.round, n=0))

    async def _silent_jobs(self) -> int:
        """Tasks that wait for a local job which has ended: have them looked at once more."""
        since = self._ports.clock.now() - timedelta(seconds=60)
        tasks = await Task.filter(
            provider="local", state__in=("submitted", "running"), updated_at__lt=since
        ).limit(BATCH)
        ended = {
            job.task_id
            for job in await Job.filter(
                task_id__in=[task.id for task in tasks],
                state__in=tuple(Job.ended_states()),
                updated_at__lt=since,
            )
        }
        silent = [task for task in tasks if task.id in ended]
        if silent:
            work = self._ports.units.open("sweeper")
            for task in silent:
                work.send(Check(task_id=task.id, round=task.round, n=0))
            await self._ports.units.commit(work)
        return len(silent)

    async def _reviews(self) -> int:
        """Wishes that nobody reviewed in time have expired."""
        ttl_s = (await self._ports.tunables.current()).review_ttl_s
        before = self._ports.clock.now() - timedelta(seconds=ttl_s)
        late = await Task.filter(state="needs_review", updated_at__lt=before).limit(BATCH)
        for task in late:
            work = self._ports.units.open("sweeper")
            work.follow(task.trace_id)
            work.move(task, expected="needs_review", to="expired", detail="nobody reviewed it")
            try:
                await self._ports.units.commit(work)
            except LimnerError as error:
                log.warning("a review could not be ended", task_id=task.id, error=error.detail)
        return len(late)


def build(ports: Ports) -> Actor[Clean]:
    """The sweeper needs the database and the object store."""
    return Actor(
        name="sweeper",
        inbox=Clean,
        handler=Cleaner(ports),
        others={
            Retain: Retainer(ports),
            Erase: Erasing(ports),
            Forget: Forgetting(ports),
            RotateKeys: Rotator(ports),
        },
        concurrency=1,
        timeout_s=CLEANING_LIMIT_S,
        loops=(
            Loop("sweeper.sweeps", Sweeper(ports).run),
            Loop("sweeper.drain", Drain(ports).run),
            Loop("sweeper.ring", Ringer(ports).run),
        ),
    )

"""Batches: which jobs are painted together, and what is stored of each.

Order of claims: priority, then age, both as minutes: a point of priority weighs as much as
``PRIORITY_S`` seconds of waiting, so that a job without priority is never passed over for ever.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from limner.actors.generator.painter import Order, Output, Painting
from limner.actors.generator.painter import Painter as PainterPort
from limner.actors.ports import Ports
from limner.actors.status.messages import Check
from limner.core.errors import EngineUnavailable, LeaseLost, LimnerError, Permanent
from limner.core.ids import uuid7_hex
from limner.core.logs import get_logger
from limner.core.message import Envelope, Event, announced
from limner.core.unit import Commit
from limner.storage.sql.claims import claim_jobs
from limner.storage.sql.jobs import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED, Job, claim_weight
from limner.storage.sql.tasks import Task

log = get_logger("generator")

ATTEMPTS = 3
PROGRESS_S = 0.25
CANCEL_LOOK_S = 0.5
MAX_OUTPUT_BYTES = 500_000_000


@dataclass
class Claimed:
    """A job in hand: the row as it was, its token and heartbeat, and how far it is."""

    job: Job
    token: int
    started: float = field(default_factory=time.perf_counter)
    step: int = 0
    steps: int = 1
    cancelled: bool = False
    lease: AsyncExitStack = field(default_factory=AsyncExitStack)


class Batches:
    """Claims, paints and stores one batch after the other."""

    def __init__(self, ports: Ports, painter: PainterPort) -> None:
        self._ports = ports
        self._painter = painter

    async def run_one(self) -> bool:
        """Paint one batch; False if there is nothing to do.

        Raises:
            EngineUnavailable: the database does not answer.
        """
        claimed = await self._claim()
        if not claimed:
            return False
        try:
            await self._tell_tasks(claimed)
            async with AsyncExitStack() as leases:
                for one in claimed:
                    await leases.enter_async_context(one.lease)
                    await one.lease.enter_async_context(self._ports.leases.keep(one.job, one.token))
                watching = asyncio.create_task(self._watch(claimed))
                try:
                    await self._paint(claimed)
                finally:
                    watching.cancel()
                    await asyncio.gather(watching, return_exceptions=True)
        except LeaseLost as error:
            log.warning("a batch was broken off", jobs=len(claimed), why=error.detail)
            await self._give_back(claimed, "another job of its batch was lost")
        except (asyncio.CancelledError, EngineUnavailable):
            await self._give_back(claimed, "its worker stops")
            raise
        return True

    async def _claim(self) -> list[Claimed]:
        now = self._ports.clock.now()
        jobs = await claim_jobs(
            self._ports.database,
            lambda queued: self._choose(queued, now),
            lease_s=self._ports.leases.lease_s,
            worker_id=self._ports.worker_id,
        )
        for job in jobs:
            waited_s = max(0.0, (now - job.created_at).total_seconds())
            self._ports.metrics.job_wait.labels("generator").observe(waited_s)
        await self._ports.outbox.offer([_event(job, "running", now) for job in jobs])
        # A job that was given back after its owner cancelled it: its first step is its last.
        return [Claimed(job, job.token, cancelled=job.cancel_requested) for job in jobs]

    def _choose(self, queued: list[Job], now: datetime) -> list[Job]:
        """Give the heaviest job and, from the heaviest on, those that are made alike."""
        queued.sort(key=lambda job: claim_weight(job, now), reverse=True)
        chosen: list[Job] = []
        key, room = None, self._painter.max_batch
        for job in queued:
            order = _order(job)
            key = key or order.batch_key
            if order.batch_key != key or (chosen and order.count > room):
                continue
            chosen.append(job)
            room -= order.count
            if room <= 0:
                break
        return chosen

    async def _tell_tasks(self, claimed: Sequence[Claimed]) -> None:
        """Have the tasks of the claimed jobs looked at: they run now."""
        tasks = [one.job.task_id for one in claimed if one.job.task_id]
        if not tasks:
            return
        work = self._ports.units.open("generator")
        for task in await Task.filter(id__in=tasks):
            work.send(Check(task_id=task.id, round=task.round, n=0))
        await self._ports.units.commit(work)

    async def _paint(self, claimed: list[Claimed]) -> None:
        by_id = {one.job.id: one for one in claimed}

        def report(job_id: str, step: int, steps: int) -> bool:
            one = by_id[job_id]
            one.step, one.steps = max(step, one.step), steps
            return not one.cancelled

        try:
            paintings = await self._painter.paint([_order(one.job) for one in claimed], report)
        except LimnerError as error:
            final = isinstance(error, Permanent)
            for one in claimed:
                await self._fail(one, error.detail, final=final)
        except Exception as error:
            log.exception("painting failed", jobs=len(claimed))
            for one in claimed:
                await self._fail(one, f"{type(error).__name__}: {error}", final=False)
        else:
            # Together, so that their files and their units are not written one after the other.
            try:
                async with asyncio.TaskGroup() as storing:
                    for one, painting in zip(claimed, paintings, strict=True):
                        storing.create_task(self._store(one, painting))
            except ExceptionGroup as group:
                raise group.exceptions[0] from None

    async def _store(self, one: Claimed, painting: Painting) -> None:
        """Put the outputs into the store, then end the job; both under this lease's token."""
        if painting.outputs is None:
            await self._end(one, CANCELLED, error="cancelled")
            return
        outputs = [await self._put(one, n, output) for n, output in enumerate(painting.outputs)]
        await self._end(
            one, SUCCEEDED, outputs=outputs, progress=1.0, warnings=list(painting.warnings)
        )

    async def _put(self, one: Claimed, n: int, output: Output) -> dict[str, Any]:
        objects = self._ports.objects
        suffix = "webm" if output.content_type.startswith("video/") else "png"
        key = f"jobs/{one.job.id}/{one.token}-{n}.{suffix}"
        await objects.put(
            key, output.content, output.content_type, size_limit_bytes=MAX_OUTPUT_BYTES
        )
        stored: dict[str, Any] = {
            "key": key,
            "content_type": output.content_type,
            "width": output.width,
            "height": output.height,
            "blurhash": output.blurhash,
            "size_bytes": len(output.content),
        }
        if output.poster is not None:
            stored["poster_key"] = f"jobs/{one.job.id}/{one.token}-{n}-poster.png"
            await objects.put(
                stored["poster_key"],
                output.poster,
                "image/png",
                size_limit_bytes=MAX_OUTPUT_BYTES,
            )
        return stored

    async def _fail(self, one: Claimed, reason: str, *, final: bool) -> None:
        """End the job, or give it back for another attempt."""
        if final or one.job.attempts + 1 >= ATTEMPTS:
            await self._end(one, FAILED, error=reason[:1000])
            return
        await one.lease.aclose()
        work = self._ports.units.open("generator")
        work.follow(one.job.trace_id)
        work.move(one.job, expected=RUNNING, to=QUEUED, token=one.token, detail=reason)
        await self._ports.units.commit(work)

    async def _give_back(self, claimed: Sequence[Claimed], why: str) -> None:
        """Put what is not finished back into the queue at once; it was no attempt."""
        for one in claimed:
            work = self._ports.units.open("generator")
            work.follow(one.job.trace_id)
            work.move(
                one.job,
                expected=RUNNING,
                to=QUEUED,
                token=one.token,
                detail=why,
                attempts=one.job.attempts,
            )
            await self._ports.units.commit(work)

    async def _end(self, one: Claimed, state: str, **changes: Any) -> None:
        # A heartbeat that met the ended job would take the rest of the batch for lost.
        await one.lease.aclose()
        work = self._ports.units.open("generator")
        work.follow(one.job.trace_id)
        work.move(
            one.job,
            expected=RUNNING,
            to=state,
            token=one.token,
            detail=str(changes.get("error", "")),
            seconds=round(time.perf_counter() - one.started, 3),
            device=self._painter.device,
            model_hash=self._painter.model_hash,
            **changes,
        )
        task = await Task.found(one.job.task_id) if one.job.task_id else None
        if task is not None:
            work.send(Check(task_id=task.id, round=task.round, n=0))
        commit = await self._ports.units.commit(work)
        if commit is Commit.DONE:
            self._ports.metrics.jobs_finished.labels("generation", state).inc()
        else:
            log.info("a job was ended elsewhere", job_id=one.job.id, why=commit.value)

    async def _watch(self, claimed: list[Claimed]) -> None:
        """Announce progress, which is not stored, and see who has been cancelled."""
        told: dict[str, int] = {}
        looked = 0.0
        while True:
            await asyncio.sleep(PROGRESS_S)
            events = [
                event
                for one in claimed
                if told.get(one.job.id) != one.step
                for event in _progress(one, self._ports.clock.now())
            ]
            told = {one.job.id: one.step for one in claimed}
            await self._ports.outbox.offer(events)
            looked += PROGRESS_S
            if looked >= CANCEL_LOOK_S:
                looked = 0.0
                ids = [one.job.id for one in claimed]
                gone = {job.id for job in await Job.filter(id__in=ids, cancel_requested=True)}
                for one in claimed:
                    one.cancelled = one.cancelled or one.job.id in gone


def _order(job: Job) -> Order:
    return Order(
        job_id=job.id,
        media=job.media,
        prompt=job.prompt,
        negative_prompt=job.negative_prompt,
        width=job.width,
        height=job.height,
        steps=job.steps,
        guidance=job.guidance,
        seed=job.seed,
        count=job.count,
        frames=job.frames or 16,
        fps=job.fps or 16,
    )


def _event(job: Job, state: str, now: datetime) -> Envelope:
    """Announce a job's new state."""
    return _announcement(job, f"job.{state}", ("job", job.id), {"state": state}, now)


def _progress(one: Claimed, now: datetime) -> list[Envelope]:
    percent = round(100 * one.step / max(1, one.steps))
    data = {"percent": percent, "step": one.step, "steps": one.steps}
    subjects = [("job", one.job.id)]
    if one.job.task_id:
        subjects.append(("task", one.job.task_id))
    return [
        _announcement(one.job, f"{subject[0]}.progress", subject, data, now) for subject in subjects
    ]


def _announcement(
    job: Job, name: str, subject: tuple[str, str], data: Mapping[str, Any], now: datetime
) -> Envelope:
    kind, ident = subject
    event = Event(
        id=uuid7_hex(),
        type=name,
        at=now,
        user_id=job.user_id,
        subject={"kind": kind, "id": ident},
        data=dict(data),
    )
    return announced(event, job.trace_id)

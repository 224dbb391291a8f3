"""What surrounds every handler, outermost first: recovery, log, time limit.

Each is a function that takes the next one; an actor may bring its own sequence.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from limner.core.errors import (
    Ambiguous,
    EngineUnavailable,
    LeaseLost,
    LimnerError,
    Permanent,
    Stale,
    TimedOut,
    Transient,
)
from limner.core.logs import get_logger, is_debug
from limner.core.message import Envelope, Message
from limner.core.metrics import Metrics
from limner.core.unit import UnitOfWork

log = get_logger("actor")


@dataclass(frozen=True, slots=True)
class Job:
    """One message on its way through a handler."""

    actor: str
    message: Message
    handler: Any
    work: UnitOfWork
    envelope: Envelope
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Fate:
    """What shall become of a message: its unit is committed, it comes again, or it is dead."""

    verdict: Literal["done", "again", "dead"]
    reason: str = ""
    detail: str = ""
    after_s: float | None = None


DONE = Fate("done")

Handle = Callable[[Job], Awaitable[Fate]]
Middleware = Callable[[Handle], Handle]


def recovery(following: Handle) -> Handle:
    """Turn what a handler raises into a fate.

    Transient errors and bugs come again; permanent ones are dead letters; a handler that found
    somebody else at work is done. Engine failures and cancellation pass through: they are no
    attempt of this message.
    """

    async def call(job: Job) -> Fate:
        try:
            return await following(job)
        except EngineUnavailable:
            raise
        except (Stale, LeaseLost) as error:
            log.info("left to another worker", why=error.detail)
            return Fate("done", reason=error.code)
        except (Permanent, Ambiguous) as error:
            return Fate("dead", error.code, in_full(error))
        except Transient as error:
            return Fate("again", error.code, error.detail, after_s=error.retry_after_s)
        except Exception as error:
            if not isinstance(error, LimnerError):
                log.exception("bug in a handler", topic=job.envelope.topic)
            return Fate("again", "error", f"{type(error).__name__}: {error}")

    return call


def in_full(error: LimnerError) -> str:
    """Give an error's sentence with all faults it lists."""
    faults = getattr(error, "faults", ())
    return "; ".join([error.detail, *(f"{pointer}: {text}" for pointer, text in faults)])


def logging(following: Handle) -> Handle:
    """Bind actor, trace and attempt to every log line, and log how long the handler took."""

    async def call(job: Job) -> Fate:
        # Each message has a task of its own, and with it a context: nothing to undo.
        structlog.contextvars.bind_contextvars(
            actor=job.actor, trace_id=job.work.trace_id, attempt=job.envelope.attempt
        )
        started = time.perf_counter()
        try:
            fate = await following(job)
        except Exception as error:
            log.info(
                "failed",
                topic=job.envelope.topic,
                error=str(error) or type(error).__name__,
                duration_s=round(time.perf_counter() - started, 4),
            )
            raise
        if is_debug():
            log.debug(
                "handled",
                topic=job.envelope.topic,
                duration_s=round(time.perf_counter() - started, 4),
            )
        return fate

    return call


def time_limit(following: Handle) -> Handle:
    """End a handler after the actor's ``timeout_s`` seconds with TimedOut."""

    async def call(job: Job) -> Fate:
        try:
            async with asyncio.timeout(job.timeout_s) as limit:
                return await following(job)
        except TimeoutError as error:
            if limit.expired():
                raise TimedOut(f"no end within {job.timeout_s:g} s") from error
            raise

    return call


DEFAULT_MIDDLEWARE: tuple[Middleware, ...] = (recovery, logging, time_limit)


async def _handle(job: Job) -> Fate:
    await job.handler.handle(job.message, job.work)
    return DONE


def chain(
    middleware: Sequence[Middleware],
) -> Callable[[Job, int, Metrics], Awaitable[Fate]]:
    """Build the call: middleware around the handler, limit on attempts, duration."""
    handle: Handle = _handle
    for layer in reversed(middleware):
        handle = layer(handle)

    async def call(job: Job, max_attempts: int, metrics: Metrics) -> Fate:
        started = time.perf_counter()
        fate = await handle(job)
        if fate.verdict == "again" and job.envelope.attempt >= max_attempts:
            fate = Fate("dead", "attempts_exhausted", fate.detail or fate.reason)
        metrics.observe_job(job.actor, time.perf_counter() - started)
        return fate

    return call

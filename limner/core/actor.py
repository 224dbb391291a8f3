"""Actor: an inbox, a handler, its concurrency, time limit and attempts; and the loop that runs it.

The loop owns messages: whatever a handler does, each delivery ends committed and acknowledged,
scheduled again, or kept as a dead letter with its reason. The supervisor owns loops.
"""

import asyncio
from asyncio import FIRST_COMPLETED
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from limner.core.backoff import Backoff
from limner.core.broker import Broker, Deliveries, Delivery
from limner.core.clock import Clock
from limner.core.errors import EngineUnavailable, Invalid, LimnerError
from limner.core.logs import get_logger
from limner.core.message import BODY_LIMIT_BYTES, Envelope, Message
from limner.core.metrics import Metrics
from limner.core.middleware import DEFAULT_MIDDLEWARE, Fate, Job, Middleware, chain, in_full
from limner.core.patience import ENGINE_HOLD_S, patiently
from limner.core.unit import Again, Commit, Dead, UnitOfWork, Units

log = get_logger("actor")

M = TypeVar("M", bound=Message)
M_contra = TypeVar("M_contra", bound=Message, contravariant=True)


class Handler(Protocol[M_contra]):
    """The work of an actor for one kind of message."""

    async def handle(self, message: M_contra, work: UnitOfWork) -> None:
        """Read what is needed and say in ``work`` what shall change."""
        ...


@runtime_checkable
class Abandons(Protocol):
    """A handler that has something to put right when its message becomes a dead letter."""

    async def abandon(self, message: Any, reason: str, work: UnitOfWork) -> None:
        """Add to the unit that keeps the dead letter, e.g. move the task to ``failed``."""
        ...


@dataclass(frozen=True)
class Loop:
    """Something the supervisor keeps running until it is told to stop."""

    name: str
    run: Callable[[asyncio.Event], Awaitable[None]]


@dataclass(frozen=True)
class Actor(Generic[M]):
    """What a process runs under one name.

    ``inbox`` and ``handler`` are the message it is for; ``others`` map further messages of the
    same actor to their handlers. ``concurrency`` 0 means the setting's. ``loops`` run beside the
    inbox, e.g. a generator's claims. ``close`` is awaited when the process ends.
    """

    name: str
    inbox: type[M] | None = None
    handler: Handler[M] | None = None
    others: Mapping[type[Message], Handler[Any]] = field(default_factory=dict)
    concurrency: int = 0
    timeout_s: float = 0.0
    max_attempts: int = 0
    backoff: Backoff = field(default_factory=Backoff)
    loops: Sequence[Loop] = ()
    close: Callable[[], Awaitable[None]] | None = None
    middleware: Sequence[Middleware] = DEFAULT_MIDDLEWARE

    @property
    def handlers(self) -> dict[str, tuple[type[Message], Handler[Any]]]:
        """Topic to message class and handler."""
        table: dict[str, tuple[type[Message], Handler[Any]]] = {}
        if self.inbox is not None and self.handler is not None:
            table[self.inbox.topic] = (self.inbox, self.handler)
        for message, handler in self.others.items():
            table[message.topic] = (message, handler)
        return table

    def with_defaults(self, *, concurrency: int, timeout_s: float, max_attempts: int) -> "Actor[M]":
        """Fill in the settings for what the actor leaves open."""
        return replace(
            self,
            concurrency=self.concurrency or concurrency,
            timeout_s=self.timeout_s or timeout_s,
            max_attempts=self.max_attempts or max_attempts,
        )


class ActorLoop:
    """Takes an actor's deliveries one by one to their fate, ``concurrency`` at a time."""

    def __init__(
        self, actor: Actor[Any], broker: Broker, units: Units, clock: Clock, metrics: Metrics
    ) -> None:
        self._actor = actor
        self._broker = broker
        self._units = units
        self._clock = clock
        self._metrics = metrics
        self._handlers = actor.handlers
        self._call = chain(actor.middleware)

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until ``stop`` is set, then finish what is in hand.

        If the broker goes away, what is in hand is finished too, within ``ENGINE_HOLD_S``: its
        units commit, and the broker's second delivery is dropped as a repetition.

        Raises:
            EngineUnavailable: the broker went away, or the database stayed away longer than
                ``ENGINE_HOLD_S``.
        """
        actor = self._actor
        # A database that is away would only have messages taken, held and given back.
        await self._units.check()
        async with self._broker.consume(actor.name, actor.concurrency) as deliveries:
            lost: EngineUnavailable | None = None
            async with asyncio.TaskGroup() as group:
                hands: set[asyncio.Task[None]] = set()
                receiving = asyncio.ensure_future(self._receive(deliveries, stop, group, hands))
                stopped = asyncio.ensure_future(stop.wait())
                try:
                    await asyncio.wait({receiving, stopped}, return_when=FIRST_COMPLETED)
                finally:
                    ended = receiving.done()
                    stopped.cancel()
                    receiving.cancel()
                    await asyncio.gather(receiving, stopped, return_exceptions=True)
                if ended:
                    lost = _loss(receiving)
                    await self._finish_hands(hands)
                else:
                    # What is in hand is finished; others shall have the rest now.
                    await deliveries.cease()
            if lost is not None:
                raise lost

    async def _receive(
        self,
        deliveries: Deliveries,
        stop: asyncio.Event,
        group: asyncio.TaskGroup,
        hands: set[asyncio.Task[None]],
    ) -> None:
        """Start a task for each delivery; the broker hands out no more than the concurrency."""
        async for delivery in deliveries:
            if stop.is_set():
                await delivery.release()
                return
            hand = group.create_task(self._take(delivery))
            hands.add(hand)
            hand.add_done_callback(hands.discard)

    async def _finish_hands(self, hands: set[asyncio.Task[None]]) -> None:
        """Let what is in hand come to its end, and cancel what does not in time."""
        if hands:
            _, late = await asyncio.wait(tuple(hands), timeout=ENGINE_HOLD_S)
            for hand in late:
                hand.cancel()

    async def _take(self, delivery: Delivery) -> None:
        """Take one delivery to its end; give it back if the process stops or an engine is gone."""
        try:
            await patiently(lambda: self.settle(delivery.envelope), self._clock)
            await delivery.ack()
        except BaseException:
            await delivery.release()
            raise

    async def settle(self, envelope: Envelope) -> None:
        """Handle one message and commit what became of it.

        Raises:
            EngineUnavailable: nothing was committed; call it again.
        """
        if envelope.fault is not None:
            await self._bury(envelope, *envelope.fault)
            return
        try:
            kind, handler = self._handler_of(envelope)
            message = kind.from_bytes(envelope.body)
        except Invalid as error:
            await self._bury(envelope, error.code, in_full(error))
            return
        work = self._units.open(self._actor.name, envelope)
        job = Job(self._actor.name, message, handler, work, envelope, self._actor.timeout_s)
        try:
            fate = await self._call(job, self._actor.max_attempts, self._metrics)
            commit = await self._finish(job, fate)
        except BaseException:
            await self._units.discard(work)
            raise
        if commit is not Commit.DONE:
            log.info("unit dropped", actor=self._actor.name, why=commit.value, topic=envelope.topic)

    async def _finish(self, job: Job, fate: Fate) -> Commit:
        """Commit the handler's unit, or in its stead one that says what the fate was."""
        again = job.work.fate
        last = job.envelope.attempt >= self._actor.max_attempts
        if isinstance(again, Again) and last:
            fate = Fate("dead", "attempts_exhausted", again.reason)
        if fate.verdict == "done" and not fate.reason:
            outcome = {Again: "again", Dead: "dead"}.get(type(again), "done")
            try:
                # The handler has run: while an engine is away its unit waits, not its effects.
                return self._count(outcome, await self._commit(job.work))
            except EngineUnavailable:
                raise
            except Exception as error:  # noqa: BLE001 - a bug in the unit is one attempt used up
                reason, detail = self._refusal("commit refused", error)
                fate = Fate("dead" if last else "again", reason, detail)
        await self._units.discard(job.work)
        if fate.verdict == "dead":
            return await self._bury(job.envelope, fate.reason, fate.detail, job)
        work = self._units.open(self._actor.name, job.envelope)
        if fate.verdict == "again":
            after_s = fate.after_s
            if after_s is None:
                after_s = self._actor.backoff.delay_s(job.envelope.attempt)
            work.retry(fate.reason, after_s=after_s)
        return self._count(fate.verdict, await self._units.commit(work))

    async def _commit(self, work: UnitOfWork) -> Commit:
        if not work.repeatable:
            return await self._units.commit(work)
        return await patiently(lambda: self._units.commit(work), self._clock)

    async def _bury(
        self, envelope: Envelope, reason: str, detail: str, job: Job | None = None
    ) -> Commit:
        """Keep a dead letter; the handler's ``abandon`` may add to the same unit."""
        work = self._units.open(self._actor.name, envelope)
        work.bury(reason, detail)
        if job is not None and isinstance(job.handler, Abandons):
            try:
                async with asyncio.timeout(job.timeout_s):
                    await job.handler.abandon(job.message, detail or reason, work)
                return self._count("dead", await self._units.commit(work))
            except BaseException as error:
                await self._units.discard(work)
                if isinstance(error, EngineUnavailable) or not isinstance(error, Exception):
                    raise
                self._refusal("abandon failed", error)
            work = self._units.open(self._actor.name, envelope)
            work.bury(reason, detail)
        return self._count("dead", await self._units.commit(work))

    def _count(self, outcome: str, commit: Commit) -> Commit:
        if commit is not Commit.REPEATED:
            self._metrics.count_job(self._actor.name, outcome)
        return commit

    def _refusal(self, event: str, error: Exception) -> tuple[str, str]:
        """Log what went wrong after the handler, with its traceback if it is a bug."""
        if isinstance(error, LimnerError):
            log.warning(event, actor=self._actor.name, error=error.detail)
            return error.code, error.detail
        log.error(event, actor=self._actor.name, exc_info=error)
        return "error", f"{type(error).__name__}: {error}"

    def _handler_of(self, envelope: Envelope) -> tuple[type[Message], Handler[Any]]:
        if len(envelope.body) > BODY_LIMIT_BYTES:
            raise Invalid("the body is over 1 MiB", code="message_too_large")
        try:
            return self._handlers[envelope.topic]
        except KeyError:
            raise Invalid(
                f"{self._actor.name} takes {', '.join(sorted(self._handlers)) or 'no messages'}, "
                f"not {envelope.topic}",
                code="unknown_message",
            ) from None


def _loss(receiving: "asyncio.Future[None]") -> EngineUnavailable | None:
    """Give why receiving ended, if the broker went away.

    Raises:
        Exception: it ended for another reason: a bug, which the supervisor counts.
    """
    error = None if receiving.cancelled() else receiving.exception()
    if error is not None and not isinstance(error, EngineUnavailable):
        raise error
    return error

"""The unit of work over SQL; its port is ``limner.core.unit``."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import Any

import structlog
from tortoise.exceptions import IntegrityError
from tortoise.models import Model

from limner.core.broker import Broker
from limner.core.clock import Clock
from limner.core.errors import Conflict, EngineUnavailable, Stale
from limner.core.failpoints import declare, step
from limner.core.ids import new_id, uuid7_hex
from limner.core.logs import get_logger
from limner.core.message import Envelope, Event, Message, new_trace_id, seal
from limner.core.unit import Again, Commit, Dead, Step, UnitOfWork
from limner.storage.sql.aggregate import Aggregate, Leased
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.beginnings import Beginning
from limner.storage.sql.changes import (
    Change,
    FirstLine,
    Guarded,
    Insert,
    Line,
    Run,
    lines_for,
)
from limner.storage.sql.committer import Committer
from limner.storage.sql.connection import Connection
from limner.storage.sql.database import Database
from limner.storage.sql.group_writer import GroupWriter
from limner.storage.sql.notifications import notify
from limner.storage.sql.statements import UnitWriter

DB_COMMIT = declare("db.commit")
DB_BEGIN = declare("db.begin_effect")
REQUEST_TRIES = 3
REQUEST_PAUSE_S = 0.2

Offer = Callable[[list[Envelope]], Awaitable[None]]
Early = tuple[AbstractAsyncContextManager[Connection], Connection]

log = get_logger("units")


class SqlUnit:
    """Collects changes in order; ``SqlUnits`` commits them."""

    def __init__(
        self,
        units: "SqlUnits",
        consumer: str,
        envelope: Envelope | None,
        now: datetime,
    ) -> None:
        self._units = units
        self.consumer = consumer
        self._envelope = envelope
        self._now = now
        self._trace_id = envelope.trace_id if envelope else ""
        self.key = _inbox_key(consumer, envelope) if envelope else uuid7_hex()
        self.changes: list[Change] = []
        self.commands: list[tuple[Envelope, float]] = []
        self.events: list[tuple[Aggregate | None, Event]] = []
        self.fate: Again | Dead | None = None
        self.early: Early | None = None
        self.is_doubtful = False
        self.is_abandoned = False
        self.was_early = False
        self.moved_on = False
        self.actor_id = ""
        self.forgotten: set[str] = set()

    @property
    def now(self) -> datetime:
        return self._now

    @property
    def trace_id(self) -> str:
        self._trace_id = self._trace_id or new_trace_id()
        return self._trace_id

    @property
    def envelope(self) -> Envelope | None:
        return self._envelope

    @property
    def repeatable(self) -> bool:
        return not self.was_early

    def follow(self, trace_id: str) -> None:
        if trace_id:
            self._trace_id = trace_id
            structlog.contextvars.bind_contextvars(trace_id=trace_id)

    def add(self, *rows: Any) -> None:
        groups: list[list[Model]] = []
        for row in rows:
            self._stamp(row)
            if groups and type(groups[-1][0]) is type(row):
                groups[-1].append(row)
            else:
                groups.append([row])
        self.changes += [Insert(group) for group in groups]
        for row in rows:
            if isinstance(row, Aggregate) and row.has_timeline:
                self.changes.append(FirstLine(row))
                self._announce_state(row, row.state, {})

    def _stamp(self, row: Any) -> None:
        if isinstance(row, Aggregate):
            row.version = 1
            row.trace_id = row.trace_id or self.trace_id
            row.created_at = getattr(row, "created_at", None) or self._now
            row.updated_at = row.created_at

    def move(
        self,
        row: Any,
        *,
        expected: str | tuple[str, ...],
        to: str,
        token: int | None = None,
        detail: str = "",
        data: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> None:
        states = (expected,) if isinstance(expected, str) else expected
        _check_edges(row, states, to)
        guard: dict[str, Any] = {"state": states}
        if token is not None:
            guard["token"] = token
        lines = lines_for(row, to, detail, data or {}) if row.has_timeline else []
        if isinstance(row, Leased):
            changes.setdefault("lease_until", None)
        self.changes.append(Guarded(row, guard, {"state": to, **changes}, lines))
        self._announce_state(row, to, data or {})
        if to in row.noticed and row.user_id:
            notify(self, row.user_id, f"{row.kind}.{to}", subject=row.id)

    def change(self, row: Any, *, guard: Mapping[str, Any] | None = None, **changes: Any) -> None:
        self.changes.append(Guarded(row, dict(guard or {}), changes))

    def note(self, row: Any, kind: str, data: Mapping[str, Any]) -> None:
        state = row.state
        self.changes.append(Guarded(row, {}, {}, [Line(kind, state, "", data)]))
        self._event(row, f"{row.kind}.{kind}", {**data, "state": state})

    def send(self, message: Message, *, after_s: float = 0.0) -> None:
        sealed = seal(message, trace_id=self.trace_id, now=self._now)
        self.commands.append((sealed, after_s))

    def send_stored(self, topic: str, body: bytes) -> None:
        ident = uuid7_hex()
        stored = Envelope(
            message_id=ident,
            topic=topic,
            body=body,
            trace_id=self.trace_id,
            outbox_id=ident,
            sent_at=self._now,
        )
        self.commands.append((stored, 0.0))

    def announce(self, event: Event) -> None:
        self.events.append((None, event))

    def audit(
        self, event: str, *, subject: str = "", data: Mapping[str, Any] | None = None
    ) -> None:
        bound = structlog.contextvars.get_contextvars()
        line = AuditLine(
            id=new_id("audit"),
            at=self._now,
            event=event,
            actor=self.actor_id or self.consumer,
            subject=subject,
            request_id=str(bound.get("request_id", ""))[:64],
            trace_id=self.trace_id,
            data=dict(data or {}),
        )
        self.changes.append(Insert([line]))

    def step(self, step: Step) -> None:
        self.changes.append(Run(step))

    def forget(self, *idents: str) -> None:
        self.forgotten.update(idents)

    def touched(self) -> set[str]:
        """Give the ids of all rows that this unit may have changed."""
        rows = [row for change in self.changes if isinstance(change, Insert) for row in change.rows]
        rows += [change.row for change in self.changes if isinstance(change, Guarded)]
        return self.forgotten | {str(row.pk) for row in rows}

    def retry(self, reason: str, *, after_s: float) -> None:
        self.fate = Again(after_s, reason)

    def bury(self, reason: str, detail: str) -> None:
        self.fate = Dead(reason, detail)

    async def begin(
        self,
        row: Any,
        *,
        expected: str | tuple[str, ...],
        to: str,
        lease_s: float,
        detail: str = "",
        **changes: Any,
    ) -> int:
        states = (expected,) if isinstance(expected, str) else expected
        _check_edges(row, states, to)
        return await self._units.begin(self, row, states, to, lease_s, detail, changes)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        if self.early is None:
            await self._units.open_early(self)
        if self.early is None:
            raise Stale("this message was handled before")
        yield self.early[1]

    def _announce_state(self, row: Aggregate, state: str, data: Mapping[str, Any]) -> None:
        self._event(row, f"{row.kind}.{state}", {**data, "state": state})

    def _event(self, row: Aggregate, name: str, data: Mapping[str, Any]) -> None:
        if not row.has_timeline:
            return
        event = Event(
            id=uuid7_hex(),
            type=name,
            at=self._now,
            user_id=row.user_id,
            subject={"kind": row.kind, "id": row.id},
            data=dict(data),
        )
        self.events.append((row, event))


class SqlUnits:
    """Commits units, in groups where many finish at the same time; see ``committer``."""

    def __init__(self, database: Database, broker: Broker, clock: Clock, offer: Offer) -> None:
        self._database = database
        self._writer = UnitWriter(durable_broker=broker.durable)
        self._clock = clock
        self._offer = offer
        self._groups = GroupWriter(database, self._writer)
        self.committer = Committer(self._groups.write, self._groups.keys)

    def open(self, consumer: str, envelope: Envelope | None = None) -> SqlUnit:
        return SqlUnit(self, consumer, envelope, self._clock.now())

    async def commit(self, work: UnitOfWork) -> Commit:
        unit = _ours(work)
        try:
            async with step(DB_COMMIT):
                if unit.early is None:
                    outcome = await self._commit(unit)
                else:
                    outcome = await self._commit_early(unit, unit.early)
        except Stale:
            await self.discard(unit)
            return await self._keep_dedup_only(unit)
        except IntegrityError as error:
            await self.discard(unit)
            raise Conflict(str(error)) from error
        except BaseException:
            unit.is_abandoned = True
            await self.discard(unit)
            raise
        if outcome is Commit.DONE:
            await self._offer(self._writer.outgoing(unit))
        return outcome

    async def _commit(self, unit: SqlUnit) -> Commit:
        """Commit in a group, and again for a request whose answer was lost.

        A message's unit that lost its answer is repeated by the actor's loop; it then meets its
        own id, and its messages are the relay's.
        """
        unit.is_abandoned = False
        tries = 1 if unit.envelope is not None else REQUEST_TRIES
        while True:
            try:
                outcome = await self.committer.commit(unit)
            except EngineUnavailable:
                unit.is_doubtful = True
                tries -= 1
                if not tries:
                    raise
                await asyncio.sleep(REQUEST_PAUSE_S)
            else:
                # The id of a request's unit is its own: who meets it has committed it.
                mine = unit.is_doubtful and unit.envelope is None
                return Commit.DONE if mine and outcome is Commit.REPEATED else outcome

    async def _commit_early(self, unit: SqlUnit, early: Early) -> Commit:
        context, connection = early
        try:
            await self._writer.apply(connection, unit)
            unit.early = None
            await context.__aexit__(None, None, None)
        finally:
            self._database.forget(unit.touched())
        return Commit.DONE

    async def check(self) -> None:
        await self._database.read().query("SELECT 1")

    async def discard(self, work: UnitOfWork) -> None:
        unit = _ours(work)
        early, unit.early = unit.early, None
        if early is not None:
            error = Stale("discarded")
            await early[0].__aexit__(Stale, error, None)

    async def open_early(self, unit: SqlUnit) -> None:
        """Open the unit's transaction; the dedup row goes in first."""
        context = self._database.transaction()
        connection = await context.__aenter__()
        unit.early = (context, connection)
        unit.was_early = True
        try:
            taken = await self._writer.take_key(connection, unit)
        except BaseException:
            await self.discard(unit)
            raise
        if not taken:
            await self.discard(unit)

    async def begin(
        self,
        unit: SqlUnit,
        row: Leased,
        states: tuple[str, ...],
        to: str,
        lease_s: float,
        detail: str,
        changes: Mapping[str, Any],
    ) -> int:
        """Write the beginning of an outside effect; see the port."""
        lines = [Line("status", to, detail)] if row.has_timeline and to not in states else []

        beginning = Beginning(row, states, to, lease_s, lines, changes)
        async with step(DB_BEGIN):
            token = await beginning.write(self._database)
        if lines:
            unit.events.append((row, self._state_event(unit, row, to)))
        row.token = token
        return token

    def _state_event(self, unit: SqlUnit, row: Aggregate, state: str) -> Event:
        return Event(
            id=uuid7_hex(),
            type=f"{row.kind}.{state}",
            at=unit.now,
            user_id=row.user_id,
            subject={"kind": row.kind, "id": row.id},
            data={"state": state},
        )

    async def _keep_dedup_only(self, unit: SqlUnit) -> Commit:
        """After a failed guard: keep only that the message was handled, or why it was buried."""
        if unit.envelope is not None:
            bare = self.open(unit.consumer, unit.envelope)
            if isinstance(unit.fate, Dead):
                bare.fate = unit.fate
            await self.commit(bare)
        return Commit.STALE


def _check_edges(row: Aggregate, states: tuple[str, ...], to: str) -> None:
    for state in states:
        if not row.allows(state, to):
            raise ValueError(f"a {row.kind} cannot go from {state} to {to}")


def _inbox_key(consumer: str, envelope: Envelope) -> str:
    parts = (consumer, envelope.app_id, envelope.message_id, str(envelope.attempt))
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def _ours(work: UnitOfWork) -> SqlUnit:
    if not isinstance(work, SqlUnit):
        raise TypeError("this unit of work was opened elsewhere")
    return work

"""PORT: the unit of work, all that one message or request changes, committed as one.

A handler says what shall change; no transaction is open while it runs. At the end the loop commits
the unit: dedup, guarded updates, timeline, ledger steps and outgoing messages, all or nothing.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from limner.core.message import Envelope, Event, Message


class Commit(StrEnum):
    """How a commit ended."""

    DONE = "done"
    REPEATED = "repeated"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Again:
    """The same message shall come again, ``after_s`` seconds from now."""

    after_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Dead:
    """The message shall become a dead letter."""

    reason: str
    detail: str


Step = Callable[[Any], Awaitable[None]]


class Row(Protocol):
    """A stored object: has an id, a state and a counter that every change raises."""

    id: Any


class UnitOfWork(Protocol):
    """Collects changes; see the module. Methods without ``await`` only collect."""

    @property
    def now(self) -> datetime:
        """The time of the unit: when it was opened."""
        ...

    @property
    def trace_id(self) -> str:
        """The trace all rows and messages of this unit belong to."""
        ...

    actor_id: str
    """Who is named in audit lines; the consumer's name unless a person is set."""

    @property
    def envelope(self) -> Envelope | None:
        """The message that is being handled, or None in a request."""
        ...

    @property
    def fate(self) -> Again | Dead | None:
        """What shall become of the message, if not simply handled."""
        ...

    @property
    def repeatable(self) -> bool:
        """Whether a commit that met no engine may be tried again without a new run.

        Not after ``transaction``: what was done inside it went down with it.
        """
        ...

    def follow(self, trace_id: str) -> None:
        """Join the trace of an object that this unit is about."""
        ...

    def add(self, *rows: Any) -> None:
        """Insert rows."""
        ...

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
        """Change the state of ``row`` if it is still ``expected`` (and holds ``token``).

        Adds a line to the object's timeline and announces the event ``kind.state``. If the row is
        in another state when the unit commits, the whole unit is dropped, messages included.

        Raises:
            ValueError: the row's kind has no such transition: a bug.
        """
        ...

    def change(self, row: Any, *, guard: Mapping[str, Any] | None = None, **changes: Any) -> None:
        """Change columns without a change of state, if all columns in ``guard`` still hold."""
        ...

    def note(self, row: Any, kind: str, data: Mapping[str, Any]) -> None:
        """Add a line that is no change of state to the object's timeline, and announce it."""
        ...

    def send(self, message: Message, *, after_s: float = 0.0) -> None:
        """Send a command after the commit, at the earliest ``after_s`` seconds later."""
        ...

    def send_stored(self, topic: str, body: bytes) -> None:
        """Send a command of which only the topic and the JSON body are known: a schedule's."""
        ...

    def announce(self, event: Event) -> None:
        """Publish an event after the commit."""
        ...

    def audit(
        self, event: str, *, subject: str = "", data: Mapping[str, Any] | None = None
    ) -> None:
        """Write an audit line; the sweeper seals it into the hash chain later."""
        ...

    def forget(self, *idents: str) -> None:
        """Forget after the commit what this process remembers of rows that a step changes."""
        ...

    def step(self, step: Step) -> None:
        """Run ``step(connection)`` inside the transaction, after the guards: the ledger's hook.

        Whatever it raises rolls the whole unit back.
        """
        ...

    def retry(self, reason: str, *, after_s: float) -> None:
        """Commit what was collected and have the same message come again as the next attempt.

        At the last attempt the loop buries the message instead, and drops what was collected.
        """
        ...

    def bury(self, reason: str, detail: str) -> None:
        """Commit what was collected and keep the message as a dead letter."""
        ...

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
        """Commit, on its own and before an outside effect, that ``row`` is being worked on.

        Writes state, lease and a raised fencing token without the dedup row, and gives the token.
        A row under a live lease, or in another state, is not taken.

        Raises:
            Stale: somebody else works on it or has finished it; acknowledge and do nothing.
        """
        ...

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """Open the unit's transaction early, to lock or to read one's own writes.

        The dedup row goes in first and what was collected joins at the commit, which comes once,
        when the handler returns. Only the database may be awaited inside.
        """
        ...


class Units(Protocol):
    """Opens and commits units."""

    def open(self, consumer: str, envelope: Envelope | None = None) -> UnitOfWork:
        """Open a unit for ``consumer``; with the message it handles, if it handles one."""
        ...

    async def commit(self, work: UnitOfWork) -> Commit:
        """Commit everything that ``work`` collected, then send its messages.

        STALE: a guard failed, nothing but the dedup row was kept, and the dead letter of a
        message that is buried: its object has moved on, yet nobody has handled it. REPEATED: the
        same message was committed before, nothing was changed now.

        Raises:
            Conflict: a unique key is taken.
            EngineUnavailable: the database does not answer; the same unit may be committed again.
        """
        ...

    async def check(self) -> None:
        """Return if the database answers.

        Raises:
            EngineUnavailable: it does not.
        """
        ...

    async def discard(self, work: UnitOfWork) -> None:
        """Forget the unit; rolls back if it had opened its transaction early."""
        ...

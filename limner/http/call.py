"""One call of a route: the request, who calls, and what the front was given."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from aiohttp import web

from limner.core.errors import Conflict, LimnerError, NotFound
from limner.core.unit import Commit, Step, UnitOfWork
from limner.http.answers import Answer, Written
from limner.http.auth.callers import Caller
from limner.http.ports import Front
from limner.storage.sql.aggregate import ID_LENGTH, Aggregate

CONSUMER = "front"

A = TypeVar("A", bound=Aggregate)

FRONT: web.AppKey[Front] = web.AppKey("front", Front)
CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)
VERSION: web.AppKey[str] = web.AppKey("version", str)
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
TRACE_ID: web.RequestKey[str] = web.RequestKey("trace_id", str)
FAULT: web.RequestKey[LimnerError] = web.RequestKey("fault", LimnerError)
"""What is wrong with bytes that are no request, and yet are answered as one."""


@dataclass
class Once:
    """A request that was sent with an Idempotency-Key, while it runs.

    ``keep`` gives the step that stores its answer, unless another run has taken over.
    """

    status: int
    keep: Callable[[Written], Step]
    is_kept: bool = False


@dataclass(frozen=True)
class Call:
    """What a handler works with; ``once`` is there if the request is to be run only once."""

    request: web.Request
    front: Front
    caller: Caller
    once: Once | None = None

    @property
    def now(self) -> datetime:
        """The time."""
        return self.front.clock.now()

    def param(self, name: str) -> str:
        """Give a part of the path.

        Raises:
            NotFound: an ``id`` that is longer than any of ours.
        """
        part = self.request.match_info[name]
        if name == "id" and len(part) > ID_LENGTH:
            raise NotFound("there is nothing of this id")
        return part

    def url(self, path: str) -> str:
        """Give an absolute URL of ours."""
        return self.front.settings.base_url + path

    def work(self) -> UnitOfWork:
        """Open a unit of work in the caller's name and the request's trace."""
        work = self.front.units.open(CONSUMER)
        work.actor_id = self.caller.id or CONSUMER
        work.follow(self.request.get(TRACE_ID, ""))
        return work

    async def commit(self, work: UnitOfWork, *, taken: str = "such an object exists") -> None:
        """Commit what ``work`` collected.

        Raises:
            Conflict: a row was in another state, or a unique value is ``taken``.
        """
        try:
            outcome = await self.front.units.commit(work)
        except Conflict as error:
            raise Conflict(taken) from error
        if outcome is not Commit.DONE:
            raise Conflict("it is in another state now; read it again", code="stale")

    async def answered(
        self, work: UnitOfWork, answer: Answer, *, taken: str = "such an object exists"
    ) -> Answer:
        """Commit what ``work`` collected together with the answer, and give the answer back.

        The last thing in a handler that makes something: sent again with the same
        Idempotency-Key, the request is given this answer and makes nothing more.

        Raises:
            Conflict: a row was in another state, a unique value is ``taken``, or another run of
                the same request has taken over.
        """
        if self.once is not None:
            work.step(self.once.keep(Written.of(answer, self.once.status)))
        await self.commit(work, taken=taken)
        if self.once is not None:
            self.once.is_kept = True
        return answer

    def visible(self, row: A | None, what: str) -> A:
        """Give the row back if it is there for the caller.

        Raises:
            NotFound: it is not, or it is somebody else's.
        """
        if row is None or not self.caller.sees(row.user_id) or row.state == "deleted":
            raise NotFound(f"there is no such {what}")
        return row

"""One call of a route: the request, who calls, and what the front was given."""

from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from aiohttp import web

from limner.core.errors import Conflict, NotFound
from limner.core.unit import Commit, UnitOfWork
from limner.http.auth.callers import Caller
from limner.http.ports import Front
from limner.storage.sql.aggregate import ID_LENGTH, Aggregate

CONSUMER = "front"

A = TypeVar("A", bound=Aggregate)

FRONT: web.AppKey[Front] = web.AppKey("front", Front)
CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
TRACE_ID: web.RequestKey[str] = web.RequestKey("trace_id", str)


@dataclass(frozen=True)
class Call:
    """What a handler works with."""

    request: web.Request
    front: Front
    caller: Caller

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

    def visible(self, row: A | None, what: str) -> A:
        """Give the row back if it is there for the caller.

        Raises:
            NotFound: it is not, or it is somebody else's.
        """
        if row is None or not self.caller.sees(row.user_id) or row.state == "deleted":
            raise NotFound(f"there is no such {what}")
        return row

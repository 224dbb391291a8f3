"""Operations: which loops run, how full the queues are, and what could not be handled."""

import asyncio
import base64
from contextlib import suppress
from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from limner.core.errors import Conflict, EngineUnavailable, NotFound
from limner.core.health import ANSWER_LIMIT_S
from limner.http.call import Call
from limner.http.etags import tagged
from limner.http.listing import Listing, Page, page_of, rows_of
from limner.http.routes import Result, Route
from limner.storage.sql.messaging import DeadLetter, settle_dead_letter

RETRY_BATCH = 500


class ActorOut(BaseModel):
    """A loop; ``elsewhere`` means that this process does not run it."""

    name: str
    state: str
    restarts: int
    last_error: str


class ActorsOut(BaseModel):
    """All loops of this process, and the actors it does not run."""

    data: list[ActorOut]


class QueueOut(BaseModel):
    """An actor's queue; ``ready`` waits, ``in_hand`` is being worked on; null is unknown."""

    name: str
    actor: str
    ready: int | None
    in_hand: int | None
    oldest_age_s: float | None


class QueuesOut(BaseModel):
    """All queues, and the messages that wait in the database."""

    data: list[QueueOut]
    outbox_rows: int


class DeadLetterOut(BaseModel):
    """A message that could not be handled; ``body`` is text, or base64 if it is not UTF-8."""

    id: str
    state: str
    consumer: str
    topic: str
    message_id: str
    app_id: str
    attempt: int
    reason: str
    detail: str
    trace_id: str
    body: str
    encoding: Literal["utf-8", "base64"]
    created_at: datetime
    settled_at: datetime | None


class DeadLetterQuery(Listing):
    """Filters of the list."""

    state: Literal["open", "retried", "discarded"] | None = None
    consumer: str | None = None
    topic: str | None = None
    reason: str | None = None
    message_id: str | None = None


class Retried(BaseModel):
    """How many were sent again."""

    retried: int


async def actors(call: Call) -> Result:
    """Show the loops."""
    here = [
        ActorOut(
            name=status.name,
            state=status.state,
            restarts=status.restarts,
            last_error=status.last_error,
        )
        for status in call.front.loops().values()
    ]
    names = {one.name for one in here}
    absent = [
        ActorOut(name=name, state="elsewhere", restarts=0, last_error="")
        for name in call.front.actors
        if name not in names
    ]
    return ActorsOut(data=here + absent)


async def queues(call: Call) -> Result:
    """Show how full the queues are."""
    rows = await asyncio.gather(*(_queue(call, actor) for actor in call.front.actors))
    return QueuesOut(data=list(rows), outbox_rows=await call.front.outbox.depth())


async def _queue(call: Call, actor: str) -> QueueOut:
    try:
        async with asyncio.timeout(ANSWER_LIMIT_S):
            depth = await call.front.broker.depth(actor)
    except (EngineUnavailable, TimeoutError):
        return QueueOut(
            name=f"limner.{actor}", actor=actor, ready=None, in_hand=None, oldest_age_s=None
        )
    return QueueOut(
        name=f"limner.{actor}",
        actor=actor,
        ready=depth.ready,
        in_hand=depth.in_hand,
        oldest_age_s=depth.oldest_age_s,
    )


def shown(letter: DeadLetter) -> DeadLetterOut:
    """Give a dead letter as operators see it."""
    raw = bytes(letter.body)
    try:
        body, encoding = raw.decode(), "utf-8"
    except UnicodeDecodeError:
        body, encoding = base64.b64encode(raw).decode(), "base64"
    same = {
        name: getattr(letter, name) for name in DeadLetterOut.model_fields if hasattr(letter, name)
    }
    return DeadLetterOut.model_validate(same | {"body": body, "encoding": encoding})


async def found(call: Call) -> DeadLetter:
    """Give the dead letter in the path.

    Raises:
        NotFound: there is none.
    """
    letter = await DeadLetter.get_or_none(id=call.param("id"))
    if letter is None:
        raise NotFound("there is no such dead letter")
    return letter


async def listed(call: Call, query: DeadLetterQuery) -> Result:
    """List."""
    rows = await rows_of(DeadLetter.filter(**query.filters()), query)
    return page_of(call, query, rows, shown)


async def show(call: Call) -> Result:
    """Show one."""
    return tagged(call, shown(await found(call)))


async def retry(call: Call) -> Result:
    """Send one again."""
    return await _settle(call, again=True)


async def discard(call: Call) -> Result:
    """Settle one without sending it."""
    return await _settle(call, again=False)


async def _settle(call: Call, *, again: bool) -> Result:
    letter = await found(call)
    work = call.work()
    work.follow(letter.trace_id)
    settle_dead_letter(work, letter, again=again)
    await call.commit(work)
    return shown(await found(call))


async def retry_all(call: Call) -> Result:
    """Send all again that are open now, each in a unit of its own."""
    count, last = 0, ""
    while letters := await _open_after(last):
        for letter in letters:
            work = call.work()
            settle_dead_letter(work, letter, again=True)
            # Somebody else may have settled it in between: then that is done.
            with suppress(Conflict):
                await call.commit(work)
                count += 1
        last = letters[-1].id
    return Retried(retried=count)


async def _open_after(ident: str) -> list[DeadLetter]:
    rows = DeadLetter.filter(state="open", id__gt=ident)
    return await rows.order_by("id").limit(RETRY_BATCH)


ROUTES = [
    Route("GET", "/api/ops/actors", actors, "Show which loops run", "ops:read", answer=ActorsOut),
    Route(
        "GET",
        "/api/ops/queues",
        queues,
        "Show how full the queues are",
        "ops:read",
        answer=QueuesOut,
    ),
    Route(
        "GET",
        "/api/ops/dead-letters",
        listed,
        "List the messages that could not be handled",
        "ops:read",
        answer=Page[DeadLetterOut],
        query=DeadLetterQuery,
    ),
    Route(
        "POST",
        "/api/ops/dead-letters/retry-all",
        retry_all,
        "Send all open dead letters again",
        "ops:write",
        answer=Retried,
    ),
    Route(
        "GET",
        "/api/ops/dead-letters/{id}",
        show,
        "Show a dead letter",
        "ops:read",
        answer=DeadLetterOut,
        is_tagged=True,
    ),
    Route(
        "POST",
        "/api/ops/dead-letters/{id}/retry",
        retry,
        "Send a dead letter again",
        "ops:write",
        answer=DeadLetterOut,
    ),
    Route(
        "POST",
        "/api/ops/dead-letters/{id}/discard",
        discard,
        "Settle a dead letter without sending it",
        "ops:write",
        answer=DeadLetterOut,
    ),
]

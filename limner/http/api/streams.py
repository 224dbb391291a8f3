"""Event streams: of one object until it ends, and of everything the caller owns."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from aiohttp import web
from pydantic import BaseModel

from limner.core.errors import LimnerError
from limner.core.logs import get_logger
from limner.http import frames
from limner.http.api import generate, tasks
from limner.http.call import Call
from limner.http.channels import Reader
from limner.http.frames import Frame
from limner.http.routes import ANY, Result, Route
from limner.http.seats import Seat
from limner.http.sse import HUB, Hub
from limner.http.stream import Stream, finish, opened
from limner.storage.sql.lines import DONE, ending_of, newest_of, place_of

NUMBER = re.compile(r"\d{1,18}", re.ASCII)

log = get_logger("sse")


class Streamed(Protocol):
    """What a module of objects offers for streams: the object in the path, and its whole form."""

    async def own(self, call: Call, /) -> Any:
        """Give the object if it is there for the caller; raises NotFound."""
        ...

    async def whole(self, call: Call, row: Any, /) -> BaseModel:
        """Give what a read of it shows."""
        ...


class StreamQuery(BaseModel):
    """``last_event_id`` stands for the header, for clients that cannot set it."""

    last_event_id: str = ""


Feed = Callable[[Stream], Awaitable[None]]


def _asked(call: Call, query: StreamQuery) -> str:
    """Give what the client had last, as it says."""
    return call.request.headers.get("Last-Event-ID") or query.last_event_id


async def _served(call: Call, seat: Seat, feed: Feed) -> web.StreamResponse:
    """Answer with a stream; ``feed`` writes to it until it ends."""
    stream = seat.stream = await opened(call.request, call.caller)
    try:
        async with stream.response:
            await feed(stream)
    except LimnerError as error:
        # The head is out: only the end of the connection can say that something is wrong.
        log.warning("a stream broke off", path=call.request.path, error=error.detail)
        stream.cut()
    await finish(stream)
    return stream.response


async def _wait(hub: Hub, stream: Stream) -> None:
    """Return when the stream has ended; one that came too late is sent to the next server."""
    if hub.is_closing:
        stream.write(frames.retry(frames.RETRY_MS))
        stream.end()
    await stream.over()


@dataclass(frozen=True, slots=True)
class Start:
    """Where the stream of an object begins; ``asked`` is None for a snapshot, sent as ``shown``.

    ``end`` is the terminal event of an object whose history has been cleaned away.
    """

    ident: str
    asked: int | None
    shown: int
    end: Frame | None = None


async def _start(call: Call, kind: Streamed, asked: int | None) -> Start | None:
    """Find where a stream begins; None if the client has had everything.

    The row is not kept: a stream may be open for days.
    """
    row = await kind.own(call)
    told, last = await ending_of(call.front.database.read(), row.id)
    is_forgotten = told is None and type(row).ended(row.state)
    newest: int = row.line_count if is_forgotten else told or 0
    if is_forgotten:
        last = newest
    if asked is not None and last is not None and asked >= last:
        return None
    if asked is not None and asked > newest:
        # From a future that a restored backup does not have: begin anew.
        asked = None
    shown = last - 1 if last is not None else newest
    if not is_forgotten:
        return Start(row.id, asked, shown)
    done = {"n": newest, "state": row.state, "detail": row.error}
    return Start(row.id, asked, shown, frames.encode(DONE, done, newest))


def object_stream(kind: Streamed) -> Callable[..., Awaitable[Result]]:
    """Give the handler that streams the object in the path, one of ``kind``."""

    async def stream(call: Call, query: StreamQuery) -> Result:
        hub = call.request.app[HUB]
        start = await _start(call, kind, _number(_asked(call, query)))
        if start is None:
            return web.Response(status=204)

        async def feed(stream: Stream) -> None:
            stream.position = start.asked or 0
            with hub.joined(start.ident, stream):
                if start.asked is None:
                    stream.position = start.shown
                    stream.write(await _snapshot(call, kind, start.shown))
                if start.end is not None:
                    stream.write(start.end)
                    stream.end()
                await hub.catch_up(start.ident, stream)
                await _wait(hub, stream)

        with hub.seats.taken(call.request, call.caller) as seat:
            return await _served(call, seat, feed)

    return stream


async def _snapshot(call: Call, kind: Streamed, number: int) -> Frame:
    """Give the whole object; read after the lines: what it shows beyond, what follows repeats."""
    shown = await kind.whole(call, await kind.own(call))
    return frames.encode("snapshot", shown.model_dump(mode="json"), number)


def _number(text: str) -> int | None:
    """Give the number a client had last, or None if it says none that could be ours."""
    return int(text) if NUMBER.fullmatch(text) else None


async def own_stream(call: Call, query: StreamQuery) -> Result:
    """Stream everything the caller owns, as far as the credential's scopes allow."""
    hub, database, owner = call.request.app[HUB], call.front.database.read(), call.caller.id
    text = _asked(call, query)
    asked = frames.settled_in(text)
    with hub.seats.taken(call.request, call.caller) as seat:
        place = await place_of(database, owner, asked)
        is_replay = asked is not None and asked <= place.newest
        # Before the head goes out: what happens once the client has that is news.
        seen = {} if is_replay else await newest_of(database, [owner], place.settled)
        known = {one.object_id: (one.n, one.id) for one in seen.pop(owner, [])}

        async def feed(stream: Stream) -> None:
            reader = Reader(stream, place.after, known)
            if place.is_cut or (text and asked is None):
                stream.write(frames.encode("gap", _gap(is_replay=is_replay)))
            stream.write(frames.position(reader.settled))
            with hub.joined_account(owner, reader):
                if is_replay:
                    await hub.replay(owner, reader, place)
                await hub.begin(owner, reader)
                await _wait(hub, stream)

        return await _served(call, seat, feed)


def _gap(*, is_replay: bool) -> dict[str, str]:
    """Say what is missing; whoever hears of it reads the objects anew."""
    if is_replay:
        return {
            "reason": "history",
            "detail": "what happened before is not in the history any more",
        }
    return {"reason": "cursor", "detail": "this cursor is not known; the stream begins now"}


def _route(path: str, kind: Streamed, summary: str, scope: str) -> Route:
    return Route(
        "GET",
        path,
        object_stream(kind),
        summary,
        scope,
        query=StreamQuery,
        has_head=False,
        media="text/event-stream",
        also={204: "The client has had everything"},
    )


ROUTES = [
    _route("/api/tasks/{id}/stream", tasks, "Stream a task's events", "tasks:read"),
    _route("/api/generate/{id}/stream", generate, "Stream a job's events", "generate:read"),
    Route(
        "GET",
        "/api/stream",
        own_stream,
        "Stream what happens to everything of one's own",
        ANY,
        query=StreamQuery,
        has_head=False,
        media="text/event-stream",
    ),
]

"""The stream of one task: everything that happens to it, until it ends."""

import re

from aiohttp import web
from aiohttp_sse import EventSourceResponse
from pydantic import BaseModel

from limner.core.errors import LimnerError
from limner.core.logs import get_logger
from limner.http import frames
from limner.http.api.tasks import own, whole
from limner.http.call import Call
from limner.http.routes import Result, Route
from limner.http.sse import HUB, Stream, finish, prepare
from limner.storage.sql.lines import DONE, lines_beyond
from limner.storage.sql.tasks import Task
from limner.storage.sql.timeline import TimelineLine

NUMBER = re.compile(r"\d{1,18}", re.ASCII)

log = get_logger("sse")


class StreamQuery(BaseModel):
    """``last_event_id`` stands for the header, for clients that cannot set it."""

    last_event_id: str = ""


async def stream(call: Call, query: StreamQuery) -> Result:
    """Stream a task's events; see the interface's section on server-sent events."""
    task = await own(call)
    lines = await all_lines(task.id)
    end = frames.terminal(lines)
    newest = lines[-1].n if lines else 0
    asked = _number(call.request.headers.get("Last-Event-ID") or query.last_event_id)
    is_forgotten = Task.ended(task.state) and not lines
    if asked is not None and is_forgotten:
        return web.Response(status=204)
    if asked is not None and asked > newest:
        # From a future that a restored backup does not have: begin anew.
        asked = None
    if asked is not None and end is not None and asked >= end.n:
        return web.Response(status=204)
    response = await prepare(call.request, call.request.app[HUB].ping_s)
    try:
        await _stream(call, response, task, asked, lines)
    except LimnerError as error:
        # The head is out: only the end of the connection can say that something is wrong.
        log.warning("a stream broke off", task_id=task.id, error=error.detail)
        if call.request.transport is not None:
            call.request.transport.abort()
    await finish(response)
    return response


async def _stream(
    call: Call,
    response: EventSourceResponse,
    task: Task,
    asked: int | None,
    lines: list[TimelineLine],
) -> None:
    hub = call.request.app[HUB]
    connection = Stream(response, call.request, call.caller, asked or 0)
    async with response, hub.joined(task.id, connection):
        if asked is None:
            await _snapshot(call, connection, lines)
        if not lines and Task.ended(task.state):
            # Its history has been cleaned away; the end is all that is left to tell.
            done = {"n": task.version, "state": task.state, "detail": task.error}
            connection.write(frames.encode(DONE, done, task.version))
            connection.end()
        await hub.catch_up(task.id, connection)
        if hub.is_closing:
            connection.write(frames.retry(frames.RETRY_MS))
            connection.end()
        await response.wait()


async def _snapshot(call: Call, connection: Stream, lines: list[TimelineLine]) -> None:
    """Send the whole task once, under the number of the newest event before the terminal one."""
    end = frames.terminal(lines)
    before = [line.n for line in lines if end is None or line.n < end.n]
    number = before[-1] if before else 0
    # Read after the lines: what it shows beyond them, the events that follow only repeat.
    shown = await whole(call, await own(call))
    frame = frames.encode("snapshot", shown.model_dump(mode="json"), number)
    connection.write(frame)
    connection.position = number


async def all_lines(ident: str) -> list[TimelineLine]:
    """Give an object's whole timeline, read piece by piece."""
    lines, is_whole = await lines_beyond({ident: 0})
    while not is_whole:
        more, is_whole = await lines_beyond({ident: lines[-1].n})
        lines += more
    return lines


def _number(text: str) -> int | None:
    """Give the number a client had last, or None if it says none that could be ours."""
    return int(text) if NUMBER.fullmatch(text) else None


ROUTES = [
    Route(
        "GET",
        "/api/tasks/{id}/stream",
        stream,
        "Stream a task's events",
        "tasks:read",
        query=StreamQuery,
        has_head=False,
        media="text/event-stream",
    ),
]

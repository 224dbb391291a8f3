"""Connections: how long and how large a request's head may be, and how many there are at once.

aiohttp bounds each line and the number of headers, and how long a connection may lie idle. Here
are the bounds that it lacks: time and bytes for a whole head, a client that does not read its
answer, the number of connections; and what it answers by itself, to bytes that are no HTTP, is made
a problem as everything else (ASVS 5.0 chapter 4.2; RFC 9112 section 11).
"""

import asyncio
import contextlib
import fcntl
import json
import resource
import socket
import sys
import termios
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import _ErrInfo

from limner.core.errors import LimnerError
from limner.core.ids import uuid7_hex
from limner.core.logs import get_logger
from limner.http.call import FAULT, FRONT, REQUEST_ID
from limner.http.problems import (
    CONTENT_TYPE,
    GENERIC,
    BadRequest,
    HeadTooLarge,
    TooSlow,
    document,
    problem_of_http,
)

log = get_logger("http")

CONNECTIONS = 10_000
OTHER_FILES = 256
"""Kept free for databases, files and logs."""
TURNED_AWAY_RETRY_S = 5
LOOKS = 4
"""How often in ``stall_s`` we look whether a client has taken something."""
BARE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Connection": "close",
}
"""For what is answered where no route, and so nothing else of the front, is known."""


def room() -> int:
    """Give how many connections this process can have; raises its limit of open files for it."""
    wanted = CONNECTIONS + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = CONNECTIONS if soft == resource.RLIM_INFINITY else soft - OTHER_FILES
    return max(1, min(CONNECTIONS, most))


def queued_bytes(line: socket.socket | None) -> int:
    """Give what the kernel holds that the client's has not taken (tcp(7), ``SIOCOUTQ``).

    0 where it does not tell.
    """
    if line is None:
        return 0
    try:
        return int.from_bytes(fcntl.ioctl(line.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except (OSError, ValueError):
        return 0


@dataclass(frozen=True)
class Bounds:
    """What a client may take.

    Seconds for a whole head, counted from its first byte or, for the first one, from the
    connection; seconds between two requests; seconds without taking anything of what it is sent;
    bytes of a head; connections of all clients together.

    Who reads slowly but does read is not cut, however long it takes. What waits for it is bounded
    otherwise: of an event stream by ``stream.BACKLOG_LIMIT_BYTES``; of another answer by that
    answer's own size, since its handler waits before it goes on, and the next request of the
    connection until it has; and of all clients together by the number of connections.
    """

    head_s: float = 10.0
    idle_s: float = 75.0
    stall_s: float = 60.0
    head_bytes: int = 65_536
    connections: int = field(default_factory=room)


class Connection(web.RequestHandler):
    """One connection, with its bounds."""

    def __init__(
        self, manager: "Listener", *, loop: asyncio.AbstractEventLoop, bounds: Bounds, **kwargs: Any
    ) -> None:
        super().__init__(manager, loop=loop, keepalive_timeout=bounds.idle_s, **kwargs)
        self._listener = manager
        self._bounds = bounds
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._untaken_bytes = self._vain_looks = 0
        self._head_size_bytes = 0
        self._is_refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._head_is_here()
        self._stop_stall()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._head_is_here()
        elif self._awaits_head():
            self._head_size_bytes += len(data)
            if self._head_timer is None:
                self._expect_head()
            if self._head_size_bytes > self._bounds.head_bytes:
                self._refuse(HeadTooLarge("the headers are too large"))

    def _awaits_head(self) -> bool:
        """Whether what comes in belongs to a head, and not to a body that is being read."""
        waits = self._waiter is not None and not self._waiter.done()
        return waits or self._request_count == 0

    def _expect_head(self) -> None:
        self._head_timer = self._loop.call_later(self._bounds.head_s, self._head_is_late)

    def _head_is_here(self) -> None:
        self._head_size_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._head_size_bytes:
            self._refuse(TooSlow("the headers did not come in time"))
        else:
            # Browsers open connections in advance: to those an answer would come unasked.
            self.force_close()

    def _refuse(self, error: LimnerError) -> None:
        """Answer what cannot become a request, and listen no more."""
        self._is_refused = True
        self._head_is_here()
        self._messages.append((_ErrInfo(error.status, error, error.detail), EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._untaken_bytes, self._vain_looks = self._waiting_bytes(), 0
        self._look_later()

    def resume_writing(self) -> None:
        self._stop_stall()
        super().resume_writing()

    def _stop_stall(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def expect_written(self, size_bytes: int) -> None:
        """Take note of what is about to be written although the client is behind."""
        self._untaken_bytes += size_bytes

    def _waiting_bytes(self) -> int:
        """Give what the client has not taken; bytes that only move to the kernel stay counted."""
        if self.transport is None:
            return 0
        line = self.transport.get_extra_info("socket")
        return self.transport.get_write_buffer_size() + queued_bytes(line)

    def _look_later(self) -> None:
        self._stall_timer = self._loop.call_later(self._bounds.stall_s / LOOKS, self._look)

    def _look(self) -> None:
        """Cut a client that has taken nothing for ``stall_s``.

        It has taken something if less waits than at the last look and was written since.
        """
        waiting_bytes = self._waiting_bytes()
        self._vain_looks = self._vain_looks + 1 if waiting_bytes >= self._untaken_bytes else 0
        self._untaken_bytes = waiting_bytes
        if self._vain_looks < LOOKS:
            self._look_later()
            return
        log.info("a client does not read and is cut", waited_s=self._bounds.stall_s)
        self._stall_timer = None
        if self.transport is not None:
            self.transport.abort()

    def _make_error_handler(
        self, err_info: _ErrInfo
    ) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        """Let what is no request go the way of all requests: ids, log, metrics, headers."""
        fault, handle = fault_of(err_info.exc), self._listener.request_handler

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            request[FAULT] = fault
            response = await handle(request)
            response.force_close()
            return response

        return handler

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a bug that nothing of the front has caught; says only the request's id."""
        request_id = request.get(REQUEST_ID) or uuid7_hex()
        log.error("a request failed outside of its handler", request_id=request_id, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was begun already")
        # The path is not repeated: a part of it may be a credential, and no route says which.
        body = self._listener.bare_problem(status, "internal", GENERIC, request_id)
        headers = {**BARE_HEADERS, "Content-Type": CONTENT_TYPE, "X-Request-Id": request_id}
        response = web.Response(status=status, body=body, headers=headers)
        response.force_close()
        return response


def fault_of(error: BaseException) -> LimnerError:
    """Give the problem for bytes that are no request; what they are is not repeated."""
    if isinstance(error, LimnerError):
        return error
    if isinstance(error, LineTooLong):
        return HeadTooLarge("a line of the head is too long")
    return BadRequest("this is no request of HTTP/1.1")


class TurnedAway(asyncio.Protocol):
    """A connection that there is no room for."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a server's always is
        transport.write(self._answer)
        transport.close()


class Listener(web.Server):
    """Makes a ``Connection`` for each client, as long as there is room."""

    def __init__(self, server: web.Server, application: web.Application, bounds: Bounds) -> None:
        super().__init__(
            self._handle,
            request_factory=server.request_factory,
            handler_cancellation=server.handler_cancellation,
            loop=server._loop,  # noqa: SLF001
        )
        self._application = application
        self._bounds = bounds
        self._inner = server.request_handler
        self._options = server._kwargs  # noqa: SLF001 - what the runner was given

    def __call__(self) -> Any:
        """Give the protocol of a new connection."""
        if len(self._connections) >= self._bounds.connections:
            log.warning("no room for a connection", connections=len(self._connections))
            return TurnedAway(self._turned_away())
        return Connection(self, loop=self._loop, bounds=self._bounds, **self._options)

    async def _handle(self, request: Any) -> web.StreamResponse:
        """Handle a request; what aiohttp refuses before its handler runs becomes a problem."""
        try:
            return await self._inner(request)
        except web.HTTPException as error:
            if error.status < web.HTTPBadRequest.status_code:
                raise
            request.setdefault(REQUEST_ID, uuid7_hex())
            log.info("request", method=request.method, route="unmatched", status=error.status)
            response = problem_of_http(request, error)
            response.force_close()
            return response

    def bare_problem(self, status: int, code: str, detail: str, request_id: str) -> bytes:
        """Give a problem for where no route is known."""
        base_url = self._application[FRONT].settings.base_url
        body = document(base_url, status, code, detail, "/", request_id)
        return json.dumps(body).encode()

    def _turned_away(self) -> bytes:
        request_id = uuid7_hex()
        detail = "There are too many connections; try again"
        body = self.bare_problem(503, "too_many_connections", detail, request_id)
        headers = {
            **BARE_HEADERS,
            "Content-Type": CONTENT_TYPE,
            "Content-Length": str(len(body)),
            "Retry-After": str(TURNED_AWAY_RETRY_S),
            "X-Request-Id": request_id,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 503 Service Unavailable\r\n{lines}\r\n".encode() + body


class Runner(web.AppRunner):
    """Runs the front's application behind a ``Listener``."""

    def __init__(
        self, application: web.Application, bounds: Bounds | None = None, **kwargs: Any
    ) -> None:
        super().__init__(application, access_log=None, **kwargs)
        self._bounds = bounds or Bounds()

    async def _make_server(self) -> web.Server:
        return Listener(await super()._make_server(), self.app, self._bounds)

"""What happens around every request: its ids, its log line, its metrics, its errors."""

import re
import socket
import struct
import time
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import HttpVersion11, hdrs, web

from limner.core.errors import LimnerError
from limner.core.ids import uuid7_hex
from limner.core.logs import get_logger
from limner.core.message import new_trace_id, trace_id_of
from limner.http import headers, limits
from limner.http.auth import csrf
from limner.http.auth.callers import Caller, identify
from limner.http.call import CALLER, FAULT, FRONT, REQUEST_ID, TRACE_ID
from limner.http.pages.errors import error_page
from limner.http.problems import problem_of, problem_of_bug, problem_of_http

log = get_logger("http")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

REQUEST_ID_FORM = re.compile(r"[A-Za-z0-9._-]{1,64}")
CLIENT_GONE = 499
RESET_AT_CLOSE = struct.pack("ii", 1, 0)
"""Of SO_LINGER: what waits to be sent is dropped, and the other side is told (socket(7))."""
BEGUN: web.RequestKey[bool] = web.RequestKey("begun", bool)
KEPT_ON_PAGES = (hdrs.RETRY_AFTER, hdrs.ALLOW)
READY = "/readyz"
UNCOUNTED = ("/livez", READY, "/static/")
"""Probes and our own files: neither limited nor worth asking the database who calls.

Except for ``/readyz?verbose``, which gives the report to whoever may read it.
"""


@web.middleware
async def trace(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its ids, then log and count what became of it."""
    given = request.headers.get("X-Request-Id", "")
    request[REQUEST_ID] = given if REQUEST_ID_FORM.fullmatch(given) else uuid7_hex()
    request[TRACE_ID] = trace_id_of(request.headers.get("traceparent")) or new_trace_id()
    # The connection's task serves many requests; nothing of the one before may stay.
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(
        request_id=request[REQUEST_ID], trace_id=request[TRACE_ID]
    )
    started = time.perf_counter()
    status = 500
    try:
        response = await handler(request)
        status = response.status
    finally:
        _note(request, status, time.perf_counter() - started)
    return response


def _note(request: web.Request, status: int, seconds: float) -> None:
    metrics, route = request.app[FRONT].metrics, template(request)
    method = request.method if request.method in hdrs.METH_ALL else "other"
    metrics.http_requests.labels(method, route, str(status)).inc()
    metrics.http_request_duration.labels(route).observe(seconds)
    if not request.path.startswith(UNCOUNTED):
        log.info(
            "request",
            method=request.method,
            route=route,
            status=status,
            duration_s=round(seconds, 4),
        )


def template(request: web.Request) -> str:
    """Give the route's pattern, so that neither ids nor links end in logs and metrics."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unmatched"


@web.middleware
async def mend(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn errors into problem details, or into a page for who came with a browser."""
    try:
        fault = request.get(FAULT)
        if fault is not None:
            raise fault
        return await _whole(request, handler)
    except LimnerError as error:
        if error.status >= 500:
            log.warning("refused", code=error.code, error=error.detail)
        told, shown = problem_of(request, error), (error.status, error.code, error.detail)
    except web.HTTPException as error:
        if error.status < headers.FIRST_ERROR:
            raise
        told, shown = problem_of_http(request, error), (error.status, "", "")
    except ConnectionResetError:
        # Nobody is left to answer; the number is for log and metrics only.
        return web.Response(status=CLIENT_GONE, reason="Client Closed Request")
    except Exception:
        log.exception("a request failed")
        told, shown = problem_of_bug(request), (500, "internal", "")
    if not wants_page(request):
        return told
    page = error_page(request, *shown)
    page.headers.update(
        {name: told.headers[name] for name in KEPT_ON_PAGES if name in told.headers}
    )
    return page


async def _whole(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Run the handler, and end the connection if it fails within its answer.

    Another answer would be read as the rest of this one, or as that to the next request. What is
    given back then is for log and metrics only: nothing is written to a connection that has ended.
    """
    try:
        return await handler(request)
    except Exception as error:
        if BEGUN not in request:
            raise
        _cut(request)
        if isinstance(error, ConnectionResetError):
            return web.Response(status=CLIENT_GONE, reason="Client Closed Request")
        if isinstance(error, LimnerError):
            log.warning("an answer broke off", code=error.code, error=error.detail)
            return web.Response(status=error.status)
        log.exception("an answer broke off")
        return web.Response(status=500)


def _cut(request: web.Request) -> None:
    """Break the connection, so that no client takes for whole what it has got.

    An answer to HTTP/1.0 may have neither length nor chunks: only a reset tells its end from a cut.
    """
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        if connection is not None and request.version < HttpVersion11:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
        transport.abort()
    # Nor is a request served that came behind this one.
    request.protocol.force_close()


async def begin(request: web.Request, response: web.StreamResponse) -> None:
    """Note that the head of an answer is made: the last of what is done before it is sent."""
    request[BEGUN] = True


def wants_page(request: web.Request) -> bool:
    """Whether a person looks at this with a browser."""
    if request.path.startswith(("/api/", "/o/", "/static/")):
        return False
    return "text/html" in request.headers.get(hdrs.ACCEPT, "")


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Find out who calls, keep them within their rate, and refuse what another site asks for.

    An address that sends too many credentials of nobody's is counted before, so that it cannot
    have the database asked as often as it likes.
    """
    front = request.app[FRONT]
    request[CALLER] = Caller()
    if request.path.startswith(UNCOUNTED) and not _asks_for_report(request):
        return await handler(request)
    is_counted = await limits.take_before(front, request)
    caller = request[CALLER] = await identify(front, request)
    if caller.user is not None:
        structlog.contextvars.bind_contextvars(user_id=caller.user.id)
    await limits.take(front, request, caller, is_counted=is_counted)
    headers.refuse_foreign(request, caller)
    await csrf.check(request)
    answer = headers.preflight(front, request)
    return answer if answer is not None else await handler(request)


def _asks_for_report(request: web.Request) -> bool:
    return request.path == READY and "verbose" in request.query

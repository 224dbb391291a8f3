"""The only HTTP client: guarded against our own networks, capped in size, time and redirects.

Every call ends in an answer or in an error that says what may be done next. The line is drawn at
the first byte that may have been written: before it (name, connection, TLS) nothing can have
happened over there and the error is Transient; after it a lost answer to a request that must not
be repeated is Ambiguous. Connections to guarded addresses are never kept: a request on a kept
connection that the other side is just closing would be ambiguous for nothing, and each new
connection has its address checked.
"""

import asyncio
import io
import json as jsonlib
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, NoReturn

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from limner.core.addresses import (
    AddressGuard,
    GuardedResolver,
    Resolver,
    SystemResolver,
    parse_url,
    refused,
)
from limner.core.answers import (
    JSON_LIMITS,
    Answer,
    Limits,
    Stream,
    media_limits,
    retry_after_s,
)
from limner.core.clock import Clock, SystemClock
from limner.core.errors import (
    Ambiguous,
    Invalid,
    Permanent,
    Refused,
    TimedOut,
    Transient,
)
from limner.core.failpoints import declare, step

__all__ = ["JSON_LIMITS", "Answer", "Limits", "Outgoing", "Stream", "media_limits", "retry_after_s"]

REQUEST = declare("outgoing.request")

MAX_REDIRECTS = 5
MAX_CONNECTIONS = 100
MAX_CONNECTIONS_PER_HOST = 20

_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# They frame the message or belong to one hop (RFC 9110 section 7.6.1): the client's alone.
_OWN_HEADERS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer"}
    | {"upgrade", "expect", "proxy-authorization", "proxy-connection", "accept-encoding"}
)
# What follows a redirect to another origin. A list of what is harmless, because users name the
# headers that carry their secrets as they like.
_HARMLESS_HEADERS = frozenset({"accept", "accept-language", "content-type", "user-agent"})


@dataclass(frozen=True)
class _Call:
    """One request on its way: ``sent`` holds from the first hop that may have had an effect."""

    method: str
    url: URL
    headers: CIMultiDict[str]
    body: bytes | None
    guarded: bool
    repeatable: bool
    sent: bool = False


class Outgoing:
    """The client; one per process, closed by ``aclose``.

    ``allow_private_hosts`` holds ``host:port`` entries that the guard lets through. Proxies and
    credentials that the environment may name are not used, cookies are not kept. ``tls`` is for
    servers whose certificates the machine's own store cannot verify.
    """

    def __init__(
        self,
        *,
        allow_private_hosts: frozenset[str] = frozenset(),
        resolver: Resolver | None = None,
        clock: Clock | None = None,
        user_agent: str = "Limner",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._guard = AddressGuard(allow_private_hosts)
        self._resolver = resolver or SystemResolver()
        self._clock = clock or SystemClock()
        self._user_agent = user_agent
        self._tls = tls
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._closed = False

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        body: bytes | None = None,
        limits: Limits = JSON_LIMITS,
        guarded: bool = True,
        redirects: int = 0,
        idempotency_key: str | None = None,
        repeatable: bool | None = None,
    ) -> Answer:
        """Send one request and give the whole answer, whatever its status.

        ``json`` is sent as JSON, ``body`` as it is. ``redirects`` (0–5) are followed, each
        checked like a first address. ``guarded=False`` is for the operator's own addresses.
        ``repeatable`` says whether doing it twice is harmless; by default that is so for GET,
        HEAD, OPTIONS, PUT and DELETE. An idempotency key does not make it so, because not every
        receiver honours it.

        Raises:
            Refused: code ``address_refused``, by the guard; ``redirect_refused``.
            Invalid: a header that must not be sent, or a body that is no JSON.
            Transient: no connection, so nothing was sent; or, if repeatable, no whole answer.
            TimedOut: like Transient, for want of time.
            TooLarge: the answer is over its limit, and the request repeatable.
            Permanent: code ``unreadable_answer``, and the request repeatable.
            Ambiguous: not repeatable, sent or perhaps sent, and no whole answer came back; the
                cause is the error that stood in the way.
        """
        call = self._call(method, url, headers, json, body, guarded, idempotency_key, repeatable)
        async with self._exchange(call, limits, redirects) as (stream, last):
            try:
                content = b"".join([chunk async for chunk in stream.chunks()])
            except (Transient, Permanent) as error:
                _fail(error, done=not last.repeatable)
            return Answer(stream.status, stream.headers, content, stream.url, self._clock.now())

    @asynccontextmanager
    async def stream(
        self,
        url: str,
        *,
        limits: Limits,
        headers: Mapping[str, str] | None = None,
        guarded: bool = True,
        redirects: int = 0,
    ) -> AsyncIterator[Stream]:
        """GET ``url`` and give the answer while its body is coming, for large results.

        The connection is closed when the block is left, however much was read.

        Raises:
            Refused, Invalid, Transient, TimedOut: as ``request``; ``Stream.chunks`` has its own.
        """
        call = self._call("GET", url, headers, None, None, guarded, None, None)
        async with self._exchange(call, limits, redirects) as (stream, _):
            yield stream

    async def aclose(self) -> None:
        """Close all connections; a closed client opens none again."""
        self._closed = True
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()
        await self._resolver.aclose()

    def _call(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        json: Any,
        body: bytes | None,
        guarded: bool,
        idempotency_key: str | None,
        repeatable: bool | None,
    ) -> _Call:
        """Check and assemble a request."""
        method = method.upper()
        sent = CIMultiDict({"User-Agent": self._user_agent, "Accept": "*/*"})
        if json is not None:
            body = encode_json(json)
            sent["Content-Type"] = "application/json"
        sent.update(headers or {})
        if idempotency_key is not None:
            sent["Idempotency-Key"] = idempotency_key
        for name, value in sent.items():
            if not _TOKEN.fullmatch(name) or name.lower() in _OWN_HEADERS:
                raise Invalid(f"the header {name!r} cannot be set", code="header_invalid")
            if _BAD_VALUE.search(value):
                # The value may be a secret and is not repeated.
                raise Invalid(f"the header {name} has control characters", code="header_invalid")
        sent["Accept-Encoding"] = "gzip, deflate"
        again = method in _REPEATABLE if repeatable is None else repeatable
        return _Call(method, parse_url(url), sent, body, guarded, again)

    @asynccontextmanager
    async def _exchange(
        self, call: _Call, limits: Limits, redirects: int
    ) -> AsyncIterator[tuple[Stream, _Call]]:
        """Send, follow redirects, and hold the last answer open with the call it answers."""
        if not 0 <= redirects <= MAX_REDIRECTS:
            raise ValueError(f"redirects is 0 to {MAX_REDIRECTS}")
        end = asyncio.get_running_loop().time() + limits.total_s
        left = redirects
        while True:
            async with await self._send(call, limits, end) as response:
                location = response.headers.get("Location")
                if not redirects or response.status not in _REDIRECTS or location is None:
                    yield Stream(response, limits, end), call
                    return
                response.close()
            call = _follow(call, response.status, location, left)
            left -= 1

    async def _send(self, call: _Call, limits: Limits, end: float) -> aiohttp.ClientResponse:
        """Send one hop and give the answer once its headers are there."""
        response = None
        try:
            async with step(REQUEST):
                response = await self._attempt(call, limits, end)
        except BaseException:
            if response is not None:
                response.close()
            raise
        return response

    async def _attempt(self, call: _Call, limits: Limits, end: float) -> aiohttp.ClientResponse:
        progress = SimpleNamespace(started=False, connected=False)
        try:
            if call.guarded:
                self._guard.check(call.url)
            async with asyncio.timeout_at(end):
                return await self._session(guarded=call.guarded).request(
                    call.method,
                    call.url,
                    # Not the bytes themselves: aiohttp would write more than 1 MiB in one piece.
                    data=None if call.body is None else io.BytesIO(call.body),
                    headers=call.headers,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=None, connect=limits.connect_s),
                    trace_request_ctx=progress,
                )
        except (Refused, TimeoutError, aiohttp.ClientError, OSError) as error:
            done = call.sent or (progress.connected and not call.repeatable)
            _fail(_translated(error, call.url.host or ""), done=done)

    def _session(self, *, guarded: bool) -> aiohttp.ClientSession:
        if self._closed:
            raise RuntimeError("this client is closed")
        if guarded not in self._sessions:
            watch = aiohttp.TraceConfig()
            watch.on_connection_create_start.append(_connecting)
            watch.on_connection_create_end.append(_connected)
            self._sessions[guarded] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=GuardedResolver(self._resolver, self._guard if guarded else None),
                    use_dns_cache=False,
                    force_close=True,
                    limit=MAX_CONNECTIONS,
                    limit_per_host=MAX_CONNECTIONS_PER_HOST,
                    ssl=self._tls or True,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                trace_configs=[watch],
            )
        return self._sessions[guarded]


async def _connecting(_: object, context: SimpleNamespace, __: object) -> None:
    """Forbid the silent second attempt that aiohttp makes for GET, PUT and DELETE."""
    progress = context.trace_request_ctx
    if progress.started:
        raise aiohttp.ServerDisconnectedError
    progress.started = True


async def _connected(_: object, context: SimpleNamespace, __: object) -> None:
    """Note that from here on bytes may have been written."""
    context.trace_request_ctx.connected = True


def _translated(error: Exception, host: str) -> Transient | Permanent:
    match error:
        case Refused():
            return error
        case TimeoutError():
            return TimedOut(f"{host} did not answer in time")
        case aiohttp.ClientConnectorDNSError():
            return Transient(f"{host} cannot be resolved", code="unreachable")
        case aiohttp.ClientSSLError():
            return Transient(f"{host} has no TLS that can be trusted", code="unreachable")
        case aiohttp.ClientConnectorError():
            return Transient(f"{host} cannot be connected to", code="unreachable")
        case _:
            return Transient(f"{host} broke the connection off", code="cut_off")


def _fail(error: Transient | Permanent, *, done: bool) -> NoReturn:
    """Raise ``error``, or Ambiguous if the request may be ``done`` over there."""
    if done:
        raise Ambiguous(f"it may have been done, but: {error.detail}") from error
    raise error


def _follow(call: _Call, status: int, location: str, left: int) -> _Call:
    """Give the call that a redirect asks for (RFC 9110 section 15.4), if any are ``left``.

    Raises:
        Refused: code ``redirect_refused``: too many, from https to http, or a body to another
            origin; code ``address_refused``: to what is no URL.
        Ambiguous: the same, after a request that must not be repeated.
    """
    sent = call.sent or not call.repeatable
    try:
        if not left:
            raise Refused("too many redirects", code="redirect_refused")
        try:
            url = parse_url(str(call.url.join(URL(location))))
        except ValueError:
            raise refused("the redirect leads to no URL") from None
        if call.url.scheme == "https" and url.scheme == "http":
            raise Refused("a redirect from https to http", code="redirect_refused")
        method, body, headers = call.method, call.body, call.headers.copy()
        if (status == 303 and method != "HEAD") or (status in {301, 302} and method == "POST"):
            method, body = "GET", None
            headers.popall("Content-Type", None)
        if url.origin() != call.url.origin():
            if body is not None:
                raise Refused("a redirect of a body elsewhere", code="redirect_refused")
            kept = _HARMLESS_HEADERS | {"accept-encoding"}
            headers = CIMultiDict((k, v) for k, v in headers.items() if k.lower() in kept)
    except Refused as error:
        _fail(error, done=sent)
    return replace(call, method=method, url=url, headers=headers, body=body, sent=sent)


def encode_json(value: Any) -> bytes:
    """Give ``value`` as JSON in UTF-8 (RFC 8259).

    Raises:
        Invalid: it holds numbers that are not finite, or halves of surrogate pairs.
    """
    try:
        text = jsonlib.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()
    except ValueError as error:
        raise Invalid(f"this cannot be sent as JSON: {error}", code="not_json") from None

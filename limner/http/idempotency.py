"""Idempotency-Key: a request that makes something is run once, however often it is sent.

By draft-ietf-httpapi-idempotency-key-header-07. Only the answer of what was made is kept, in the
unit that makes it; a request that failed has made nothing and may be sent again, changed or not.
A stored answer is given to whom the handler would have given it: the same account, with a
credential of the same rights.
"""

import asyncio
import base64
import contextlib
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace

from aiohttp import web

from limner.core.errors import Busy, Invalid, Transient
from limner.core.ids import derived_id
from limner.core.logs import get_logger
from limner.http.answers import Result, Written, respond
from limner.http.auth.callers import Caller
from limner.http.body import INLINE_BYTES, RAW
from limner.http.call import Call, Once
from limner.http.limits import client_address
from limner.http.problems import BadRequest
from limner.storage.sql import idempotency as stored
from limner.storage.sql.idempotency import Asked, Earlier, Run

log = get_logger("http")

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
FINGERPRINT = "idempotent"
LENGTH_MAX = 255
RENEWED_EVERY_S = 20.0
RETRY_S = 1.0
QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z:/]+")


class KeyReused(Invalid):
    """The key stands for another request."""

    code = "idempotency_key_reused"


class StillRunning(Busy):
    """A request with this key is under way."""

    code = "idempotency_key_in_use"
    status = 409


def key_of(request: web.Request) -> str | None:
    """Give the key of a request, or None if it has none.

    A key is a string in quotes (RFC 9651 section 3.3.3) or a token (RFC 9110 section 5.6.2, and
    ``:`` and ``/``) of 1 to 255 characters; a key with and without quotes is the same.

    Raises:
        BadRequest: it has no such form, or there are two.
    """
    given = request.headers.getall(HEADER, [])
    if not given:
        return None
    text = given[0].strip(" \t")
    quoted = QUOTED.fullmatch(text)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else text
    if len(given) > 1 or not (quoted or TOKEN.fullmatch(text)) or not 1 <= len(key) <= LENGTH_MAX:
        raise BadRequest(
            f"{HEADER} is one string in quotes, or one token, of 1 to {LENGTH_MAX} characters",
            code="idempotency_key_invalid",
        )
    return key


async def once(
    call: Call, status: int, handler: Callable[[Call], Awaitable[Result]]
) -> web.StreamResponse:
    """Run the handler of a request, unless one of the same key has run; ``status`` is the route's.

    Raises:
        BadRequest: the key has no form.
        KeyReused: the key stands for another request.
        StillRunning: the first request of the key goes on.
    """
    key = key_of(call.request)
    if key is None:
        return respond(await handler(call), status)
    asked = await _asked(call, key)
    found = await stored.claim(call.front.database, asked)
    if isinstance(found, Earlier):
        return _replayed(call, asked, found)
    running = Once(
        status, lambda written: stored.keep(found, written.status, _sealed(call, found, written))
    )
    lease = asyncio.create_task(_held(call, found, running))
    try:
        result = await handler(replace(call, once=running))
        if not running.is_kept:
            await _keep_late(call, running, result)
    except BaseException:
        await _release(call, found)
        raise
    finally:
        lease.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await lease
    return respond(result, status)


async def _keep_late(call: Call, running: Once, result: Result) -> None:
    """Keep the answer of a handler that had nothing to commit."""
    if isinstance(result, web.StreamResponse):
        raise TypeError("a route that creates gives a model or an Answer")
    work = call.work()
    work.step(running.keep(Written.of(result, running.status)))
    await call.commit(work)


async def _asked(call: Call, key: str) -> Asked:
    """Give the request as it is compared with others of its key."""
    request = call.request
    raw = request.get(RAW, b"")
    if len(raw) > INLINE_BYTES:
        body = await asyncio.to_thread(_canonical, raw)
    else:
        body = _canonical(raw)
    line = f"{request.method} {request.rel_url.raw_path_qs}"
    parts = f"{line}\n{_rights(call.caller)}\n".encode()
    whose = call.caller.id or f"anonymous {client_address(call.front, request)}"
    # A body may hold a password, which who reads the table could try against a bare hash of it.
    fingerprint = call.front.sealer.digest(FINGERPRINT, parts + body)
    return Asked(derived_id("request", whose, key), call.caller.id, fingerprint)


def _rights(caller: Caller) -> str:
    """Give what may be made with the credential, in words that are the same for equal rights.

    A replay runs no handler, so what handlers look at must be the same as it was: the scopes, and
    the end of a key, which no key that it makes outlives.
    """
    end = caller.key.expires_at if caller.key else None
    return " ".join([*sorted(caller.scopes), end.isoformat() if end else "endless"])


def _canonical(raw: bytes) -> bytes:
    """Give a JSON body in one form: spaces and the order of names do not matter."""
    if not raw:
        return b""
    # Numbers as they are written, and no text: some are too long for Python to read.
    document = json.loads(raw, parse_int="\0{}".format, parse_float="\0{}".format)
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _sealed(call: Call, run: Run, written: Written) -> bytes:
    body = None if written.body is None else base64.b64encode(written.body).decode()
    plain = {"headers": dict(written.headers), "body": body}
    return call.front.sealer.seal(_name(run.id), json.dumps(plain).encode())


def _name(ident: str) -> str:
    return f"idempotent:{ident}"


def _replayed(call: Call, asked: Asked, earlier: Earlier) -> web.Response:
    """Give the answer that was kept."""
    if earlier.fingerprint != asked.fingerprint:
        raise KeyReused("this key was sent with another request; use a new one for each")
    if earlier.status is None or earlier.sealed is None:
        raise StillRunning("a request with this key is still running", retry_after_s=RETRY_S)
    plain = json.loads(call.front.sealer.open(_name(asked.id), earlier.sealed))
    body = None if plain["body"] is None else base64.b64decode(plain["body"])
    return Written(earlier.status, plain["headers"], body).response(**{REPLAYED: "true"})


async def _held(call: Call, run: Run, running: Once) -> None:
    """Renew the lease until the answer is kept; what goes wrong here harms no answer."""
    is_ours = True
    while is_ours:
        await asyncio.sleep(RENEWED_EVERY_S)
        if running.is_kept:
            return
        try:
            is_ours = await stored.renew(call.front.database, run)
        except Transient as error:
            log.warning("a lease was not renewed", error=error.detail)
    # The answer may have been kept meanwhile: what has one is not renewed either.
    if not running.is_kept:
        log.warning("another run has taken a request over", request=run.id)


async def _release(call: Call, run: Run) -> None:
    """Forget the marker of what has failed; if the database is away, its lease ends it."""
    try:
        await stored.release(call.front.database, run)
    except Transient as error:
        log.warning("a marker stays until its lease ends", error=error.detail)

"""Requests that a page of another site must not make a browser send (ASVS 5.0 section 3.5).

First comes what the browser says of the request's origin (``headers.refuse_foreign``), then a
token that only our own pages can know: an HMAC over the session, or for visitors over a random
cookie. Scripts send it as ``X-CSRF-Token``, forms as the field ``csrf_token``. Every change with a
cookie needs it, whatever the route; what carries its own signature in the path is exempt, and
headers that claim another method mean nothing here.
"""

from typing import TypeVar
from urllib.parse import parse_qsl

from aiohttp import web
from pydantic import ValidationError

from limner.core.errors import Forbidden, Invalid, Unauthenticated
from limner.http.auth import cookies
from limner.http.body import Form, faults_of, read_raw
from limner.http.call import CALLER, FRONT, Call
from limner.http.ports import Front
from limner.http.problems import BadRequest, WrongType
from limner.storage.sql.accounts import digest, new_secret

HEADER = "X-CSRF-Token"
FIELD = "csrf_token"
PURPOSE = "csrf"
FORM_TYPE = "application/x-www-form-urlencoded"
FORM_LIMIT_BYTES = 65_536
FORM_MAX_FIELDS = 200
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
SIGNED = ("/o/", "{signed}")
"""Paths that carry their credential: whoever has the link may use it, with or without a cookie."""

FIELDS: web.RequestKey[dict[str, str]] = web.RequestKey("form_fields", dict)
FRESH_VISITOR: web.RequestKey[str] = web.RequestKey("fresh_visitor", str)

F = TypeVar("F", bound=Form)


def token_for(call_or_request: Call | web.Request) -> str:
    """Give the token for the pages of this browser.

    A visitor who has no cookie yet gets one with the answer; call it before the answer's headers
    are sent.
    """
    request = call_or_request.request if isinstance(call_or_request, Call) else call_or_request
    front = request.app[FRONT]
    bound = _bound_to(request)
    if bound is None:
        visitor = request.setdefault(FRESH_VISITOR, new_secret())
        bound = {"visitor": digest(visitor)}
    return front.signer.token(PURPOSE, bound)


def token_of(front: Front, session_id: str) -> str:
    """Give the token of a session's pages."""
    return front.signer.token(PURPOSE, {"session": session_id})


def _bound_to(request: web.Request) -> dict[str, str] | None:
    """Give what the browser's token is made of, if the request carries it."""
    session = request[CALLER].session
    if session is not None:
        return {"session": session.id}
    visitor = cookies.read(request.app[FRONT], request, cookies.VISITOR)
    return {"visitor": digest(visitor)} if visitor else None


async def remember_visitor(request: web.Request, response: web.StreamResponse) -> None:
    """Set the cookie that a fresh token is bound to, just before the answer is sent."""
    visitor = request.get(FRESH_VISITOR)
    if visitor is None:
        return
    front = request.app[FRONT]
    cookies.put_late(front, response, visitor, life_s=None, name=cookies.VISITOR)


async def check(request: web.Request) -> None:
    """Return if a request changes nothing, comes without a cookie, or has a valid token.

    Raises:
        Forbidden: code ``csrf``: the token is missing, or was made for another session.
    """
    if request.method in SAFE_METHODS or not request[CALLER].by_cookie or is_signed(request):
        return
    token = request.headers.get(HEADER)
    if token is None and request.content_type == FORM_TYPE:
        token = (await _fields(request)).get(FIELD)
    _check_token(request, token)


def is_signed(request: web.Request) -> bool:
    """Whether the request's path carries a credential of its own."""
    resource = request.match_info.route.resource
    path = resource.canonical if resource is not None else ""
    return any(mark in path for mark in SIGNED)


def _check_token(request: web.Request, token: str | None) -> None:
    front, bound = request.app[FRONT], _bound_to(request)
    try:
        given = front.signer.open(PURPOSE, token or "", front.clock.now())
    except Unauthenticated:
        given = {}
    if bound is None or given != bound:
        raise Forbidden(
            f"this change needs the token of a page of ours, as {HEADER} or {FIELD}; "
            "open the page again",
            code="csrf",
        )


async def read_form(call: Call, model: type[F]) -> F:
    """Read a page's form as ``model``; its token is checked for visitors too.

    Raises:
        WrongType: it is no urlencoded form.
        TooLarge: over 64 KiB.
        BadRequest: it is not UTF-8, or has too many fields.
        Invalid: a field is unknown, given twice or does not fit; ``faults`` names all.
        Forbidden: code ``csrf``.
    """
    if call.request.content_type != FORM_TYPE:
        raise WrongType(f"send the form as {FORM_TYPE}")
    fields = dict(await _fields(call.request))
    token = fields.pop(FIELD, None)
    if call.caller.by_cookie or not call.caller.is_known:
        _check_token(call.request, call.request.headers.get(HEADER, token))
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise Invalid("the form does not fit", faults=faults_of(error)) from None


async def _fields(request: web.Request) -> dict[str, str]:
    """Read the form once; the guard and the handler both ask for it."""
    if FIELDS in request:
        return request[FIELDS]
    raw = await read_raw(request, FORM_LIMIT_BYTES)
    try:
        pairs = parse_qsl(
            raw.decode(),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=FORM_MAX_FIELDS,
        )
    except ValueError:
        raise BadRequest("the form is not UTF-8, or has too many fields") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise Invalid("a field is given twice", faults=[("", "each field once")])
    request[FIELDS] = fields
    return fields

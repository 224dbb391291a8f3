"""Errors as problem details (RFC 9457), and never with what is none of the caller's business."""

import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import hdrs, web

from limner.core.errors import (
    Ambiguous,
    EngineUnavailable,
    Invalid,
    LimnerError,
    Transient,
    Unauthenticated,
)
from limner.http.call import FRONT, REQUEST_ID

CONTENT_TYPE = "application/problem+json"
ENGINE_RETRY_S = 2.0

CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "timed_out",
    411: "length_required",
    413: "too_large",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
}
DETAILS = {
    404: "There is nothing here",
    405: "This method is not allowed here",
    413: "The body is too large",
}
SPECIAL = {
    # Signing in, and showing again who one is
    "account_disabled": (403, "The account that this signs in to is disabled"),
    "invalid_credentials": (401, "The address or the password is wrong"),
    "last_way": (409, "This is the only way to sign in to the account: set a password first"),
    "link_expired": (401, "The link was used or has expired; have another one sent"),
    "needs_browser": (403, "This is done in a browser that is signed in, and not with a key"),
    "no_email": (422, "The account has no mail address"),
    "no_password": (409, "The account has no password; a mailed link sets one"),
    "password_wrong": (403, "The password that was to show who asks is not the account's"),
    "registration_closed": (403, "Accounts are made by an administrator here"),
    "sign_in_again": (403, "The account has no password to show: sign in again, and do it then"),
    "token_expired": (401, "The link has expired"),
    "token_invalid": (401, "The token or link is not ours, has expired, or its session has ended"),
    "totp_invalid": (401, "The code of the second factor is wrong or was used before"),
    "totp_not_begun": (409, "No second factor has been begun that could be confirmed"),
    "totp_required": (401, "The password is right, and the second factor's code is needed too"),
    # Signing in by an account elsewhere
    "oauth_account_exists": (409, "There is an account with this mail address: link it there"),
    "oauth_code": (400, "The provider's answer holds no code that can be used; begin again"),
    "oauth_denied": (400, "Whoever was asked to sign in at the provider said no"),
    "oauth_linked_elsewhere": (409, "The provider's account signs in to another account here"),
    "oauth_other_account": (403, "This was begun by another account than the one signed in now"),
    "oauth_refused": (403, "What the provider answered cannot be trusted; begin again"),
    "oauth_state": (400, "This was not begun in this browser, was used, or took too long"),
    "oauth_unverified": (403, "The provider does not say that the mail address is verified"),
    "provider_away": (503, "The provider does not answer now; try again, or another way"),
    # Requests as such
    "ambiguous": (502, "Whether it was done outside is unknown: look before doing it again"),
    "csrf": (403, "A cookie alone may change nothing: the form's token is missing or not ours"),
    "foreign_origin": (403, "Another site made the browser ask for this"),
    "idempotency_key_invalid": (400, "The header Idempotency-Key is no key"),
    "internal": (500, "Something went wrong here; the request id names it in the log"),
    "json_too_deep": (400, "The JSON text has too many levels"),
    "json_too_large": (413, "The JSON text is too large"),
    "length_required": (411, "The request must say how long its body is"),
    "not_json": (400, "The text is no JSON, or holds a number that is not finite"),
    "object_damaged": (422, "The stored file is damaged"),
    "range_not_satisfiable": (416, "The file has no such range"),
    "too_many_connections": (503, "There are too many connections; try again"),
    "too_many_streams": (429, "The account has too many streams open; close one"),
    # What sources and providers are told to do, and what comes of it
    "address_refused": (422, "The address is not one that is asked from here"),
    "answer_too_large": (413, "What came back from there is too large"),
    "connector_unknown": (422, "There is no such connector"),
    "cut_off": (503, "The connection broke within the answer; try again"),
    "header_invalid": (422, "A header cannot be sent like this"),
    "no_answer": (503, "The provider did not answer, and whether it got the order is unknown"),
    "options_invalid": (422, "The options are not those of the connector"),
    "path_invalid": (422, "The path is none of RFC 9535, or asks for too much"),
    "path_too_slow": (422, "To follow the path took too long"),
    "redirect_refused": (422, "The answer leads somewhere it may not"),
    "template_invalid": (422, "The template cannot be filled in"),
    "unreachable": (503, "The host cannot be found or connected to; try again"),
    "unreadable_answer": (400, "What came back from there cannot be read"),
}
"""What the documentation says of codes that their error's class does not explain."""

CREDENTIALS = ("signed", "token")
"""Parts of a path that are a credential."""


class BadRequest(LimnerError):
    """The request is not one that HTTP or JSON allows."""

    code = "bad_request"
    status = 400


class TooSlow(LimnerError):
    """The body did not come in time."""

    code = "timed_out"
    status = 408


class HeadTooLarge(LimnerError):
    """The head of the request is larger than this takes (RFC 6585 section 5)."""

    code = "headers_too_large"
    status = 431


class WrongType(LimnerError):
    """The body is of another type than this takes."""

    code = "unsupported_media_type"
    status = 415


def document(
    base_url: str, status: int, code: str, detail: str, instance: str, request_id: str
) -> dict[str, Any]:
    """Give the members that every problem has."""
    return {
        "type": f"{base_url}/docs#problem-{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": instance,
        "code": code,
        "request_id": request_id,
    }


def problem(
    request: web.Request,
    status: int,
    code: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> web.Response:
    """Give the answer for a problem; ``more`` are members of its own (RFC 9457 section 3.2)."""
    base_url, request_id = request.app[FRONT].settings.base_url, request.get(REQUEST_ID, "")
    body = document(base_url, status, code, detail, _instance(request), request_id) | more
    return web.Response(
        body=json.dumps(body, ensure_ascii=False).encode(errors="replace"),
        status=status,
        headers={**(headers or {}), "Content-Type": CONTENT_TYPE},
    )


def _instance(request: web.Request) -> str:
    """Give the request's path; a credential in it stays out of what people paste elsewhere."""
    path = request.path
    for name in CREDENTIALS:
        secret = request.match_info.get(name)
        if secret:
            path = path.replace(secret, "-")
    return path


def problem_of(request: web.Request, error: LimnerError) -> web.Response:
    """Give the answer for one of our errors."""
    headers: dict[str, str] = {}
    more: dict[str, Any] = {}
    detail = error.detail
    if isinstance(error, Invalid) and error.faults:
        more["errors"] = [{"pointer": pointer, "detail": text} for pointer, text in error.faults]
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="limner"'
    if isinstance(error, EngineUnavailable):
        # A driver's sentence names hosts, users and files.
        detail = "An engine that this needs is out of reach; try again"
    if isinstance(error, Transient):
        wait_s = error.retry_after_s if error.retry_after_s is not None else ENGINE_RETRY_S
        headers[hdrs.RETRY_AFTER] = whole_seconds(wait_s)
    status, code = error.status, error.code
    if isinstance(error, Ambiguous):
        status = 502
    elif status >= 500 and not isinstance(error, Transient) and code == "internal":
        detail = GENERIC
    if code == "range_not_satisfiable":
        status = 416
    return problem(request, status, code, detail, headers=headers, **more)


def whole_seconds(wait_s: float) -> str:
    """Give a wait as Retry-After has it: whole seconds, and one at least (RFC 9110 10.2.3)."""
    return str(max(1, math.ceil(wait_s)))


GENERIC = "Something went wrong here. The request id names it in the log"


def problem_of_http(request: web.Request, error: web.HTTPException) -> web.Response:
    """Give the answer for an error that aiohttp raised, with its headers (Allow, for one)."""
    kept = {name: value for name, value in error.headers.items() if name in {"Allow", "Location"}}
    code = CODES.get(error.status, HTTPStatus(error.status).name.lower())
    detail = DETAILS.get(error.status, HTTPStatus(error.status).phrase)
    return problem(request, error.status, code, detail, headers=kept)


def problem_of_bug(request: web.Request) -> web.Response:
    """Give the answer for an error nobody foresaw: only the request id."""
    return problem(request, 500, "internal", GENERIC)

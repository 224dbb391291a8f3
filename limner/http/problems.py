"""Errors as problem details (RFC 9457), and never with what is none of the caller's business."""

import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web

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
        headers["Retry-After"] = str(max(1, math.ceil(wait_s)))
    status, code = error.status, error.code
    if isinstance(error, Ambiguous):
        status = 502
    elif status >= 500 and not isinstance(error, Transient) and code == "internal":
        detail = GENERIC
    if code == "range_not_satisfiable":
        status = 416
    return problem(request, status, code, detail, headers=headers, **more)


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

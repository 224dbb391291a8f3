"""What the description says of answers: statuses, headers and problems of every route."""

from collections.abc import Sequence
from typing import Any

from limner.http import problems
from limner.http.examples import DIGITS
from limner.http.routes import OPEN, Route

TEXT = {"schema": {"type": "string"}}
BASE_URL = "https://limner.example.com"
TASK_URL = f"{BASE_URL}/api/tasks/task_{DIGITS}"
HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-Id": {
        "description": "Names this request in the log; the client's own if it sent one",
        **TEXT,
        "example": DIGITS,
    },
    "RateLimit": {
        "description": "What is left of the allowance (draft-ietf-httpapi-ratelimit-headers)",
        **TEXT,
        "example": '"account";r=199;t=1',
    },
    "RateLimit-Policy": {
        "description": "The allowance: requests at once, and the seconds it fills up in",
        **TEXT,
        "example": '"account";q=200;w=4',
    },
    "Retry-After": {
        "description": "Seconds to wait before the next try",
        "schema": {"type": "integer", "minimum": 0},
        "example": 2,
    },
    "WWW-Authenticate": {
        "description": "How to say who calls (RFC 6750)",
        **TEXT,
        "example": 'Bearer realm="limner"',
    },
    "Location": {
        "description": "Where the new object is",
        "schema": {"type": "string", "format": "uri"},
        "example": TASK_URL,
    },
    "ETag": {"description": "The object's version", **TEXT, "example": 'W/"3"'},
    "Link": {
        "description": "The next page, if there is one (RFC 8288)",
        **TEXT,
        "example": f'<{BASE_URL}/api/tasks?cursor=MjAyNg>; rel="next"',
    },
    "Idempotency-Replayed": {
        "description": "true: this is the stored answer to the same request",
        "schema": {"type": "string", "enum": ["true"]},
        "example": "true",
    },
    "Preference-Applied": {
        "description": "Which wait was granted (RFC 7240)",
        **TEXT,
        "example": "wait=10",
    },
}
FAULTS = {
    "400": "not JSON, deeper than 64 levels, or no HTTP that we read",
    "401": "no credential, or one that is not valid",
    "403": "the scope is missing, or another site asks in the name of a browser",
    "404": "no such object, or somebody else's",
    "408": "the body did not come in time",
    "409": "the object's state does not allow this, or the same request is still running",
    "413": "over 1 MiB",
    "415": "not application/json",
    "422": "fields are wrong, missing or unknown: all are listed",
    "429": "too many requests",
    "503": "an engine is out of reach; the same request may be sent again",
}
CODES = {
    **problems.CODES,
    401: "unauthenticated",
    402: "out_of_credits",
    403: "forbidden",
    409: "conflict",
    422: "invalid",
    429: "rate_limited",
    502: "provider_failed",
    503: "engine_unavailable",
}
"""A code for an example: the usual one of each status."""
EVERY = ("X-Request-Id", "RateLimit", "RateLimit-Policy")
PROBES = frozenset({"/livez"})
"""Paths that are never limited and never ask the database who calls."""
WAITING = frozenset({"409", "429", "503"})
"""Problems that may say when to come again; of 409 the one of a request that is still running."""
LOCATED = frozenset({201, 302, 303})
"""Statuses that say where something is."""


def referred(names: Sequence[str]) -> dict[str, Any]:
    """Give references to the headers of these names."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def good_headers(route: Route, *, is_list: bool) -> list[str]:
    """Give the names of the headers that an answer without a fault has."""
    names = ["X-Request-Id"] if route.path in PROBES else list(EVERY)
    wanted = {
        "Location": route.creates or route.status in LOCATED,
        "Idempotency-Replayed": route.creates,
        "ETag": route.is_tagged,
        "Preference-Applied": route.waits,
        "Link": is_list,
    }
    return names + [name for name, is_there in wanted.items() if is_there]


def faults_of(route: Route) -> list[str]:
    """Give the statuses of the problems that a route may answer with."""
    if route.path in PROBES:
        return ["422"]
    # Also without a model for the query: what is unknown in it is a fault.
    found = {"422", "429", "503"}
    changes = route.method not in {"GET", "HEAD"}
    if route.access != OPEN:
        found |= {"401", "403"}
    if changes:
        # Whoever calls with a browser has to show that it was our page that asked.
        found |= {"403", "400", "408", "413", "415"}
    if "{" in route.path:
        found.add("404")
    if route.creates or ("{" in route.path and changes):
        found.add("409")
    return sorted(found)


def problem_responses(schema: str) -> dict[str, Any]:
    """Give the components for all problems; ``schema`` refers to the one of all."""
    return {f"Problem{status}": problem(status, schema) for status in FAULTS}


def problem(status: str, schema: str, text: str = "") -> dict[str, Any]:
    """Give the description of one problem; ``schema`` refers to the one of all."""
    code = CODES.get(int(status), "conflict")
    text = text or FAULTS[status]
    headers = list(EVERY)
    if status in WAITING:
        headers.append("Retry-After")
    if status == "401":
        headers.append("WWW-Authenticate")
    example = problems.document(BASE_URL, int(status), code, text, "/api/tasks", DIGITS)
    if status == "422":
        example["errors"] = [{"pointer": "/name", "detail": "Field required"}]
    return {
        "description": text,
        "headers": referred(headers),
        "content": {
            "application/problem+json": {"schema": {"$ref": schema}, "example": example},
        },
    }

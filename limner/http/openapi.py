"""The OpenAPI 3.1 description, made from the routes that are served and the models they check."""

import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from limner.http import responses
from limner.http.examples import DIGITS, Examples, kind_of
from limner.http.listing import Page
from limner.http.routes import ANY, OPEN, Route
from limner.storage.sql.accounts import SCOPES

REF = "#/components/schemas/{model}"
PARAMETER = re.compile(r"\{(\w+)(?::[^{}]*(?:\{[^{}]*\}[^{}]*)*)?\}")
PROBLEM = {
    "type": "object",
    "description": "RFC 9457 problem details",
    "required": ["type", "title", "status", "detail", "instance", "code", "request_id"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "code": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}
BYTES = {"type": "string", "format": "binary"}
FIRST_FAULT = 400
EMPTY = frozenset({204, 302, 303, 304})
"""Statuses of answers that have no body of their own."""
TAGS = {
    "auth": "Accounts: making one, signing in, tokens, passwords",
    "me": "One's own account",
    "sessions": "Where one is signed in",
    "keys": "API keys",
    "identities": "Accounts elsewhere that sign in here",
    "notifications": "What a person shall know",
    "users": "Accounts, for administrators",
    "erasure": "Erasing what is known of an address",
    "generate": "Asking for media, and what became of it",
    "models": "What the generator can be asked for",
    "stream": "Everything that happens to one's objects, live",
    "sources": "Feeds of comments",
    "comments": "What came in",
    "tasks": "Wishes on their way to a mail",
    "deliveries": "Mails",
    "intent": "How a text would be understood",
    "providers": "Who else makes pictures and videos",
    "mailbox": "The mails of a service without a mail server",
    "settings": "What changes while the service runs, and secrets",
    "audit": "Who did what, sealed in a chain",
    "suppressions": "Addresses that get no mail",
    "ops": "Actors, queues and dead letters",
    "health": "Whether all is well, and metrics",
}
REQUEST_HEADERS: dict[str, tuple[str, str]] = {
    "Idempotency-Key": (
        "A name for this request; sent again with the same body, it gets the stored answer",
        '"8e03978e-40d5-43dd-bc93-6894a57f9324"',
    ),
    "If-None-Match": ("The tag of the version that one has; 304 if it is the newest", 'W/"3"'),
    "Prefer": ("Wait up to so many seconds, 60 at most, for the work to end", "wait=10"),
    "Last-Event-ID": ("The number of the last event that one has; what follows is sent", "0"),
}


def document(routes: Sequence[Route], version: str, base_url: str = "/") -> dict[str, Any]:
    """Give the description of all routes that are part of the API."""
    documented = [route for route in routes if route.is_documented]
    schemas, references = _schemas(documented)
    describing = _Describing(references, Examples(schemas))
    paths: dict[str, dict[str, Any]] = {}
    for route in documented:
        path = PARAMETER.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = describing.operation(route)
    tags = dict.fromkeys(map(tag_of, documented))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Limner",
            "version": version,
            "description": "Turns comments and requests into pictures and carries them to people.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": base_url}],
        "tags": [{"name": tag, "description": TAGS.get(tag, "")} for tag in tags],
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Problem": PROBLEM},
            "headers": responses.HEADERS,
            "responses": responses.problem_responses(REF.format(model="Problem")),
            "securitySchemes": _security_schemes(),
        },
    }


def _security_schemes() -> dict[str, Any]:
    return {
        "key": {
            "type": "http",
            "scheme": "bearer",
            "description": f"An API key, lim_…; scopes: {', '.join(sorted(SCOPES))}",
        },
        "token": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "An access token from /api/auth/login; it has all scopes of the role",
        },
        "session": {
            "type": "apiKey",
            "in": "cookie",
            "name": "limner_session",
            "description": "A browser's session (`__Host-limner_session` over https); requests "
            "that change something also carry the page's token in X-CSRF-Token",
        },
    }


def tag_of(route: Route) -> str:
    """Give the group of a route: the first word of its path below /api."""
    words = route.path.strip("/").split("/")
    if words[0] == "api":
        return words[1]
    return "auth" if words[0] in {"auth", ".well-known"} else "health"


def _schemas(routes: Sequence[Route]) -> tuple[dict[str, Any], dict[Any, dict[str, Any]]]:
    """Give the schemas of all bodies and answers, and what refers to each."""
    wanted: dict[tuple[type[BaseModel], Any], None] = {}
    for route in routes:
        if route.body is not None:
            wanted[route.body, "validation"] = None
        if route.answer is not None:
            wanted[route.answer, "serialization"] = None
    references, whole = models_json_schema(list(wanted), ref_template=REF)
    return whole.get("$defs", {}), dict(references)


class _Describing:
    """Describes operations; ``references`` lead from models to their schemas."""

    def __init__(self, references: dict[Any, dict[str, Any]], examples: Examples) -> None:
        self._references = references
        self._examples = examples

    def operation(self, route: Route) -> dict[str, Any]:
        operation: dict[str, Any] = {
            "operationId": _identifier(route),
            "summary": route.summary,
            "tags": [tag_of(route)],
            "parameters": [
                *_path_parameters(route),
                *self._query_parameters(route),
                *_header_parameters(route),
            ],
            "responses": self._responses(route),
            "security": _security(route),
        }
        if route.body is not None:
            operation["requestBody"] = {
                "required": not route.has_optional_body,
                "content": {"application/json": self._content(route.body, "validation")},
            }
        if route.takes:
            operation["requestBody"] = {
                "required": True,
                "content": {one: {"schema": BYTES} for one in route.takes},
            }
        return operation

    def _content(self, model: type[BaseModel], mode: str) -> dict[str, Any]:
        schema = self._references[model, mode]
        return {"schema": schema, "example": self._examples.of(schema)}

    def _query_parameters(self, route: Route) -> list[dict[str, Any]]:
        if route.query is None:
            return []
        schema = route.query.model_json_schema(ref_template=REF)
        examples = Examples(schema.get("$defs", {}))
        return [
            {
                "name": name,
                "in": "query",
                "required": name in schema.get("required", []),
                "schema": _plain(one, schema.get("$defs", {})),
                "example": examples.of(one, name),
            }
            for name, one in schema["properties"].items()
        ]

    def _responses(self, route: Route) -> dict[str, Any]:
        is_list = route.answer is not None and issubclass(route.answer, Page)
        names = responses.good_headers(route, is_list=is_list)
        good: dict[str, Any] = {
            "description": route.summary,
            "headers": responses.referred(names),
        }
        if route.answer is not None:
            good["content"] = {"application/json": self._content(route.answer, "serialization")}
        elif route.media:
            good["content"] = _contents(route.media)
        found = {str(route.status): good}
        for other, text in route.also.items():
            if other >= FIRST_FAULT:
                fault = responses.problem(str(other), REF.format(model="Problem"), text)
                fault["content"] |= _contents(route.also_media.get(other, ""))
                found[str(other)] = fault
                continue
            found[str(other)] = {**good, "description": text}
            if other in EMPTY:
                found[str(other)].pop("content", None)
        if route.is_tagged and route.method == "GET":
            found["304"] = {
                "description": "If-None-Match names the newest version",
                "headers": responses.referred([*responses.EVERY, "ETag"]),
            }
        for status in responses.faults_of(route):
            found.setdefault(status, {"$ref": f"#/components/responses/Problem{status}"})
        return dict(sorted(found.items()))


def _contents(media: str) -> dict[str, Any]:
    """Describe an answer of one of these types, separated by commas, that no model describes."""
    return {
        one: {"schema": {"type": "object" if one.endswith("json") else "string"}}
        for one in media.split(", ")
        if one
    }


def _plain(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Give a parameter's schema with its definitions put in their places."""
    if "$ref" in schema:
        return dict(definitions[schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return {**schema, "anyOf": [_plain(one, definitions) for one in schema["anyOf"]]}
    return schema


def _security(route: Route) -> list[dict[str, Any]]:
    if route.access == OPEN:
        return []
    scopes = [] if route.access == ANY else [route.access]
    return [{"key": scopes}, {"token": scopes}, {"session": scopes}]


def _identifier(route: Route) -> str:
    words = re.findall(r"[a-z0-9]+", PARAMETER.sub(r"by \1", route.path.lower()))
    return "_".join([route.method.lower(), *(word for word in words if word != "api")])


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1},
            "example": f"{kind_of(tag_of(route))}_{DIGITS}" if name == "id" else name,
        }
        for name in PARAMETER.findall(route.path)
    ]


def _header_parameters(route: Route) -> list[dict[str, Any]]:
    names = []
    if route.creates:
        names.append("Idempotency-Key")
    if route.method == "GET" and route.is_tagged:
        names.append("If-None-Match")
    if route.waits:
        names.append("Prefer")
    if route.media == "text/event-stream":
        names.append("Last-Event-ID")
    return [_header(name) for name in names]


def _header(name: str) -> dict[str, Any]:
    text, example = REQUEST_HEADERS[name]
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": text,
        "schema": {"type": "string"},
        "example": example,
    }

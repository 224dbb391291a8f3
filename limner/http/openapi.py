"""The OpenAPI 3.1 description, made from the routes that are served and the models they check."""

import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

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
FAULTS = {
    "400": "not JSON, or deeper than 64 levels",
    "401": "no credential, or one that is not valid",
    "403": "the scope is missing",
    "404": "no such object, or somebody else's",
    "409": "the object's state does not allow this",
    "413": "over 1 MiB",
    "415": "not application/json",
    "422": "fields are wrong, missing or unknown: all are listed",
    "429": "too many requests",
}
ETAGGED = ("/api/tasks/{id}", "/api/sources/{id}", "/api/providers/{id}", "/api/deliveries/{id}")


def document(routes: Sequence[Route], version: str, base_url: str = "/") -> dict[str, Any]:
    """Give the description of all routes that are part of the API."""
    documented = [route for route in routes if route.is_documented]
    schemas, references = _schemas(documented)
    paths: dict[str, dict[str, Any]] = {}
    for route in documented:
        path = PARAMETER.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, references)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Limner",
            "version": version,
            "description": "Turns comments into pictures and mails them.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": base_url}],
        "tags": [{"name": tag} for tag in dict.fromkeys(map(tag_of, documented))],
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Problem": PROBLEM},
            "responses": {
                f"Problem{status}": {
                    "description": text,
                    "content": {
                        "application/problem+json": {
                            "schema": {"$ref": "#/components/schemas/Problem"}
                        }
                    },
                }
                for status, text in FAULTS.items()
            },
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": f"An API key; scopes: {', '.join(sorted(SCOPES))}",
                },
                "session": {"type": "apiKey", "in": "cookie", "name": "limner_session"},
            },
        },
    }


def tag_of(route: Route) -> str:
    """Give the group of a route: the first word of its path below /api."""
    words = route.path.strip("/").split("/")
    return words[1] if words[0] == "api" else "health"


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


def _operation(route: Route, references: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _identifier(route),
        "summary": route.summary,
        "tags": [tag_of(route)],
        "parameters": [*_path_parameters(route), *_query_parameters(route), *_headers(route)],
        "responses": _responses(route, references),
    }
    if route.access == OPEN:
        operation["security"] = []
    else:
        scopes = [] if route.access == ANY else [route.access]
        operation["security"] = [{"key": scopes}, {"session": scopes}]
    if route.body is not None:
        operation["requestBody"] = {
            "required": not route.has_optional_body,
            "content": {"application/json": {"schema": references[route.body, "validation"]}},
        }
    return operation


def _identifier(route: Route) -> str:
    words = re.findall(r"[a-z0-9]+", PARAMETER.sub(r"by \1", route.path.lower()))
    return "_".join([route.method.lower(), *(word for word in words if word != "api")])


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in PARAMETER.findall(route.path)
    ]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    schema = route.query.model_json_schema()
    return [
        {"name": name, "in": "query", "required": name in schema.get("required", []), "schema": one}
        for name, one in schema["properties"].items()
    ]


def _headers(route: Route) -> list[dict[str, Any]]:
    names = []
    if route.method == "GET" and route.path in ETAGGED:
        names.append("If-None-Match")
    if route.path.startswith("/api/tasks/{id}") and route.answer is not None:
        names.append("Prefer")
    if route.media == "text/event-stream":
        names.append("Last-Event-ID")
    return [{"name": name, "in": "header", "schema": {"type": "string"}} for name in names]


def _responses(route: Route, references: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    good: dict[str, Any] = {"description": route.summary}
    if route.answer is not None:
        schema = references[route.answer, "serialization"]
        good["content"] = {"application/json": {"schema": schema}}
    elif route.media:
        good["content"] = {route.media: {"schema": {"type": "string"}}}
    answers = {str(route.status): good}
    for status in _faults_of(route):
        answers[status] = {"$ref": f"#/components/responses/Problem{status}"}
    return answers


def _faults_of(route: Route) -> list[str]:
    found = ["429"]
    if route.access != OPEN:
        found += ["401", "403"]
    if "{" in route.path:
        found.append("404")
    if route.method in {"POST", "PATCH", "PUT", "DELETE"} and "{" in route.path:
        found.append("409")
    if route.body is not None:
        found += ["400", "413", "415", "422"]
    elif route.query is not None:
        found.append("422")
    return sorted(found)

"""Examples for the description: made from the schemas, so that none is written twice.

A schema's own ``examples`` come first, then what is usual for a field of that name or format, then
the smallest value that its keywords allow. A test holds every example against its schema.
"""

from collections.abc import Mapping
from typing import Any

AT = "2026-11-22T12:00:00Z"
DIGITS = "0199c0de7a2e7000a0b1c2d3e4f5a6b7"
DEPTH_MAX = 6
REF_HEAD = "#/components/schemas/"

BY_FORMAT: dict[str, Any] = {
    "date-time": AT,
    "email": "anna@example.com",
    "uri": "https://limner.example.com/",
}
BY_NAME: dict[str, Any] = {
    "address": "anna@example.com",
    "author": "Anna",
    "base_url": "https://api.acme.example",
    "comment_text": "draw a red circle, send it to anna@example.com",
    "connector": "demo",
    "content_type": "image/png",
    "cursor": "",
    "email": "anna@example.com",
    "error": "",
    "external_id": "note-42",
    "kind": "image",
    "language": "en",
    "name": "Anna",
    "new_password": "a heron at the window",
    "next_cursor": None,
    "password": "correct horse battery",
    "prompt": "a red circle",
    "provider_job_id": "job-17",
    "request": {"input": {"prompt": "$.prompt"}},
    "scopes": ["tasks:read"],
    "submit_path": "/v1/jobs",
    "status_map": {"done": "succeeded"},
    "status_path": "/v1/jobs/{id}",
    "text": "draw a red circle",
    "timezone": "Europe/Berlin",
    "token": "AUnHq3v4w1e7Yb0x2rK9",
    "trace_id": DIGITS,
    "user_agent": "Mozilla/5.0",
}
KINDS = (
    *("account", "audit", "comment", "delivery", "identity", "job", "key", "mail"),
    *("notification", "provider", "session", "source", "suppression", "task", "user"),
)


class Examples:
    """Makes examples for the schemas of one description."""

    def __init__(self, schemas: Mapping[str, Any]) -> None:
        self._schemas = schemas

    def of(self, schema: Mapping[str, Any], name: str = "", owner: str = "") -> Any:
        """Give an example of ``schema``, the value of ``name`` in an object called ``owner``."""
        return self._made(schema, name, owner, 0)

    def _made(self, schema: Mapping[str, Any], name: str, owner: str, depth: int) -> Any:
        if schema.get("examples"):
            return schema["examples"][0]
        if "const" in schema:
            return schema["const"]
        if "$ref" in schema:
            target = schema["$ref"].removeprefix(REF_HEAD)
            return self._made(self._schemas[target], name, target, depth)
        for word in ("anyOf", "oneOf", "allOf"):
            if word in schema:
                return self._chosen(schema[word], name, owner, depth)
        usual = self._usual(schema, name, owner)
        return usual if usual is not None else self._smallest(schema, name, owner, depth)

    def _chosen(self, ways: list[Any], name: str, owner: str, depth: int) -> Any:
        if depth >= DEPTH_MAX:
            return None
        real = [one for one in ways if one.get("type") != "null"]
        return self._made(real[0], name, owner, depth)

    def _usual(self, schema: Mapping[str, Any], name: str, owner: str) -> Any:
        """Give what is usual for a field of this name or format, if the type fits."""
        if "enum" in schema:
            return schema["enum"][0]
        if schema.get("type") == "string":
            if schema.get("format") in BY_FORMAT:
                return BY_FORMAT[schema["format"]]
            if name == "id" or (name.endswith("_id") and name not in BY_NAME):
                return f"{kind_of(owner if name == 'id' else name)}_{DIGITS}"
            if name == "url" or name.endswith("_url"):
                return "https://limner.example.com/"
        usual = BY_NAME.get(name)
        kinds = {"string": str, "array": list, "object": dict}
        return usual if isinstance(usual, kinds.get(str(schema.get("type")), ())) else None

    def _smallest(self, schema: Mapping[str, Any], name: str, owner: str, depth: int) -> Any:
        match schema.get("type"):
            case "object":
                return self._object(schema, depth)
            case "array":
                if depth >= DEPTH_MAX:
                    return []
                count = max(1, schema.get("minItems", 0)) if "items" in schema else 0
                return [self._made(schema["items"], name, owner, depth + 1)] * count
            case "boolean":
                return bool(schema.get("default", False))
            case "integer" | "number":
                return self._number(schema)
            case "null":
                return None
            case "string":
                default = schema.get("default")
                return default or "x" * max(1, schema.get("minLength", 0))
            case _:
                return schema.get("default", {})

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        if depth >= DEPTH_MAX:
            return {}
        owner = str(schema.get("title", ""))
        required = schema.get("required", ())
        made = {
            name: self._made(one, name, owner, depth + 1)
            for name, one in schema.get("properties", {}).items()
        }
        # What may be left out and has nothing to show only makes an example longer.
        return {name: value for name, value in made.items() if name in required or value != ""}

    @staticmethod
    def _number(schema: Mapping[str, Any]) -> Any:
        default = schema.get("default")
        if isinstance(default, int | float):
            return default
        above = schema.get("exclusiveMinimum")
        least = schema.get("minimum", 1 if above is None else above + 1)
        step = schema.get("multipleOf", 1)
        return -(-least // step) * step


def kind_of(name: str) -> str:
    """Give the prefix of ids that a model's or a field's name hints at."""
    lowered = name.lower()
    return next((kind for kind in KINDS if lowered.startswith(kind)), "task")

"""The reference of the REST interface: the OpenAPI document, read for the page that shows it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

REF_HEAD = "#/components/"
BOUNDS = (
    ("minLength", "at least {} characters"),
    ("maxLength", "at most {} characters"),
    ("minimum", "from {}"),
    ("maximum", "to {}"),
    ("multipleOf", "in steps of {}"),
    ("minItems", "at least {} of them"),
    ("maxItems", "at most {} of them"),
    ("pattern", "of the form {}"),
)
OBVIOUS = frozenset({("minLength", 1), ("minItems", 1), ("minimum", 0)})
ENDLESS = "text/event-stream"


@dataclass(frozen=True)
class Field:
    """One parameter, or one field of a body: ``where`` is path, query, header or body."""

    name: str
    where: str
    kind: str
    text: str
    is_required: bool
    example: str


@dataclass(frozen=True)
class Reply:
    """One answer: its status, what it means, and an example if it has a body."""

    status: str
    text: str
    headers: tuple[str, ...]
    example: str

    @property
    def is_good(self) -> bool:
        """Whether this is no fault."""
        return self.status < "4"


@dataclass(frozen=True)
class Operation:
    """One operation, with all that is needed to show it and to try it."""

    ident: str
    method: str
    path: str
    summary: str
    access: str
    fields: tuple[Field, ...]
    body: str
    replies: tuple[Reply, ...]
    curl: str
    can_be_tried: bool


@dataclass(frozen=True)
class Group:
    """The operations of one tag."""

    name: str
    text: str
    operations: tuple[Operation, ...]


def groups_of(document: Mapping[str, Any]) -> list[Group]:
    """Give all operations by their tags, in the document's order."""
    reading = _Reading(document)
    found: dict[str, list[Operation]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method, one in methods.items():
            found[one["tags"][0]].append(reading.operation(path, method, one))
    return [
        Group(tag["name"], tag["description"], tuple(found[tag["name"]]))
        for tag in document["tags"]
    ]


class _Reading:
    """Reads operations; follows the document's references."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._base = document["servers"][0]["url"]

    def _followed(self, one: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in one:
            place: Any = self._document["components"]
            for part in one["$ref"].removeprefix(REF_HEAD).split("/"):
                place = place[part]
            one = place
        return one

    def operation(self, path: str, method: str, one: Mapping[str, Any]) -> Operation:
        forms = one.get("requestBody", {}).get("content", {})
        body = forms.get("application/json")
        fields = [self._parameter(parameter) for parameter in one["parameters"]]
        if body is not None:
            fields += self._body_fields(body)
        replies = tuple(
            self._reply(status, reply) for status, reply in sorted(one["responses"].items())
        )
        example = _text(body["example"]) if body else ""
        kinds = {kind for reply in one["responses"].values() for kind in reply.get("content", {})}
        return Operation(
            ident=one["operationId"],
            method=method.upper(),
            path=path,
            summary=one["summary"],
            access=_access(one["security"]),
            fields=tuple(fields),
            body=example,
            replies=replies,
            curl=self._curl(path, method, one, example),
            # The form that tries it sends JSON or nothing.
            can_be_tried=ENDLESS not in kinds and (not forms or body is not None),
        )

    def _parameter(self, one: Mapping[str, Any]) -> Field:
        return Field(
            name=one["name"],
            where=one["in"],
            kind=self._kind(one["schema"]),
            text=one.get("description") or self._meaning(one["schema"]),
            is_required=one["required"],
            example=_plain(one["example"]),
        )

    def _body_fields(self, body: Mapping[str, Any]) -> list[Field]:
        schema = self._followed(body["schema"])
        required = schema.get("required", ())
        example = body["example"] if isinstance(body["example"], dict) else {}
        return [
            Field(
                name=name,
                where="body",
                kind=self._kind(one),
                text=self._meaning(one),
                is_required=name in required,
                example=_plain(example.get(name, "")),
            )
            for name, one in schema.get("properties", {}).items()
        ]

    def _kind(self, schema: Mapping[str, Any]) -> str:
        """Give a schema's type in a word or two."""
        schema = self._followed(schema)
        ways = schema.get("anyOf") or schema.get("oneOf")
        if ways:
            return " or ".join(dict.fromkeys(self._kind(one) for one in ways))
        if schema.get("type") == "array":
            return f"list of {self._kind(schema.get('items', {}))}"
        if "const" in schema:
            return _plain(schema["const"])
        return str(schema.get("format") or schema.get("type") or "anything")

    def _meaning(self, schema: Mapping[str, Any]) -> str:
        """Give a schema's description and bounds as one line."""
        schema = self._followed(schema)
        parts = [schema["description"]] if schema.get("description") else []
        for one in (schema, *map(self._followed, schema.get("anyOf", ()))):
            if "enum" in one:
                parts.append("one of " + ", ".join(map(_plain, one["enum"])))
            parts += [
                words.format(one[name])
                for name, words in BOUNDS
                if name in one and (name, one[name]) not in OBVIOUS
            ]
        if schema.get("default") not in (None, "", [], {}):
            parts.append(f"default {_plain(schema['default'])}")
        return "; ".join(parts)

    def _reply(self, status: str, reply: Mapping[str, Any]) -> Reply:
        reply = self._followed(reply)
        form: Mapping[str, Any] = next(iter(reply.get("content", {}).values()), {})
        return Reply(
            status=status,
            text=reply["description"],
            headers=tuple(reply.get("headers", ())),
            example=_text(form["example"]) if "example" in form else "",
        )

    def _curl(self, path: str, method: str, one: Mapping[str, Any], body: str) -> str:
        """Give the command that calls the operation with its examples."""
        values = {
            parameter["name"]: _plain(parameter["example"])
            for parameter in one["parameters"]
            if parameter["in"] == "path"
        }
        for name, value in values.items():
            path = path.replace(f"{{{name}}}", value)
        lines = [f"curl -X {method.upper()} {self._base}{path}"]
        if one["security"]:
            lines.append('-H "Authorization: Bearer $LIMNER_KEY"')
        if body:
            quoted = json.dumps(json.loads(body), ensure_ascii=False).replace("'", "'\\''")
            lines += ["-H 'Content-Type: application/json'", f"-d '{quoted}'"]
        elif "requestBody" in one:
            kind = next(iter(one["requestBody"]["content"]))
            lines += [f"-H 'Content-Type: {kind}'", "--data-binary @FILE"]
        return " \\\n  ".join(lines)


def _access(security: list[Mapping[str, list[str]]]) -> str:
    if not security:
        return "open to everybody"
    scopes = security[0]["key"]
    return f"needs {scopes[0]}" if scopes else "needs an account"


def _text(example: Any) -> str:
    return json.dumps(example, ensure_ascii=False, indent=2)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

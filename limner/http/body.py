"""What comes in: JSON bodies and queries, checked as a whole, every fault with its place."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from aiohttp import web
from multidict import MultiMapping
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
)
from pydantic_core import to_json

from limner.core.errors import Invalid, TooLarge
from limner.core.jsonpath import parse_json
from limner.http.problems import BadRequest, TooSlow, WrongType

LIMIT_BYTES = 1 << 20
READ_LIMIT_S = 30.0
INLINE_BYTES = 65_536
TIME_BEGINS = re.compile(r"\d{4}-\d\d-\d\d[Tt ]")
JSON_TYPES = frozenset({"application/json"})
RAW: web.RequestKey[bytes] = web.RequestKey("raw_body", bytes)
"""The body as it came, for who compares requests."""

M = TypeVar("M", bound=BaseModel)


class Form(BaseModel):
    """What a client may send: a field that is not listed is a fault."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _written(value: object) -> object:
    """Refuse a number: pydantic would take it for seconds since 1970."""
    if isinstance(value, str) and TIME_BEGINS.match(value):
        return value
    raise ValueError("is not a time by ISO 8601, with a zone")


def _in_utc(value: datetime) -> datetime:
    """Refuse what has no time in UTC: the calendar ends within a day of it."""
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("is beyond the calendar") from None


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""A time in a body, with its zone."""
Instant = Annotated[Moment, BeforeValidator(_written)]
"""A time in a query: ISO 8601 with its zone."""


class Nothing(Form):
    """No fields at all."""


class _Object(dict[str, Any]):
    """A JSON object that knows which of its names came twice."""

    twice: tuple[str, ...] = ()


def pointer(parts: Sequence[object]) -> str:
    """Give the JSON Pointer of a place (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


async def read_json(request: web.Request, model: type[M], *, optional: bool = False) -> M:
    """Read the body as ``model``; without a body and if that is fine, the model's defaults.

    Raises:
        WrongType: it is not JSON by its type.
        TooLarge: over 1 MiB.
        BadRequest: no JSON, over 64 levels, or a compressed body.
        Invalid: it does not fit; ``faults`` names all places.
    """
    raw = request[RAW] = await read_raw(request)
    if not raw and optional:
        return model()
    if request.content_type not in JSON_TYPES:
        raise WrongType("send the body as application/json")
    if len(raw) > INLINE_BYTES:
        return await asyncio.to_thread(_parsed, raw, model)
    return _parsed(raw, model)


async def read_raw(request: web.Request, limit_bytes: int = LIMIT_BYTES) -> bytes:
    """Read the body, at most ``limit_bytes``.

    Raises:
        TooLarge: it is longer.
        BadRequest: it is compressed.
        TooSlow: it did not come within ``READ_LIMIT_S`` seconds.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise BadRequest("send the body without compression")
    if (request.content_length or 0) > limit_bytes:
        raise TooLarge(f"a body has at most {limit_bytes} bytes")
    parts, size = [], 0
    try:
        async with asyncio.timeout(READ_LIMIT_S):
            async for part in request.content.iter_any():
                size += len(part)
                if size > limit_bytes:
                    raise TooLarge(f"a body has at most {limit_bytes} bytes")
                parts.append(part)
    except TimeoutError:
        raise TooSlow("the body did not come in time") from None
    return b"".join(parts)


def _parsed(raw: bytes, model: type[M]) -> M:
    try:
        document = parse_json(raw, LIMIT_BYTES)
    except Invalid as error:
        raise BadRequest(error.detail, code=error.code) from None
    if not isinstance(document, dict):
        raise Invalid("the body is a JSON object", faults=[("", "an object is expected")])
    faults = [(place, "the name occurs twice") for place in _twice(raw)]
    try:
        read = model.model_validate_json(to_json(document), strict=True)
    except ValidationError as error:
        faults += faults_of(error)
    if faults:
        raise Invalid("the body does not fit", faults=faults)
    return read


def faults_of(error: ValidationError) -> list[tuple[str, str]]:
    """Give the faults that pydantic found as (JSON Pointer, sentence)."""
    return [
        (pointer(fault["loc"]), fault["msg"])
        for fault in error.errors(include_url=False, include_input=False, include_context=False)
    ]


def _twice(raw: bytes) -> list[str]:
    """Give the places of names that occur twice; ``raw`` is known to be JSON within limits."""

    def gather(pairs: list[tuple[str, Any]]) -> _Object:
        found = _Object(pairs)
        if len(found) != len(pairs):
            counts = Counter(name for name, _ in pairs)
            found.twice = tuple(name for name, count in counts.items() if count > 1)
        return found

    # Numbers are of no interest here, and very long ones would be refused.
    document = json.loads(
        raw, object_pairs_hook=gather, parse_int=len, parse_float=len, parse_constant=len
    )
    return sorted(_places(document, ()))


def _places(value: Any, path: tuple[object, ...]) -> Iterator[str]:
    if isinstance(value, _Object):
        yield from (pointer((*path, name)) for name in value.twice)
        for name, one in value.items():
            yield from _places(one, (*path, name))
    elif isinstance(value, list):
        for place, one in enumerate(value):
            yield from _places(one, (*path, place))


def read_query(query: MultiMapping[str], model: type[M]) -> M:
    """Read the query as ``model``.

    Raises:
        Invalid: a parameter is unknown, given twice, or does not fit.
    """
    values: Mapping[str, str] = dict(query.items())
    if len(values) != len(query):
        raise Invalid("a parameter is given twice", faults=[("", "each parameter once")])
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise Invalid("the query does not fit", faults=faults_of(error)) from None

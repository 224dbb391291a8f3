"""Mappings: how an HTTP provider's requests are made from an order and its answers are read.

The provider object of the REST interface without name and kind. Paths are RFC 9535; strings in
``request`` that begin with ``$`` point into the fields of ``limner.core.provider.Order``.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, ValidationError
from pydantic_core import PydanticCustomError

from limner.core.addresses import parse_url
from limner.core.errors import Invalid, Refused
from limner.core.jsonpath import compile_path
from limner.core.provider import Order, State

JOB_ID_LENGTH = 255
STATUS_LENGTH = 100
ERROR_LENGTH = 500
TEMPLATE_DEPTH = 32
ORDER_NAMES = frozenset(field.name for field in fields(Order))

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# They frame the message and are the HTTP client's alone.
_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "expect"})
_FIRST_NAME = re.compile(r"""\$(?:\.([A-Za-z_]\w*)|\[(?:'([^']*)'|"([^"]*)")\])""")
_LONGEST = 1000


def _fault(reason: str) -> PydanticCustomError:
    return PydanticCustomError("mapping", "{reason}", {"reason": reason})


def _address(text: str) -> str:
    try:
        url = parse_url(text)
    except Refused as error:
        raise _fault(error.detail) from None
    if url.query_string or "#" in text:
        raise _fault("a base URL has neither a query nor a fragment")
    return text.rstrip("/")


def _target(text: str) -> str:
    if not text.startswith("/") or text.startswith("//") or _CONTROL.search(text):
        raise _fault("a path on the server begins with one /")
    return text


def _target_of_id(text: str) -> str:
    if text and "{id}" not in _target(text):
        raise _fault("there is no {id} in it")
    return text


def _json_path(text: str) -> str:
    if text:
        try:
            compile_path(text)
        except Invalid as error:
            raise _fault(error.detail) from None
    return text


def _header_name(name: str) -> str:
    if not _HEADER_NAME.fullmatch(name) or name.lower() in _OWN_HEADERS:
        raise _fault("this is no header that can be set")
    return name


def _header_value(value: str) -> str:
    if _CONTROL.search(value):
        raise _fault("a header's value has no control characters")
    return value


def _ends(status_map: dict[str, State]) -> dict[str, State]:
    if "succeeded" not in status_map.values():
        raise _fault("none of the provider's statuses means succeeded")
    return status_map


Target = Annotated[str, Field(min_length=1, max_length=_LONGEST), AfterValidator(_target)]
TargetOfId = Annotated[str, Field(max_length=_LONGEST), AfterValidator(_target_of_id)]
OptionalPath = Annotated[str, AfterValidator(_json_path)]
JsonPath = Annotated[str, Field(min_length=1), AfterValidator(_json_path)]
HeaderName = Annotated[str, Field(max_length=100), AfterValidator(_header_name)]
HeaderValue = Annotated[str, Field(max_length=4000), AfterValidator(_header_value)]
Status = Annotated[str, Field(max_length=STATUS_LENGTH)]


class ProviderConfig(BaseModel):
    """The mapping of one provider; read it with ``ProviderConfig.read``.

    ``status_map`` translates the provider's statuses; one that is not in it counts as running.
    ``lookup_path`` finds a job by the id we gave it: 404 or an empty answer means that the order
    never arrived. ``idempotent`` says that the provider honours Idempotency-Key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: Annotated[str, Field(max_length=_LONGEST), AfterValidator(_address)]
    submit_path: Target
    status_path: Annotated[TargetOfId, Field(min_length=1)]
    headers: Annotated[dict[HeaderName, HeaderValue], Field(max_length=50)] = {}
    request: dict[str, Any]
    job_id: JsonPath
    status: JsonPath
    status_map: Annotated[
        dict[Status, State], Field(min_length=1, max_length=100), AfterValidator(_ends)
    ]
    result_url: JsonPath
    error: OptionalPath = ""
    lookup_path: TargetOfId = ""
    idempotent: StrictBool = False

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Self:
        """Check a configuration and give it.

        Raises:
            Invalid: ``faults`` are all of them, as JSON Pointers into ``config`` (RFC 6901).
        """
        request = config.get("request")
        faults = [*_template_faults(request, "/request")] if isinstance(request, dict) else []
        mapping = None
        try:
            mapping = cls.model_validate(dict(config))
        except ValidationError as error:
            faults += [
                (_pointer(fault["loc"]), fault["msg"])
                for fault in error.errors(include_url=False, include_input=False)
            ]
        if mapping is None or faults:
            raise Invalid("the provider's mapping is not valid", faults=faults)
        return mapping


def _pointer(place: tuple[int | str, ...]) -> str:
    """Give a fault's place; of a name that is wrong itself, the place of its member."""
    return "".join(f"/{_reference(str(part))}" for part in place if part != "[key]")


def _reference(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _template_faults(template: Any, pointer: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Find paths in a request that are wrong or point to what no order has."""
    if depth > TEMPLATE_DEPTH:
        yield pointer, f"the request is deeper than {TEMPLATE_DEPTH} levels"
        return
    match template:
        case dict():
            for name, each in template.items():
                yield from _template_faults(each, f"{pointer}/{_reference(str(name))}", depth + 1)
        case list():
            for index, each in enumerate(template):
                yield from _template_faults(each, f"{pointer}/{index}", depth + 1)
        case str() if template.startswith("$") and not template.startswith("$$"):
            try:
                compile_path(template)
            except Invalid as error:
                yield pointer, error.detail
                return
            first = _FIRST_NAME.match(template)
            name = next(filter(None, first.groups()), "") if first else ""
            if first and name not in ORDER_NAMES:
                yield pointer, f"an order has no {name!r}; it has {', '.join(sorted(ORDER_NAMES))}"


@dataclass(frozen=True, slots=True)
class Extracted:
    """What a mapping finds in an answer; None or empty where its path selects nothing."""

    job_id: str | None
    status: str | None
    state: State | None
    result_url: str
    error: str


async def extract(config: ProviderConfig, document: Any) -> Extracted:
    """Read a provider's answer.

    Raises:
        Invalid: a path was not done within its time.
    """
    job_id = await _first(config.job_id, document)
    status = _status(await _first(config.status, document))
    result_url = await _first(config.result_url, document)
    error = await _first(config.error, document) if config.error else None
    return Extracted(
        job_id=_job_id(job_id),
        status=status,
        state=None if status is None else config.status_map.get(status),
        result_url=result_url if isinstance(result_url, str) else "",
        error=_sentence(error),
    )


async def _first(path: str, document: Any) -> Any:
    return await compile_path(path).first(document)


def _job_id(value: Any) -> str | None:
    """Take a text or a whole number that fits the column, nothing else."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = str(value)
    return text if 0 < len(text) <= JOB_ID_LENGTH and text.isprintable() else None


def _status(value: Any) -> str | None:
    """Give a status as it is spelled in a status map: texts as they are, the rest as JSON."""
    if value is None or isinstance(value, dict | list):
        return None
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:STATUS_LENGTH]


def _sentence(value: Any) -> str:
    """Give an error of any form as one bounded line."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.split())[:ERROR_LENGTH]

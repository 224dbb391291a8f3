"""Answers: what handlers give, before it is put on the wire."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import hdrs, web
from pydantic import BaseModel


@dataclass(frozen=True)
class Answer:
    """A model with a status of its own, or with headers."""

    content: BaseModel | None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


Result = BaseModel | Answer | web.StreamResponse | None


def content_of(result: Result) -> Any:
    """Give the model of what a handler gave; pages call those of the API and show it."""
    return result.content if isinstance(result, Answer) else result


@dataclass(frozen=True)
class Written:
    """An answer as its bytes: what is sent, and what is kept to be sent again."""

    status: int
    headers: Mapping[str, str]
    body: bytes | None

    @classmethod
    def of(cls, result: BaseModel | Answer | None, status: int) -> "Written":
        """Write an answer whose status is ``status`` unless it has one of its own."""
        answer = result if isinstance(result, Answer) else Answer(result)
        status = answer.status or status
        if answer.content is None:
            return cls(status, answer.headers, None)
        return cls(
            status,
            {**answer.headers, hdrs.CONTENT_TYPE: "application/json"},
            answer.content.model_dump_json(by_alias=True).encode(errors="replace"),
        )

    def response(self, **headers: str) -> web.Response:
        """Give the response, with more ``headers``."""
        return web.Response(body=self.body, status=self.status, headers={**self.headers, **headers})


def respond(result: Result, status: int) -> web.StreamResponse:
    """Give the response for what a handler gave; ``status`` is the route's."""
    if isinstance(result, web.StreamResponse):
        return result
    return Written.of(result, status).response()

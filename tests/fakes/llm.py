"""A language model on loopback: an OpenAI-compatible server that says what a test tells it to.

``async with FakeLlm() as llm: llm.script(good({"confidence": 0.9}), status(500))`` answers the
first two requests so; when the script is used up, ``llm.otherwise`` answers. Every request is
kept in ``llm.requests``.
"""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aiohttp import web


@dataclass(frozen=True)
class Asked:
    """One request as it came in."""

    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def format(self) -> str:
        """Give the type of the response format that was asked for."""
        return str(self.body.get("response_format", {}).get("type", "text"))

    @property
    def text(self) -> str:
        """Give all messages as one text."""
        return "\n".join(str(each["content"]) for each in self.body["messages"])


Saying = Callable[[Asked], Awaitable[web.StreamResponse]]


def says(text: str | None, *, prompt_tokens: int = 12, completion_tokens: int = 7) -> Saying:
    """Answer with ``text`` as the model's words."""

    async def say(asked: Asked) -> web.StreamResponse:
        return web.json_response(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1_700_000_000,
                "model": asked.body["model"],
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "stop",
                        "message": {"role": "assistant", "content": text},
                    }
                ],
                "usage": {
                    "prompt_tokens": prompt_tokens,
                    "completion_tokens": completion_tokens,
                    "total_tokens": prompt_tokens + completion_tokens,
                },
            }
        )

    return say


def good(content: Any) -> Saying:
    """Answer with ``content`` as JSON."""
    return says(json.dumps(content, ensure_ascii=False))


def fenced(content: Any) -> Saying:
    """Answer with ``content`` as JSON in a code fence, with words around it."""
    return says(f"Here you are:\n```json\n{json.dumps(content, indent=1)}\n```\nAnything else?")


def raw(body: str, content_type: str = "application/json") -> Saying:
    """Answer 200 with ``body`` as it is."""

    async def say(_: Asked) -> web.StreamResponse:
        return web.Response(text=body, content_type=content_type)

    return say


def status(code: int, message: str = "told to", retry_after: str | None = None) -> Saying:
    """Answer with an error in the API's form."""

    async def say(_: Asked) -> web.StreamResponse:
        headers = {"Retry-After": retry_after} if retry_after is not None else None
        return web.json_response(
            {"error": {"message": message, "type": "error"}}, status=code, headers=headers
        )

    return say


def hang() -> Saying:
    """Never answer."""

    async def say(_: Asked) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    return say


class FakeLlm:
    """The server; ``refuses_schema`` makes it answer 400 to ``json_schema``, as older ones do."""

    def __init__(self, *, refuses_schema: bool = False) -> None:
        self.refuses_schema = refuses_schema
        self.requests: list[Asked] = []
        self.otherwise: Saying = status(500, "the script is used up")
        self.url = ""
        self._script: deque[Saying] = deque()
        self._runner: web.AppRunner | None = None

    def script(self, *sayings: Saying) -> None:
        """Say these next, one per request."""
        self._script.extend(sayings)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        # A request that hangs is dropped at once when the test is over.
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.01, handler_cancellation=True
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/v1"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(dict(request.headers), await request.json())
        self.requests.append(asked)
        if self.refuses_schema and asked.format == "json_schema":
            refusal = status(400, "response_format json_schema is not supported")
            return await refusal(asked)
        saying = self._script.popleft() if self._script else self.otherwise
        return await saying(asked)

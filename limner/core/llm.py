"""A language model behind any OpenAI-compatible endpoint, asked for answers of a given shape.

The shape is a pydantic type. The server is asked to keep to its JSON schema (``response_format``
of the chat completions API), and whatever comes back is validated all the same.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from limner.core.answers import Answer, Limits
from limner.core.errors import Invalid, NotConfigured, Refused, TooMany, Transient
from limner.core.jsonpath import parse_json
from limner.core.outgoing import Outgoing

T = TypeVar("T")

MAX_ANSWER_BYTES = 1_000_000
EXCERPT_CHARACTERS = 200
SCHEMA_REFUSED = frozenset({400, 422})

_LANGUAGE = re.compile(r"^[A-Za-z]+\s+")


@dataclass(frozen=True)
class Reply(Generic[T]):
    """A validated answer and what it cost, in tokens as the server counted them."""

    content: T
    prompt_tokens: int
    completion_tokens: int


class _Message(BaseModel):
    content: str


class _Choice(BaseModel):
    message: _Message


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Completion(BaseModel):
    """What is read of a chat completion; servers add much to it."""

    choices: list[_Choice]
    usage: _Usage | None = None


class ChatModel:
    """One model at one address, which the operator has set and which is not guarded.

    ``url`` is the API's root (``https://api.openai.com/v1``) or the whole address of its chat
    completions. ``timeout_s`` bounds each attempt; ``retries`` further ones follow
    ``retry_delay_s`` seconds apart. ``key`` goes nowhere but into the Authorization header.
    """

    def __init__(
        self,
        url: str | None,
        key: str | None,
        model: str | None,
        outgoing: Outgoing,
        timeout_s: float = 15.0,
        retries: int = 2,
        retry_delay_s: float = 1.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._url = _endpoint(url) if url else ""
        self._key = key
        self._model = model
        self._outgoing = outgoing
        self._timeout_s = timeout_s
        self._retries = retries
        self._retry_delay_s = retry_delay_s
        self._sleep = sleep
        self._takes_schema = True

    @property
    def configured(self) -> bool:
        """Say whether there is a model to ask."""
        return bool(self._url and self._model)

    @property
    def name(self) -> str:
        """Give the model's name, as answers are remembered under it."""
        return self._model or ""

    async def ask(
        self,
        messages: Sequence[Mapping[str, str]],
        shape: type[T],
        schema_name: str = "answer",
        *,
        timeout_s: float | None = None,
    ) -> Reply[T]:
        """Give the model's answer to ``messages`` (``role``, ``content``) as a ``shape``.

        ``timeout_s`` bounds each attempt of this question in place of the model's own.

        Tried again, up to the limit: no connection, no answer in time, 408, 429 (after its
        Retry-After), 5xx, and an answer that is no JSON or does not fit.

        Raises:
            NotConfigured: code ``llm_not_configured``.
            Refused: code ``llm_refused``: any other status, a wrong key for example.
            Invalid: code ``llm_answer_invalid``: not even the last answer fits.
            Transient: out of reach, too slow or overloaded to the last.
            TooMany: to wait for it would take longer than an attempt may.
            TooLarge: an answer over 1 MB.
        """
        if not self.configured:
            raise NotConfigured("no language model is set up", code="llm_not_configured")
        adapter = TypeAdapter(shape)
        limits = Limits(MAX_ANSWER_BYTES, self._timeout_s if timeout_s is None else timeout_s)
        left = self._retries
        while True:
            try:
                completion = await self._complete(messages, adapter, schema_name, limits)
                return self._read(completion, adapter)
            except (Transient, Invalid) as error:
                wait_s = self._retry_delay_s
                if isinstance(error, Transient):
                    wait_s = max(wait_s, error.retry_after_s or 0.0)
                if not left or wait_s > limits.total_s:
                    raise
            left -= 1
            await self._sleep(wait_s)

    async def _complete(
        self,
        messages: Sequence[Mapping[str, str]],
        adapter: TypeAdapter[Any],
        schema_name: str,
        limits: Limits,
    ) -> _Completion:
        """Ask once; a server that refuses the schema is asked once more without it."""
        schema = adapter.json_schema()
        answer = await self._post(
            messages, schema, schema_name, limits, by_schema=self._takes_schema
        )
        if self._takes_schema and answer.status in SCHEMA_REFUSED:
            answer = await self._post(messages, schema, schema_name, limits, by_schema=False)
            # Only now is it known that the schema was the reason, and not the messages.
            self._takes_schema = answer.status != 200
        self._check(answer)
        try:
            return _Completion.model_validate(await answer.json())
        except (ValidationError, Invalid):
            raise Invalid("this is no chat completion", code="llm_answer_invalid") from None

    async def _post(
        self,
        messages: Sequence[Mapping[str, str]],
        schema: dict[str, Any],
        schema_name: str,
        limits: Limits,
        *,
        by_schema: bool,
    ) -> Answer:
        told = [dict(each) for each in messages]
        if by_schema:
            form: dict[str, Any] = {
                "type": "json_schema",
                "json_schema": {
                    "name": schema_name,
                    "schema": schema,
                    "strict": is_strict(schema),
                },
            }
        else:
            form = {"type": "json_object"}
            told.append({"role": "system", "content": _in_words(schema)})
        return await self._outgoing.request(
            "POST",
            self._url,
            headers={"Authorization": f"Bearer {self._key}"} if self._key else None,
            json={
                "model": self._model,
                "messages": told,
                "response_format": form,
            },
            limits=limits,
            guarded=False,
            repeatable=True,  # A question asked twice costs tokens and changes nothing.
        )

    def _check(self, answer: Answer) -> None:
        status = answer.status
        if status == 200:
            return
        excerpt = answer.body[:EXCERPT_CHARACTERS].decode(errors="replace")
        if self._key:
            excerpt = excerpt.replace(self._key, "***")
        if status == 429:
            raise TooMany(
                "the language model is asked too often", retry_after_s=answer.retry_after_s()
            )
        if status >= 500 or status == 408:
            raise Transient(
                f"the language model answered {status}", retry_after_s=answer.retry_after_s()
            )
        raise Refused(f"the language model answered {status}: {excerpt}", code="llm_refused")

    def _read(self, completion: _Completion, adapter: TypeAdapter[T]) -> Reply[T]:
        if not completion.choices:
            raise Invalid("the language model said nothing", code="llm_answer_invalid")
        usage = completion.usage or _Usage()
        try:
            content = adapter.validate_python(
                parse_json(unfenced(completion.choices[0].message.content).encode())
            )
        except (ValidationError, Invalid, UnicodeEncodeError) as error:
            # What the model said may hold personal data: only the kind of the fault is told.
            raise Invalid(
                f"the language model's answer does not fit: {type(error).__name__}",
                code="llm_answer_invalid",
            ) from None
        return Reply(content, usage.prompt_tokens or 0, usage.completion_tokens or 0)


def _endpoint(url: str) -> str:
    root = url.rstrip("/")
    return root if root.endswith("/chat/completions") else f"{root}/chat/completions"


def _in_words(schema: dict[str, Any]) -> str:
    return (
        "Answer with one JSON object and nothing else. It must be valid by this JSON schema: "
        + json.dumps(schema, ensure_ascii=False)
    )


def unfenced(text: str) -> str:
    """Give ``text`` without the code fence that models like to put around JSON.

    Text before the fence and after it goes too; text without a fence stays as it is.
    """
    text = text.strip()
    before, fence, rest = text.partition("```")
    if not fence or before.startswith(("{", "[")):
        return text
    inside, closing, _ = rest.rpartition("```")
    # The fence's own line may name the language.
    return _LANGUAGE.sub("", inside if closing else rest).strip()


def is_strict(schema: Any) -> bool:
    """Say whether the schema keeps to what ``"strict": true`` demands.

    Each object closed and every property required, throughout (OpenAI, structured outputs); a
    server refuses a strict request with any other schema.
    """
    if isinstance(schema, list):
        return all(is_strict(each) for each in schema)
    if not isinstance(schema, dict):
        return True
    if "properties" in schema and (
        schema.get("additionalProperties") is not False
        or set(schema.get("required", ())) != set(schema["properties"])
    ):
        return False
    return all(is_strict(each) for each in schema.values())

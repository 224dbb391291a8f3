"""The language model client, against a real server on loopback."""

from collections.abc import AsyncIterator
from typing import Literal

import pytest
import pytest_asyncio
from pydantic import BaseModel, ConfigDict, Field

from limner.core.errors import (
    Invalid,
    NotConfigured,
    Refused,
    TimedOut,
    TooLarge,
    TooMany,
    Transient,
)
from limner.core.llm import ChatModel, Reply, is_strict, unfenced
from limner.core.outgoing import Outgoing
from tests.fakes.llm import FakeLlm, Saying, fenced, good, hang, raw, says, status

MESSAGES = [{"role": "user", "content": "画一只猫 send it to a@b.test"}]
KEY = "sk-canary-0123456789"


class Wish(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: Literal["image", "video", "none"]
    prompt: str
    confidence: float = Field(ge=0, le=1)


CAT = {"kind": "image", "prompt": "一只猫", "confidence": 0.93}


class Clockless:
    """Records what it is told to sleep, and does not."""

    def __init__(self) -> None:
        self.slept_s: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.slept_s.append(seconds)


@pytest_asyncio.fixture
async def outgoing() -> AsyncIterator[Outgoing]:
    client = Outgoing()
    yield client
    await client.aclose()


@pytest_asyncio.fixture
async def llm() -> AsyncIterator[FakeLlm]:
    async with FakeLlm() as server:
        yield server


@pytest.fixture
def sleep() -> Clockless:
    return Clockless()


@pytest.fixture
def model(llm: FakeLlm, outgoing: Outgoing, sleep: Clockless) -> ChatModel:
    return ChatModel(llm.url, KEY, "tiny", outgoing, sleep=sleep)


async def test_a_good_answer_arrives_as_the_shape_with_its_tokens(
    model: ChatModel, llm: FakeLlm
) -> None:
    llm.script(good(CAT))
    reply = await model.ask(MESSAGES, Wish, "wish")
    assert reply == Reply(Wish(kind="image", prompt="一只猫", confidence=0.93), 12, 7)


async def test_the_request_carries_model_messages_schema_and_key(
    model: ChatModel, llm: FakeLlm
) -> None:
    llm.script(good(CAT))
    await model.ask(MESSAGES, Wish, "wish")
    (asked,) = llm.requests
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert asked.body["model"] == "tiny"
    assert asked.body["messages"] == MESSAGES
    form = asked.body["response_format"]["json_schema"]
    assert (form["name"], form["strict"]) == ("wish", True)
    assert form["schema"] == Wish.model_json_schema()


async def test_without_a_key_no_credential_is_sent(llm: FakeLlm, outgoing: Outgoing) -> None:
    llm.script(good(CAT))
    await ChatModel(llm.url, None, "tiny", outgoing).ask(MESSAGES, Wish)
    assert "Authorization" not in llm.requests[0].headers


@pytest.mark.parametrize("suffix", ["", "/", "/chat/completions"])
async def test_the_address_may_be_the_root_or_the_whole(
    llm: FakeLlm, outgoing: Outgoing, suffix: str
) -> None:
    llm.script(good(CAT))
    model = ChatModel(llm.url + suffix, KEY, "tiny", outgoing)
    assert (await model.ask(MESSAGES, Wish)).content.kind == "image"


async def test_a_fenced_answer_is_read(model: ChatModel, llm: FakeLlm) -> None:
    llm.script(fenced(CAT))
    assert (await model.ask(MESSAGES, Wish)).content.prompt == "一只猫"
    assert len(llm.requests) == 1


async def test_an_answer_without_usage_costs_zero(model: ChatModel, llm: FakeLlm) -> None:
    llm.script(raw('{"choices":[{"message":{"content":"[1, 2]"}}]}'))
    assert await model.ask(MESSAGES, list[int]) == Reply([1, 2], 0, 0)


@pytest.mark.parametrize(
    "bad",
    [
        says("I would rather not."),
        says('{"kind": "image", "prompt": "cat"}'),
        good(CAT | {"confidence": 1.7}),
        good(CAT | {"kind": "song"}),
        says('{"kind": "image", "prompt": "cat", "confidence": NaN}'),
        says("[" * 5_000),
        says(None),
        raw('{"choices": []}'),
        raw('{"hello": "world"}'),
        raw("<html>gateway</html>", "text/html"),
    ],
    ids=["prose", "field", "range", "enum", "nan", "deep", "null", "empty", "other", "html"],
)
async def test_an_answer_that_does_not_fit_is_asked_for_again(
    model: ChatModel,
    llm: FakeLlm,
    sleep: Clockless,
    bad: Saying,
) -> None:
    llm.script(bad, good(CAT))
    assert (await model.ask(MESSAGES, Wish)).content.kind == "image"
    assert len(llm.requests) == 2
    assert sleep.slept_s == [1.0]


async def test_answers_that_never_fit_are_an_error_that_does_not_repeat_them(
    model: ChatModel, llm: FakeLlm
) -> None:
    llm.otherwise = says("mail me at canary@b.test")
    with pytest.raises(Invalid) as caught:
        await model.ask(MESSAGES, Wish)
    assert caught.value.code == "llm_answer_invalid"
    assert "canary" not in str(caught.value)
    assert len(llm.requests) == 3


@pytest.mark.parametrize("code", [408, 500, 502, 503])
async def test_a_failing_server_is_tried_again_to_the_limit(
    model: ChatModel, llm: FakeLlm, sleep: Clockless, code: int
) -> None:
    llm.otherwise = status(code)
    with pytest.raises(Transient):
        await model.ask(MESSAGES, Wish)
    assert len(llm.requests) == 3
    assert sleep.slept_s == [1.0, 1.0]


async def test_a_server_that_recovers_answers(model: ChatModel, llm: FakeLlm) -> None:
    llm.script(status(500), status(503), good(CAT))
    assert (await model.ask(MESSAGES, Wish)).content.kind == "image"


async def test_retry_after_is_waited_for(model: ChatModel, llm: FakeLlm, sleep: Clockless) -> None:
    llm.script(status(429, retry_after="4"), status(429), good(CAT))
    assert (await model.ask(MESSAGES, Wish)).content.kind == "image"
    assert sleep.slept_s == [4.0, 1.0]


async def test_a_retry_after_beyond_an_attempt_is_left_to_the_caller(
    model: ChatModel, llm: FakeLlm, sleep: Clockless
) -> None:
    llm.script(status(429, retry_after="60"))
    with pytest.raises(TooMany) as caught:
        await model.ask(MESSAGES, Wish)
    assert caught.value.retry_after_s == 60
    assert sleep.slept_s == []


async def test_a_server_that_hangs_is_given_up_in_time(llm: FakeLlm, outgoing: Outgoing) -> None:
    llm.script(hang(), good(CAT))
    model = ChatModel(llm.url, KEY, "tiny", outgoing, timeout_s=0.5, retry_delay_s=0.0)
    assert (await model.ask(MESSAGES, Wish)).content.kind == "image"
    llm.otherwise = hang()
    with pytest.raises(TimedOut):
        await model.ask(MESSAGES, Wish, timeout_s=0.1)
    assert len(llm.requests) == 5


async def test_no_server_is_transient(outgoing: Outgoing) -> None:
    async with FakeLlm() as gone:
        url = gone.url
    with pytest.raises(Transient):
        await ChatModel(url, KEY, "tiny", outgoing, retries=0).ask(MESSAGES, Wish)


async def test_a_refusal_is_final_and_its_excerpt_hides_the_key(
    model: ChatModel, llm: FakeLlm
) -> None:
    llm.script(status(401, f"Incorrect API key provided: {KEY}"))
    with pytest.raises(Refused) as caught:
        await model.ask(MESSAGES, Wish)
    assert caught.value.code == "llm_refused"
    assert "Incorrect API key provided: ***" in str(caught.value)
    assert KEY not in repr(caught.value) + repr(vars(caught.value))
    assert len(llm.requests) == 1


async def test_a_refusal_without_a_key_is_told_too(llm: FakeLlm, outgoing: Outgoing) -> None:
    llm.script(status(404, "no such model"))
    with pytest.raises(Refused, match="no such model"):
        await ChatModel(llm.url, None, "tiny", outgoing).ask(MESSAGES, Wish)


async def test_a_server_without_schemas_is_asked_in_words_and_remembered(
    outgoing: Outgoing,
) -> None:
    async with FakeLlm(refuses_schema=True) as old:
        old.otherwise = good(CAT)
        model = ChatModel(old.url, KEY, "tiny", outgoing)
        assert (await model.ask(MESSAGES, Wish)).content.kind == "image"
        assert (await model.ask(MESSAGES, Wish)).content.kind == "image"
        assert [each.format for each in old.requests] == [
            "json_schema",
            "json_object",
            "json_object",
        ]
        assert '"confidence"' in old.requests[-1].text
        assert "JSON" in old.requests[-1].text


async def test_a_bad_request_of_another_kind_does_not_turn_schemas_off(
    model: ChatModel, llm: FakeLlm
) -> None:
    llm.script(status(400, "too long"), status(400, "too long"), good(CAT))
    with pytest.raises(Refused, match="too long"):
        await model.ask(MESSAGES, Wish)
    await model.ask(MESSAGES, Wish)
    assert llm.requests[-1].format == "json_schema"


async def test_an_answer_over_the_cap_is_refused(model: ChatModel, llm: FakeLlm) -> None:
    llm.otherwise = says("x" * 1_100_000)
    with pytest.raises(TooLarge):
        await model.ask(MESSAGES, Wish)


@pytest.mark.parametrize(
    ("url", "name"), [(None, "tiny"), ("", "tiny"), ("http://127.0.0.1:9", None)]
)
async def test_what_is_not_set_up_says_so(
    outgoing: Outgoing, url: str | None, name: str | None
) -> None:
    model = ChatModel(url, None, name, outgoing)
    assert not model.configured
    with pytest.raises(NotConfigured) as caught:
        await model.ask(MESSAGES, Wish)
    assert caught.value.code == "llm_not_configured"


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ('{"a": 1}', '{"a": 1}'),
        (' {"a": "```x```"}\n', '{"a": "```x```"}'),
        ('```json\n{"a": 1}\n```', '{"a": 1}'),
        ('```\n{"a": 1}\n```', '{"a": 1}'),
        ('```JSON {"a": 1}```', '{"a": 1}'),
        ('```json\n{"a": "```"}\n```', '{"a": "```"}'),
        ('```json\n{"a": 1}', '{"a": 1}'),
        ('Sure:\n```json\n{"a": 1}\n```\nBye', '{"a": 1}'),
        ("no fence", "no fence"),
        ("", ""),
    ],
)
def test_a_fence_around_json_is_taken_off(text: str, inside: str) -> None:
    assert unfenced(text) == inside


class Loose(BaseModel):
    note: str = ""


class Nested(BaseModel):
    model_config = ConfigDict(extra="forbid")

    parts: list[Loose]


@pytest.mark.parametrize(("shape", "strict"), [(Wish, True), (Loose, False), (Nested, False)])
def test_strictness_is_claimed_only_for_closed_schemas(
    shape: type[BaseModel], strict: bool
) -> None:
    assert is_strict(shape.model_json_schema()) is strict

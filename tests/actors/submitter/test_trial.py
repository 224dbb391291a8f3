"""Trials of a mapping: what was sent, what came back, and what would go wrong."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from limner.actors.submitter.trial import ProviderTrial
from limner.core.errors import Invalid, Refused, Transient
from limner.core.metrics import Metrics
from limner.core.outgoing import Outgoing
from limner.http.ports import ProviderTester
from tests.fakes.provider import FakeProvider
from tests.fakes.raw_http import RawHttp, answer, cut, ok


async def fill_secrets(text: str) -> str:
    return text.replace("secret:acme", "hush")


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(token="hush") as running:
        yield running


@pytest.fixture
async def raw() -> AsyncIterator[RawHttp]:
    async with RawHttp() as running:
        yield running


@pytest.fixture
async def trial(
    fake: FakeProvider, raw: RawHttp, metrics: Metrics
) -> AsyncIterator[ProviderTester]:
    outgoing = Outgoing(allow_private_hosts=frozenset({fake.host, raw.host}))
    yield ProviderTrial(outgoing, fill_secrets, metrics)
    await outgoing.aclose()


async def test_a_trial_shows_both_sides_and_no_secret(
    trial: ProviderTester, fake: FakeProvider
) -> None:
    shown = await trial.test(fake.config(), "a red fox", "video")
    request = shown["request"]
    ident = request["headers"]["Idempotency-Key"]
    assert (request["method"], request["url"]) == ("POST", f"{fake.url}/v1/jobs")
    assert request["headers"]["Authorization"] == "Bearer secret:acme"
    assert request["body"] == {
        "client_id": ident,
        "input": {"prompt": "a red fox", "type": "video"},
        "callback": "",
    }
    assert (shown["status"], shown["answer"]) == (202, {"id": "job/1", "status": "queued"})
    assert shown["extracted"] == {
        "job_id": "job/1",
        "status": "queued",
        "state": "pending",
        "result_url": "",
        "error": "",
    }
    assert shown["problems"] == []
    assert "hush" not in str(shown)
    assert fake.accepted == {ident: 1}


async def test_two_trials_are_two_orders(trial: ProviderTester, fake: FakeProvider) -> None:
    for _ in range(2):
        await trial.test(fake.config(), "a red fox", "image")
    assert fake.duplicates == {}
    assert len(fake.accepted) == 2


@pytest.mark.parametrize(
    ("status", "body", "problems"),
    [
        (200, b'{"id": "1", "status": "done", "output": {"url": "https://x.test/1"}}', []),
        (200, b'{"id": "1", "status": "done"}', ["result_url: $.output.url selects no text"]),
        (200, b'{"id": "1", "status": "thinking"}', ["status: 'thinking' is not in status_map"]),
        (200, b'{"uuid": "1", "status": "queued"}', ["job_id: $.id selects no text or number"]),
        (200, b'{"id": "1"}', ["status: $.status selects nothing"]),
        (
            401,
            b'{"message": "who are you?", "id": 1, "status": "queued"}',
            ["the provider answered 401: who are you?"],
        ),
        (
            500,
            b"<html>oh</html>",
            ["the answer is no JSON", "the provider answered 500", "job_id:", "status:"],
        ),
    ],
)
async def test_each_problem_of_an_answer_is_said(
    trial: ProviderTester,
    fake: FakeProvider,
    raw: RawHttp,
    status: int,
    body: bytes,
    problems: list[str],
) -> None:
    raw.script(answer(status, body))
    shown = await trial.test(fake.config(base_url=raw.url), "a red fox", "image")
    assert shown["status"] == status
    assert len(shown["problems"]) == len(problems)
    for said, expected in zip(shown["problems"], problems, strict=True):
        assert said.startswith(expected)


async def test_an_answer_that_is_no_json_is_shown_in_part(
    trial: ProviderTester, fake: FakeProvider, raw: RawHttp
) -> None:
    raw.script(ok("页".encode() * 9000))
    shown = await trial.test(fake.config(base_url=raw.url), "a red fox", "image")
    assert shown["answer"] == "页" * 2000


async def test_a_provider_that_does_not_answer_is_a_passing_trouble(
    trial: ProviderTester, fake: FakeProvider, raw: RawHttp
) -> None:
    raw.script(cut())
    with pytest.raises(Transient) as raised:
        await trial.test(fake.config(base_url=raw.url), "a red fox", "image")
    assert raised.value.code == "no_answer"


async def test_a_private_address_is_refused(trial: ProviderTester, fake: FakeProvider) -> None:
    with pytest.raises(Refused):
        await trial.test(fake.config(base_url="http://10.0.0.1"), "a red fox", "image")


@pytest.mark.parametrize("changes", [{"job_id": "id"}, {"base_url": None}])
async def test_a_mapping_that_is_not_valid_is_neither_stored_nor_tried(
    trial: ProviderTester, fake: FakeProvider, changes: dict[str, Any]
) -> None:
    with pytest.raises(Invalid):
        trial.validate(fake.config(**changes))
    with pytest.raises(Invalid):
        await trial.test(fake.config(**changes), "a red fox", "image")
    trial.validate(fake.config())
    assert fake.submissions == []

"""The HTTP provider: what each kind of answer means for the order, the check and the look-up."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from limner.core import failpoints
from limner.core.answers import Limits
from limner.core.errors import (
    Ambiguous,
    FailpointReached,
    Invalid,
    LimnerError,
    NotConfigured,
    Permanent,
    Refused,
    TimedOut,
    Transient,
)
from limner.core.metrics import Metrics
from limner.core.outgoing import Outgoing
from limner.core.provider import Order, Progress, Provider, Submitted, Unknown
from limner.core.providers.http import open_provider
from limner.core.providers.mapping import ProviderConfig
from tests.fakes.provider import FakeProvider
from tests.fakes.raw_http import RawHttp, answer, ok

ORDER = Order(id="task_1.1", prompt="a red fox", callback_url="https://limner.test/back")
SECRETS = {"secret:acme": "s3cret"}
LIMITS = Limits(total_s=0.3)


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(token="s3cret") as running:
        yield running


@pytest.fixture
async def raw() -> AsyncIterator[RawHttp]:
    async with RawHttp() as running:
        yield running


@pytest.fixture
async def outgoing(fake: FakeProvider, raw: RawHttp) -> AsyncIterator[Outgoing]:
    client = Outgoing(allow_private_hosts=frozenset({fake.host, raw.host}))
    yield client
    await client.aclose()


async def fill_secrets(text: str) -> str:
    for name, value in SECRETS.items():
        text = text.replace(name, value)
    if "secret:" in text:
        raise NotConfigured(f"there is no {text}")
    return text


@pytest.fixture
def opened(outgoing: Outgoing, metrics: Metrics, fake: FakeProvider) -> Any:
    async def opening(**changes: Any) -> Provider:
        return await open_provider(
            "acme",
            ProviderConfig.read(fake.config(**changes)),
            outgoing=outgoing,
            fill_secrets=fill_secrets,
            metrics=metrics,
            limits=LIMITS,
        )

    return opening


def counted(metrics: Metrics, outcome: str) -> float | None:
    labels = {"provider": "acme", "outcome": outcome}
    return metrics.registry.get_sample_value("limner_provider_requests_total", labels)


# Submitting


async def test_an_order_is_taken_once_under_our_id(
    opened: Any, fake: FakeProvider, metrics: Metrics
) -> None:
    provider = await opened()
    assert await provider.submit(ORDER) == Submitted("job/1", "pending")
    assert fake.accepted == {"task_1.1": 1}
    assert fake.jobs["job/1"].callback_url == "https://limner.test/back"
    assert (provider.name, provider.idempotent) == ("acme", False)
    assert counted(metrics, "submitted") == 1


async def test_a_missing_secret_is_said_before_anything_is_sent(
    opened: Any, fake: FakeProvider
) -> None:
    with pytest.raises(NotConfigured, match="other"):
        await opened(headers={"Authorization": "Bearer secret:other"})
    assert fake.submissions == []


async def test_a_header_with_the_wrong_secret_is_refused_with_the_reason(
    opened: Any, fake: FakeProvider, metrics: Metrics
) -> None:
    provider = await opened(headers={"Authorization": "Bearer nobody"})
    with pytest.raises(Refused, match="acme answered 422: the bearer token is wrong"):
        await provider.submit(ORDER)
    assert counted(metrics, "refused") == 1


@pytest.mark.parametrize(
    ("mode", "error", "accepted"),
    [
        ("busy", Transient, 0),
        ("away", Transient, 0),
        ("refuses", Refused, 0),
        ("broken", Ambiguous, 0),
        ("broken_after", Ambiguous, 1),
        ("loses", Ambiguous, 1),
        ("drops", Ambiguous, 0),
        ("hangs", Ambiguous, 0),
        ("no_id", Ambiguous, 1),
        ("html", Ambiguous, 1),
        ("conflict", Ambiguous, 0),
    ],
)
async def test_an_answer_says_whether_the_order_may_have_been_taken(
    opened: Any, fake: FakeProvider, mode: Any, error: type[LimnerError], accepted: int
) -> None:
    fake.submits(mode)
    provider = await opened()
    with pytest.raises(error):
        await provider.submit(ORDER)
    assert fake.accepted["task_1.1"] == accepted
    assert len(fake.submissions) == 1, "it was sent more than once"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (200, None),
        (201, None),
        (204, Ambiguous),
        (302, Ambiguous),
        (303, Ambiguous),
        (401, Refused),
        (404, Refused),
        (408, Transient),
        (425, Transient),
        (502, Ambiguous),
        (504, Ambiguous),
    ],
)
async def test_every_status_has_its_meaning(
    opened: Any, raw: RawHttp, status: int, error: type[LimnerError] | None
) -> None:
    body = b'{"id": 5}' if status != 204 else b""
    raw.script(answer(status, body, {"Location": "/elsewhere"}))
    provider = await opened(base_url=raw.url)
    if error is None:
        assert await provider.submit(ORDER) == Submitted("5", None)
    else:
        with pytest.raises(error):
            await provider.submit(ORDER)
    assert raw.connections == 1


async def test_a_busy_provider_says_when_to_come_back(
    opened: Any, fake: FakeProvider, metrics: Metrics
) -> None:
    fake.submits("busy")
    with pytest.raises(Transient) as raised:
        await (await opened()).submit(ORDER)
    assert raised.value.retry_after_s == 7
    assert counted(metrics, "not_taken") == 1


async def test_a_refusal_without_json_still_has_a_sentence(opened: Any, raw: RawHttp) -> None:
    raw.script(answer(403, b"<html>"))
    with pytest.raises(Refused, match=r"^acme answered 403$"):
        await (await opened(base_url=raw.url)).submit(ORDER)


async def test_a_private_address_is_refused_before_anything_is_sent(opened: Any) -> None:
    provider = await opened(base_url="http://127.0.0.1:1")
    with pytest.raises(Refused) as raised:
        await provider.submit(ORDER)
    assert raised.value.code == "address_refused"


async def test_the_idempotency_key_of_the_mapping_is_not_ours_to_lose(
    opened: Any, raw: RawHttp
) -> None:
    raw.script(ok(b'{"id": "1"}'))
    await (await opened(base_url=raw.url, headers={"Idempotency-Key": "x"})).submit(ORDER)
    assert raw.requests[0].headers["idempotency-key"] == "task_1.1"


async def test_what_lies_behind_the_submission_can_fail_on_purpose(
    opened: Any, fake: FakeProvider
) -> None:
    provider = await opened()
    failpoints.arm("provider.submit:execute-then-raise")
    with pytest.raises(FailpointReached):
        await provider.submit(ORDER)
    assert fake.accepted["task_1.1"] == 1
    failpoints.arm("provider.status:raise")
    with pytest.raises(FailpointReached):
        await provider.status("job/1")
    assert fake.checks == []


# Checking


async def test_a_job_goes_from_queued_to_its_result(opened: Any, fake: FakeProvider) -> None:
    provider = await opened()
    await provider.submit(ORDER)
    seen = [await provider.status("job/1") for _ in range(3)]
    assert [each.state for each in seen] == ["pending", "running", "succeeded"]
    assert seen[2].result_url == f"{fake.url}/files/job-1"
    assert fake.checks == ["job/1"] * 3, "an id with a slash is one segment of the path"


async def test_a_failed_job_tells_why_in_one_line(opened: Any, fake: FakeProvider) -> None:
    fake.polls, fake.ending = 0, "error"
    provider = await opened()
    await provider.submit(ORDER)
    assert await provider.status("job/1") == Progress(
        "failed", error="the prompt was not understood"
    )


async def test_an_unmapped_status_counts_as_running(opened: Any, fake: FakeProvider) -> None:
    fake.answers("odd")
    assert await (await opened()).status("job/1") == Progress("running")


@pytest.mark.parametrize("mode", ["busy", "broken", "drops", "html"])
async def test_no_status_is_a_reason_to_ask_later(
    opened: Any, fake: FakeProvider, metrics: Metrics, mode: Any
) -> None:
    fake.answers(mode)
    with pytest.raises(Transient) as raised:
        await (await opened()).status("job/1")
    assert raised.value.retry_after_s == (7 if mode == "busy" else None)
    assert counted(metrics, "status_failed") == 1


async def test_a_status_over_all_limits_is_no_reason_to_ask_again(
    opened: Any, fake: FakeProvider
) -> None:
    fake.answers("huge")
    with pytest.raises(Permanent):
        await (await opened()).status("job/1")


async def test_a_path_that_takes_too_long_is_asked_again(
    opened: Any, raw: RawHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(*_: object) -> None:
        raise Invalid("the path took more than 0.1 s", code="path_too_slow")

    raw.script(ok())
    monkeypatch.setattr("limner.core.providers.http.extract", slow)
    provider = await opened(base_url=raw.url)
    with pytest.raises(Transient):
        await provider.status("job/1")
    with pytest.raises(Ambiguous):
        await provider.submit(ORDER)


@pytest.mark.parametrize(
    ("named", "url"),
    [
        ("/files/1.png", "{root}files/1.png"),
        ("1.png", "{root}v1/jobs/1.png"),
        ("https://cdn.test/1.png", "https://cdn.test/1.png"),
        ("http://[::1", "http://[::1"),
    ],
)
async def test_a_relative_result_is_relative_to_its_answer(
    opened: Any, raw: RawHttp, named: str, url: str
) -> None:
    raw.script(ok(json.dumps({"status": "done", "output": {"url": named}}).encode()))
    progress = await (await opened(base_url=raw.url)).status("7")
    assert progress.result_url == url.format(root=raw.url)


async def test_a_server_that_is_down_is_asked_later(
    opened: Any, outgoing: Outgoing, fake: FakeProvider
) -> None:
    provider = await opened()
    await fake.__aexit__(None, None, None)
    for call in (provider.status("1"), provider.lookup("1"), provider.submit(ORDER)):
        with pytest.raises(Transient) as raised:
            await call
        assert not isinstance(raised.value, TimedOut)


# Looking up


async def test_a_look_up_finds_our_order_and_no_other(opened: Any, fake: FakeProvider) -> None:
    provider = await opened()
    await provider.submit(ORDER)
    await provider.submit(Order(id="task_2.1", prompt="a dog"))
    assert await provider.lookup("task_2.1") == Submitted("job/2", "pending")
    assert await provider.lookup("task_3.1") is None
    fake.finds_jobs = False
    assert await provider.lookup("task_3.1") is None


@pytest.mark.parametrize("mode", ["busy", "broken", "drops", "html"])
async def test_no_look_up_is_a_reason_to_look_later(
    opened: Any, fake: FakeProvider, metrics: Metrics, mode: Any
) -> None:
    fake.looks_up(mode)
    with pytest.raises(Transient):
        await (await opened()).lookup("task_1.1")
    assert counted(metrics, "lookup_failed") == 1


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"", None),
        (b"null", None),
        (b"{}", None),
        (b"[]", None),
        (b'{"data": []}', None),
        (b'{"id": "a", "status": "done"}', Submitted("a", "succeeded")),
        (b'[{"id": "a"}]', Submitted("a")),
        (b'{"total": 1, "data": [{"id": 3, "status": "?"}]}', Submitted("3")),
    ],
)
async def test_a_look_up_is_read_in_its_usual_forms(
    opened: Any, raw: RawHttp, body: bytes, found: Submitted | None
) -> None:
    raw.script(ok(body))
    assert await (await opened(base_url=raw.url)).lookup("task_1.1") == found
    assert raw.requests[0].target == "/v1/jobs?client_id=task_1.1"


@pytest.mark.parametrize(
    "body",
    [
        b'[{"id": "a"}, {"id": "b"}]',
        b'{"data": [{"uuid": "a"}]}',
        b'{"data": [], "more": []}',
        b'{"hello": "world"}',
        b'"yes"',
        b"7",
    ],
)
async def test_an_answer_that_names_no_single_job_proves_nothing(
    opened: Any, raw: RawHttp, body: bytes
) -> None:
    raw.script(ok(body))
    found = await (await opened(base_url=raw.url)).lookup("task_1.1")
    assert isinstance(found, Unknown)


async def test_without_a_look_up_our_id_is_tried_as_the_jobs(opened: Any, raw: RawHttp) -> None:
    provider = await opened(base_url=raw.url, lookup_path=None)
    raw.script(
        ok(b'{"status": "processing"}'),
        ok(b'{"status": "hello"}'),
        answer(404),
        answer(500),
        answer(429, b"", {"Retry-After": "3"}),
    )
    assert await provider.lookup("task_1.1") == Submitted("task_1.1", "running")
    assert raw.requests[0].target == "/v1/jobs/task_1.1"
    assert isinstance(await provider.lookup("task_1.1"), Unknown)
    assert isinstance(await provider.lookup("task_1.1"), Unknown)
    with pytest.raises(Transient):
        await provider.lookup("task_1.1")
    with pytest.raises(Transient) as raised:
        await provider.lookup("task_1.1")
    assert raised.value.retry_after_s == 3


async def test_an_idempotent_provider_without_a_look_up_is_not_guessed_at(
    opened: Any, fake: FakeProvider
) -> None:
    provider = await opened(lookup_path=None, idempotent=True)
    assert isinstance(await provider.lookup("task_1.1"), Unknown)
    assert fake.checks == []
    assert provider.idempotent

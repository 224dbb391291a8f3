"""Mappings of providers: what is a valid one, and what it finds in answers of many shapes."""

from typing import Any

import pytest

from limner.core.errors import Invalid
from limner.core.jsonpath import fill
from limner.core.provider import Order
from limner.core.providers.mapping import ERROR_LENGTH, ProviderConfig, extract

GOOD: dict[str, Any] = {
    "base_url": "https://api.acme.test",
    "submit_path": "/v1/jobs",
    "status_path": "/v1/jobs/{id}",
    "headers": {"Authorization": "Bearer secret:acme"},
    "request": {"input": {"prompt": "$.prompt", "type": "$.kind"}},
    "job_id": "$.id",
    "status": "$.status",
    "status_map": {
        "queued": "pending",
        "processing": "running",
        "done": "succeeded",
        "error": "failed",
    },
    "result_url": "$.output.url",
    "error": "$.message",
}
URL = "https://cdn.test/1.png"


def changed(**changes: Any) -> dict[str, Any]:
    mapping = {**GOOD, **changes}
    return {name: value for name, value in mapping.items() if value is not None}


def pointers(config: dict[str, Any]) -> set[str]:
    with pytest.raises(Invalid) as raised:
        ProviderConfig.read(config)
    return {pointer for pointer, _ in raised.value.faults}


def test_the_smallest_mapping_needs_no_headers_error_or_look_up() -> None:
    config = ProviderConfig.read(changed(headers=None, error=None))
    assert (config.headers, config.error, config.lookup_path) == ({}, "", "")
    assert not config.idempotent


def test_empty_paths_mean_that_there_are_none() -> None:
    config = ProviderConfig.read(changed(error="", lookup_path=""))
    assert (config.error, config.lookup_path) == ("", "")


def test_a_base_url_may_have_a_path_and_loses_its_last_slash() -> None:
    config = ProviderConfig.read(changed(base_url="https://api.acme.test:8443/media/"))
    assert config.base_url == "https://api.acme.test:8443/media"


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"base_url": "ftp://acme.test"}, "/base_url"),
        ({"base_url": "https://user:pw@acme.test"}, "/base_url"),
        ({"base_url": "https://acme.test?key=1"}, "/base_url"),
        ({"base_url": "https://acme.test#top"}, "/base_url"),
        ({"base_url": 5}, "/base_url"),
        ({"base_url": None}, "/base_url"),
        ({"submit_path": "v1/jobs"}, "/submit_path"),
        ({"submit_path": "//evil.test/v1"}, "/submit_path"),
        ({"submit_path": "/v1\r\nHost: x"}, "/submit_path"),
        ({"submit_path": ""}, "/submit_path"),
        ({"status_path": "/v1/jobs"}, "/status_path"),
        ({"status_path": ""}, "/status_path"),
        ({"lookup_path": "/v1/jobs?mine"}, "/lookup_path"),
        ({"headers": {"Host": "x"}}, "/headers/Host"),
        ({"headers": {"A b": "x"}}, "/headers/A b"),
        ({"headers": {"X-Key": "a\nb"}}, "/headers/X-Key"),
        ({"headers": {"a/b": "x"}}, "/headers/a~1b"),
        ({"headers": ["x"]}, "/headers"),
        ({"request": "$.prompt"}, "/request"),
        ({"request": {"a": {"b~c": ["x", "$.prompt["]}}}, "/request/a/b~0c/1"),
        ({"request": {"text": "$.promt"}}, "/request/text"),
        ({"request": {"text": "$['sead']"}}, "/request/text"),
        ({"job_id": "id"}, "/job_id"),
        ({"job_id": ""}, "/job_id"),
        ({"status": "$.a.."}, "/status"),
        ({"status": "$..a..b..c"}, "/status"),
        ({"result_url": "$[?match(@.a, 'b')]"}, "/result_url"),
        ({"error": "$["}, "/error"),
        ({"status_map": {"done": "finished"}}, "/status_map/done"),
        ({"status_map": {}}, "/status_map"),
        ({"status_map": {"queued": "pending"}}, "/status_map"),
        ({"idempotent": "yes"}, "/idempotent"),
        ({"token": "x"}, "/token"),
    ],
)
def test_a_fault_is_named_by_its_place(changes: dict[str, Any], where: str) -> None:
    assert pointers(changed(**changes)) == {where}


def test_all_faults_are_named_at_once() -> None:
    found = pointers(changed(base_url="x", job_id="x", request={"a": "$.b"}, color="red"))
    assert found == {"/base_url", "/job_id", "/request/a", "/color"}


def test_a_request_that_is_too_deep_is_a_fault_and_no_crash() -> None:
    deep: dict[str, Any] = {}
    for _ in range(2000):
        deep = {"a": deep}
    (place,) = pointers(changed(request=deep))
    assert place.startswith("/request/a/a")


@pytest.mark.parametrize("text", ["$", "$..prompt", "$$5 off", "plain", "$.seed", "$['count']"])
def test_other_strings_of_a_request_are_let_through(text: str) -> None:
    assert ProviderConfig.read(changed(request={"a": text})).request == {"a": text}


ANSWERS: list[tuple[str, dict[str, Any], Any, dict[str, Any]]] = [
    ("flat", {}, {"id": "j1", "status": "queued"}, {"job_id": "j1", "state": "pending"}),
    ("a number as id", {}, {"id": 17, "status": "done"}, {"job_id": "17", "state": "succeeded"}),
    ("nested id", {"job_id": "$.data.job.id"}, {"data": {"job": {"id": "x"}}}, {"job_id": "x"}),
    ("id in a list", {"job_id": "$.jobs[0].id"}, {"jobs": [{"id": "x"}]}, {"job_id": "x"}),
    ("last of a list", {"job_id": "$[-1].id"}, [{"id": "a"}, {"id": "b"}], {"job_id": "b"}),
    ("a name with a dash", {"job_id": "$['job-id']"}, {"job-id": "x"}, {"job_id": "x"}),
    ("a Chinese name", {"job_id": "$.任务.编号"}, {"任务": {"编号": "七"}}, {"job_id": "七"}),
    ("found anywhere", {"job_id": "$..uuid"}, {"a": [{"uuid": "u"}]}, {"job_id": "u"}),
    ("id missing", {}, {"status": "queued"}, {"job_id": None}),
    ("id null", {}, {"id": None}, {"job_id": None}),
    ("id empty", {}, {"id": ""}, {"job_id": None}),
    ("id true", {}, {"id": True}, {"job_id": None}),
    ("id an object", {}, {"id": {"a": 1}}, {"job_id": None}),
    ("id over its column", {}, {"id": "x" * 256}, {"job_id": None}),
    ("id with a line break", {}, {"id": "a\nb"}, {"job_id": None}),
    ("no object", {}, "hello", {"job_id": None, "status": None, "state": None}),
    ("null", {}, None, {"job_id": None, "status": None, "state": None}),
    ("unmapped", {}, {"status": "thinking"}, {"status": "thinking", "state": None}),
    ("other case", {}, {"status": "DONE"}, {"status": "DONE", "state": None}),
    (
        "a number as status",
        {"status_map": {"2": "succeeded"}},
        {"status": 2},
        {"state": "succeeded"},
    ),
    (
        "truth as status",
        {"status": "$.ready", "status_map": {"true": "succeeded", "false": "running"}},
        {"ready": False},
        {"state": "running"},
    ),
    ("status an object", {}, {"status": {}}, {"status": None, "state": None}),
    (
        "several outputs",
        {"result_url": "$.output[*].url"},
        {"output": [{"url": URL}, {"url": "https://cdn.test/2.png"}]},
        {"result_url": URL},
    ),
    (
        "the output of a kind",
        {"result_url": "$.files[?@.type == 'image'].url"},
        {"files": [{"type": "log", "url": "https://x.test"}, {"type": "image", "url": URL}]},
        {"result_url": URL},
    ),
    ("a list of addresses", {"result_url": "$.output[0]"}, {"output": [URL]}, {"result_url": URL}),
    ("no output yet", {}, {"output": None}, {"result_url": ""}),
    ("output no text", {}, {"output": {"url": 5}}, {"result_url": ""}),
    ("error", {}, {"message": " too\n  dark "}, {"error": "too dark"}),
    (
        "error an object",
        {"error": "$.error"},
        {"error": {"code": 7, "text": "zu dunkel"}},
        {"error": '{"code": 7, "text": "zu dunkel"}'},
    ),
    ("error long", {}, {"message": "x" * 9000}, {"error": "x" * ERROR_LENGTH}),
    ("no error path", {"error": None}, {"message": "bad"}, {"error": ""}),
]


@pytest.mark.parametrize(
    ("changes", "document", "expected"),
    [answer[1:] for answer in ANSWERS],
    ids=[answer[0] for answer in ANSWERS],
)
async def test_an_answer_is_read_as_mapped(
    changes: dict[str, Any], document: Any, expected: dict[str, Any]
) -> None:
    extracted = await extract(ProviderConfig.read(changed(**changes)), document)
    assert {name: getattr(extracted, name) for name in expected} == expected


ORDER = Order(
    id="task_1.1", prompt="一只狐狸 $5", kind="video", seed=7, callback_url="https://x.test"
)


@pytest.mark.parametrize(
    ("template", "body"),
    [
        ({"text": "$.prompt"}, {"text": "一只狐狸 $5"}),
        ({"p": [{"q": ["$.kind"]}]}, {"p": [{"q": ["video"]}]}),
        (
            {"size": {"w": "$.width", "h": "$.height"}, "n": "$.count"},
            {"size": {"w": 256, "h": 256}, "n": 1},
        ),
        ({"seed": "$.seed", "id": "$['id']"}, {"seed": 7, "id": "task_1.1"}),
        ({"not": "$.negative_prompt"}, {"not": ""}),
        ({"price": "$$5", "model": "sd", "steps": 8}, {"price": "$5", "model": "sd", "steps": 8}),
        ({"hook": "$.callback_url", "all": "$"}, {"hook": "https://x.test", "all": ORDER.values()}),
        ({}, {}),
    ],
)
async def test_a_request_is_filled_from_the_order(
    template: dict[str, Any], body: dict[str, Any]
) -> None:
    config = ProviderConfig.read(changed(request=template))
    assert await fill(config.request, ORDER.values()) == body

from typing import Any

import pytest

from limner.actors.poller.connector import Replies
from limner.actors.poller.connectors import CONNECTORS
from limner.actors.poller.rules import validate
from limner.core.errors import Invalid
from tests.fakes.nasty_strings import NASTY_STRINGS

HTTP = {
    "url": "https://x.test/comments?note={external_id}&cursor={cursor}",
    "items": "$.data.comments[*]",
    "id": "$.id",
    "text": "$.content",
}
NOTE = {"gateway": "https://gateway.test/xhs", "note_id": "64f0"}


def faults(connector: str, options: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(Invalid) as caught:
        validate(connector, options)
    assert caught.value.faults
    return dict(caught.value.faults)


@pytest.mark.parametrize(
    ("connector", "options"),
    [
        ("demo", {}),
        ("demo", {"resume": True, "provider": "acme"}),
        ("http", HTTP),
        ("http", HTTP | {"headers": {"Cookie": "secret:xhs"}, "author": "$.by", "resume": False}),
        ("http", HTTP | {"next_cursor": "$.c", "has_more": "$.m", "author": None, "provider": ""}),
        ("xiaohongshu", NOTE),
        ("xiaohongshu", NOTE | {"xsec_token": "secret:t", "headers": {"A": "b"}}),
    ],
)
def test_good_options_pass(connector: str, options: dict[str, Any]) -> None:
    validate(connector, options)


def test_an_unknown_connector_is_told_which_there_are() -> None:
    assert faults("rss", {}) == {
        "/connector": "there is no such connector; there are demo, http, xiaohongshu"
    }


def test_all_faults_come_at_once() -> None:
    found = faults("http", {"url": "ftp://x.test", "id": "$[", "itmes": "$", "headers": []})
    assert set(found) == {
        "/options/url",
        "/options/items",
        "/options/id",
        "/options/text",
        "/options/itmes",
        "/options/headers",
    }
    assert found["/options/url"] == "only http:// and https:// URLs are allowed"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x.test/comments",
        "https://user:pw@x.test/",
        "https://{cursor}.x.test/",
        "https://x.test{cursor}/",
        "https://127.1/",
        "https://x.test/\n",
        "javascript:alert(1)",
        "https://x.test/" + "a" * 2_000,
        7,
        None,
    ],
)
def test_a_bad_url_is_refused(url: Any) -> None:
    assert list(faults("http", HTTP | {"url": url})) == ["/options/url"]


@pytest.mark.parametrize("name", ["items", "id", "text", "author", "next_cursor", "has_more"])
@pytest.mark.parametrize(
    "path", ["", "data", "$..a..b..c", "$[?match(@.a, 'b')]", "$." + "a" * 256]
)
def test_a_bad_path_is_refused(name: str, path: str) -> None:
    assert list(faults("http", HTTP | {name: path})) == [f"/options/{name}"]


@pytest.mark.parametrize(
    ("headers", "pointer"),
    [
        ({"bad name": "x"}, "/options/headers/bad name"),
        ({"a/b~": "x"}, "/options/headers/a~1b~0"),
        ({"A": "x\r\nB: y"}, "/options/headers/A"),
        ({"A": "nul\x00"}, "/options/headers/A"),
        ({"A": 7}, "/options/headers/A"),
        ({"A": "x" * 5000}, "/options/headers/A"),
        ({f"A{n}": "x" for n in range(33)}, "/options/headers"),
    ],
)
def test_a_bad_header_is_refused(headers: Any, pointer: str) -> None:
    assert list(faults("http", HTTP | {"headers": headers})) == [pointer]


@pytest.mark.parametrize(
    "gateway",
    ["gateway.test", "https://gateway.test/?a=1", "https://gateway.test/#a", "https://g.test/{x}"],
)
def test_a_gateway_is_a_plain_url(gateway: str) -> None:
    assert list(faults("xiaohongshu", NOTE | {"gateway": gateway})) == ["/options/gateway"]


@pytest.mark.parametrize("note_id", ["", "a" * 256, None, 7])
def test_a_note_has_an_id(note_id: Any) -> None:
    assert list(faults("xiaohongshu", NOTE | {"note_id": note_id})) == ["/options/note_id"]


@pytest.mark.parametrize("connector", sorted(CONNECTORS))
@pytest.mark.parametrize(
    ("name", "value"), [("resume", 1), ("resume", "true"), ("provider", "a b"), ("provider", None)]
)
def test_what_all_connectors_take_is_checked_for_all(connector: str, name: str, value: Any) -> None:
    assert f"/options/{name}" in faults(connector, {name: value})


@pytest.mark.parametrize("connector", sorted(CONNECTORS))
@pytest.mark.parametrize("text", NASTY_STRINGS)
def test_nasty_names_are_faults_and_no_bugs(connector: str, text: str) -> None:
    with pytest.raises(Invalid):
        validate(connector, {text: text})
    with pytest.raises(Invalid):
        validate(text, {})


def test_no_connector_claims_to_reply_that_cannot() -> None:
    claiming = [name for name, kind in CONNECTORS.items() if issubclass(kind, Replies)]
    assert claiming == []

"""JSON texts within their limits, and templates filled."""

import json
from typing import Any

import pytest

from limner.core.errors import Invalid, TooLarge
from limner.core.jsonpath import compile_path, fill, parse_json


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a": [1, 2.5, "x", null, true]}', {"a": [1, 2.5, "x", None, True]}),
        (b'\xef\xbb\xbf"bom"', "bom"),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        ('"画 😀"'.encode(), "画 😀"),
        (b'"\\ud83d\\ude00"', "😀"),
        (b'"cut \\ud83d"', "cut �"),
        (b'"\\udE00 \\uD83d\\ude00 \\\\ud83d \\n"', "� 😀 \\ud83d \n"),
        (b'"1e999"', "1e999"),
        (b"[1e100, 1e-999]", [1e100, 0.0]),
        (b"[" + b"1" * 300 + b"]", [int("1" * 300)]),
    ],
)
def test_json_is_parsed(text: bytes, value: Any) -> None:
    assert parse_json(text) == value


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"nul",
        b"[1,]",
        b"{'a': 1}",
        b'{"a": 1} x',
        b'"\xff"',
        b'"\x01"',
        b'"\\ud83',
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b'{"a": [1e999]}',
        b"-1e0400",
        b"1" * 250 + b"e99",
        b"9" * 5_000,
        "[1]".encode("utf-16"),
        b"[" * 10_000 + b"]" * 10_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    ],
)
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        parse_json(text)
    assert caught.value.code == "not_json"


@pytest.mark.parametrize("scalar", [b"", b"1", b"1e9999"[:4]])
def test_depth_is_counted_in_arrays_and_objects(scalar: bytes) -> None:
    parse_json(b"[" * 64 + scalar + b"]" * 64)
    with pytest.raises(Invalid) as caught:
        parse_json(b"[" * 65 + scalar + b"]" * 65)
    assert caught.value.code == "json_too_deep"
    assert parse_json(b'{"a":[]}', max_depth=2) == {"a": []}
    assert parse_json(b"1", max_depth=0) == 1


def test_an_infinite_number_at_the_last_level_is_found() -> None:
    with pytest.raises(Invalid, match="not finite"):
        parse_json(b"[" * 64 + b"1e999" + b"]" * 64)


def test_a_text_over_the_limit_is_too_large() -> None:
    assert parse_json(b"[1]", max_bytes=3) == [1]
    with pytest.raises(TooLarge) as caught:
        parse_json(b"[1]", max_bytes=2)
    assert caught.value.code == "json_too_large"


async def test_a_document_of_5_mb_is_parsed_and_searched() -> None:
    comment = {"id": "c-000000", "content": "画一只猫 " * 40}
    text = json.dumps({"data": {"comments": [comment] * 8_000}}, ensure_ascii=False).encode()
    assert 4_000_000 < len(text) < 5_000_000
    document = parse_json(text)
    items = await compile_path("$.data.comments[*]").find(document)
    assert len(items) == 8_000
    assert await compile_path("$.content").first(items[-1]) == comment["content"]


VALUES = {
    "id": "task_1",
    "prompt": "a cat",
    "width": 256,
    "nested": {"a/b": [1, 2]},
    "nothing": None,
}


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ({"input": {"prompt": "$.prompt"}}, {"input": {"prompt": "a cat"}}),
        (["$.width", "$.nested", "$.nothing"], [256, {"a/b": [1, 2]}, None]),
        ("$['id']", "task_1"),
        ("$", VALUES),
        ("$.nested..[0]", 1),
        ({"price": "$$5", "both": "$$.prompt", "all": "$$$"}, {
            "price": "$5", "both": "$.prompt", "all": "$$"
        }),
        ({"$.prompt": "not $.prompt", "n": 5, "t": True, "x": None}, {
            "$.prompt": "not $.prompt", "n": 5, "t": True, "x": None
        }),
        ({}, {}),
    ],
)  # fmt: skip
async def test_a_template_is_filled(template: Any, filled: Any) -> None:
    assert await fill(template, VALUES) == filled


async def test_all_places_that_cannot_be_filled_are_named_by_pointer() -> None:
    template = {"a/b": ["$.prompt", "$.absent"], "m~n": {"x": "$["}, "ok": "$.id"}
    with pytest.raises(Invalid) as caught:
        await fill(template, VALUES)
    (first, reason), (second, syntax) = caught.value.faults
    assert (first, second) == ("/a~1b/1", "/m~0n/x")
    assert reason == "$.absent selects nothing"
    assert "RFC 9535" in syntax
    assert "/a~1b/1" in str(caught.value)


async def test_a_template_that_is_one_wrong_path_has_the_empty_pointer() -> None:
    with pytest.raises(Invalid) as caught:
        await fill("$.absent", VALUES)
    assert caught.value.faults == (("", "$.absent selects nothing"),)


async def test_one_time_limit_holds_for_the_whole_template() -> None:
    slow = "$[?$" + "[?$" * 20 + "]" * 21
    with pytest.raises(Invalid) as caught:
        await fill([slow] * 1_000, dict.fromkeys("abcdefghij", "x"), limit_s=0.02)
    assert caught.value.code == "path_too_slow"

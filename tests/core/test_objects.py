"""The rules that every object store shares."""

import re
from email.message import Message

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limner.core.errors import Invalid
from limner.core.objects import (
    clip_range,
    content_disposition,
    validate_content_type,
    validate_key,
    validate_listing,
    validate_presign,
)


@pytest.mark.parametrize("key", ["a", "a/b.c-d_E9", "...", ".a", "a" * 200, "/".join(["a"] * 256)])
def test_a_key_is_given_back(key: str) -> None:
    assert validate_key(key) == key


@pytest.mark.parametrize(
    "key", ["", ".", "..", "/", "a/", "/a", "a//b", "a/./b", "a\x00", "a\n", "%2e", "é", "a" * 201]
)
def test_what_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(Invalid):
        validate_key(key)


@settings(deadline=None)
@given(st.text())
def test_a_key_never_leaves_its_root(key: str) -> None:
    try:
        validate_key(key)
    except Invalid:
        return
    parts = key.split("/")
    assert not {"", ".", ".."} & set(parts)
    assert re.fullmatch(r"[A-Za-z0-9._/-]{1,512}", key)


def test_a_listing_may_begin_anywhere() -> None:
    validate_listing("", None, 1)
    validate_listing("a/b-", "a/b/", 1000)


@pytest.mark.parametrize(
    "content_type",
    ["a/b", "image/svg+xml", "text/plain; charset=utf-8", "text/plain;charset=utf-8"],
)
def test_a_content_type_is_given_back(content_type: str) -> None:
    assert validate_content_type(content_type) == content_type


@pytest.mark.parametrize(
    "content_type", ["", "a", "a/", "/b", "a/b c", "a/b\n", "a/b; ü", "a/b;\n"]
)
def test_what_is_no_content_type_is_refused(content_type: str) -> None:
    with pytest.raises(Invalid):
        validate_content_type(content_type)


def test_a_signed_put_of_nothing_for_a_second_is_fine() -> None:
    validate_presign("PUT", "a", 1, content_type="a/b", size_bytes=0, filename=None)


def test_a_signed_get_needs_no_more_than_key_and_time() -> None:
    validate_presign("GET", "a", 1, content_type=None, size_bytes=None, filename=None)


@settings(deadline=None)
@given(
    st.integers(0, 50),
    st.integers(-60, 60),
    st.none() | st.integers(-60, 60),
)
def test_a_range_is_a_slice_that_holds_something(size: int, start: int, end: int | None) -> None:
    asked = set(range(start, 1000 if end is None else end))
    if (start >= 0 and asked & set(range(size))) or (size == start == 0 and asked):
        assert set(range(*clip_range(size, start, end))) == asked & set(range(size))
    else:
        with pytest.raises(Invalid) as caught:
            clip_range(size, start, end)
        assert caught.value.code == "range_not_satisfiable"


@pytest.mark.parametrize(
    ("filename", "inline", "header"),
    [
        (None, True, "inline"),
        (None, False, "attachment"),
        ("a b.png", True, 'inline; filename="a b.png"'),
        ("../../etc/passwd", False, 'attachment; filename=".._.._etc_passwd"'),
        ("a\r\nX: y", False, 'attachment; filename="a__X: y"'),
        ('a"b', False, "attachment; filename=\"a_b\"; filename*=UTF-8''a%22b"),
        ("100%.txt", False, "attachment; filename=\"100_.txt\"; filename*=UTF-8''100%25.txt"),
        ("表.csv", False, "attachment; filename=\"_.csv\"; filename*=UTF-8''%E8%A1%A8.csv"),
        ("\u202egnp.exe", False, 'attachment; filename="_gnp.exe"'),
        ("\ud800", False, 'attachment; filename="_"'),
    ],
)
def test_a_file_name_becomes_one_header(filename: str | None, inline: bool, header: str) -> None:
    assert content_disposition(filename, inline=inline) == header


@settings(deadline=None)
@given(st.text(min_size=1, max_size=60), st.booleans())
def test_no_file_name_breaks_out_of_its_header(filename: str, inline: bool) -> None:
    header = content_disposition(filename, inline=inline)
    assert header.isascii()
    assert header.isprintable()
    message = Message()
    message["Content-Disposition"] = header
    assert message.get_content_disposition() == ("inline" if inline else "attachment")
    parameters = message.get_params(header="content-disposition")
    assert parameters is not None
    assert len(parameters) <= 3
    assert "/" not in str(message.get_filename())

"""Mail addresses of accounts: one form for one mailbox, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limner.actors.mailer.message import address
from limner.core.emails import normal_email
from limner.core.errors import Invalid
from tests.fakes.nasty_strings import NASTY_STRINGS


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        ("anna@example.org", "anna@example.org"),
        ("  Anna.Lee+x@Example.ORG ", "anna.lee+x@example.org"),
        ("ａｎｎａ@example.org", "anna@example.org"),
        ("anna@exämple.org", "anna@xn--exmple-cua.org"),
        ("anna@EXÄMPLE.org", "anna@xn--exmple-cua.org"),
        ("anna@corp.local", "anna@corp.local"),
        ("anna@x.test", "anna@x.test"),
        ("o.brien+1@a-b.c", "o.brien+1@a-b.c"),
        ("anna@localhost", "anna@localhost"),
        ("\u212aate@example.org", "kate@example.org"),
    ],
)
def test_every_spelling_of_an_address_has_one_form(typed: str, stored: str) -> None:
    assert normal_email(typed) == stored
    assert normal_email(stored) == stored


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "anna",
        "@example.org",
        "anna@",
        "anna@@example.org",
        "a b@example.org",
        "anna@example..org",
        '"anna lee"@example.org',
        "anna@[127.0.0.1]",
        "änna@example.org",
        "anna@example.org\r\nBcc: v@example.org",
        "anna@example.org, v@example.org",
        "Anna <anna@example.org>",
        "a" * 65 + "@example.org",
        "a@" + "b" * 64 + ".org",
        "a@" + "b." * 160 + "org",
        "a" * 400,
        "nul\x00@example.org",
        "\ud800@example.org",
    ],
)
def test_what_is_no_single_plain_address_is_refused(typed: str) -> None:
    with pytest.raises(Invalid) as caught:
        normal_email(typed, "/to")
    assert [pointer for pointer, _ in caught.value.faults] == ["/to"]
    assert typed == "" or typed not in str(vars(caught.value))


@pytest.mark.parametrize("text", NASTY_STRINGS)
def test_text_that_breaks_programs_is_refused_and_nothing_else(text: str) -> None:
    for typed in (text, f"{text}@example.org", f"anna@{text}"):
        try:
            stored = normal_email(typed)
        except Invalid:
            continue
        assert address(stored, "to") == stored


@given(st.emails())
def test_the_mailer_takes_every_address_that_is_stored(typed: str) -> None:
    try:
        stored = normal_email(typed)
    except Invalid:
        return
    assert address(stored, "to") == stored
    assert stored == stored.lower()

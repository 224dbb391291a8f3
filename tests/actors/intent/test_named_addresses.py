"""Whether a text names an address: read to its end, however long it is."""

import time

import pytest

from limner.actors.intent.addresses import ADDRESSES_MAX
from limner.actors.intent.rules import LENGTH_MAX, find_addresses, names_address

FORMS = ("anna@example.com",)
LONG = "word " * (LENGTH_MAX // 4)
SPELLED = [
    "anna@example.com",
    "anna at example dot com",
    "ANNA(at)example(dot)com",
    "anna艾特example点com",
    "ａｎｎａ＠ｅｘａｍｐｌｅ．ｃｏｍ",
]
OTHERS = [
    "joanna@example.com",
    "jo dot anna at example dot com",
    "anna@example.com.au",
    "anna@example.org",
    "look at the example",
]


@pytest.mark.parametrize("named", SPELLED)
def test_an_address_is_found_however_far_back_it_stands(named: str) -> None:
    assert names_address(named, FORMS)
    assert names_address(f"{LONG} {named}, {LONG}", FORMS)


@pytest.mark.parametrize("other", OTHERS)
def test_an_address_that_is_longer_or_another_is_not_found(other: str) -> None:
    assert not names_address(other, FORMS)
    assert not names_address(f"{LONG} {other} , {LONG}", FORMS)


def test_where_the_steps_of_reading_meet_makes_no_difference() -> None:
    for length in range(0, 1_300, 7):
        before = "." * (length % 2) + " " + "词" * length + " "
        assert names_address(f"{before}anna at example dot com {LONG}", FORMS), length
        assert not names_address(f"{before}jo dot anna at example dot com {LONG}", FORMS), length


def test_any_number_of_other_addresses_hides_none() -> None:
    for others in range(ADDRESSES_MAX, 120):
        text = f"{'a@b.cd ' * others}anna at example dot com"
        assert "anna@example.com" not in find_addresses(text)
        assert names_address(text, FORMS), others


@pytest.mark.parametrize("piece", ["x at example dot ", "a@example", "<p>example</p> ", "a@"])
def test_half_a_million_characters_are_read_in_bounded_time(piece: str) -> None:
    text = (piece * 500_000)[:500_000]
    began = time.perf_counter()
    assert not names_address(text, FORMS)
    assert time.perf_counter() - began < 20


def test_nothing_names_nobody() -> None:
    assert not names_address("", FORMS)
    assert not names_address("   ", FORMS)

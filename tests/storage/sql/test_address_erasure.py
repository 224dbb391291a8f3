"""How an address is found in texts: whole, and not in a longer one."""

import pytest

from limner.storage.sql.address_erasure import normal, pattern_of

PATTERN = pattern_of(["anna@example.com"])


@pytest.mark.parametrize(
    "text",
    [
        "anna@example.com",
        "to ANNA@Example.com.",
        "https://x.test/unsubscribe?email=anna@example.com&x=1",
        "mailto:anna@example.com?subject=x",
        "https://x.test/u/anna@example.com/heron",
        "*anna@example.com*",
        "'anna@example.com'",
        "<anna@example.com>",
        "anna@example.com-thanks",
        "anna@example.com--",
        "发到anna@example.com谢谢",
        "ａｎｎａ＠ｅｘａｍｐｌｅ．ｃｏｍ",
    ],
)
def test_a_whole_address_is_found_whatever_stands_around_it(text: str) -> None:
    assert PATTERN.search(normal(text))


@pytest.mark.parametrize("before", ["jo", "7", "jo.", "jo-", "jo+", "jo_", "É", "и"])
def test_the_end_of_a_longer_local_part_is_somebody_else(before: str) -> None:
    assert not PATTERN.search(normal(f"to {before}anna@example.com"))


@pytest.mark.parametrize("behind", ["m", "7", ".au", "-shop.org", "-my-shop.org", "é"])
def test_the_beginning_of_a_longer_host_name_is_somebody_else(behind: str) -> None:
    assert not PATTERN.search(normal(f"to anna@example.com{behind} "))

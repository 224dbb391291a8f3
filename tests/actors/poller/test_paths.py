from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limner.actors.poller.connector import CURSOR_LENGTH, MAX_ITEMS
from limner.actors.poller.paths import Paths, scalar, truth
from limner.core.errors import Invalid, TooLarge
from tests.fakes.nasty_strings import NASTY_STRINGS

PATHS = Paths(
    items="$.list[*]",
    id="$.id",
    text="$.text",
    author="$.by.name",
    next_cursor="$.next",
    has_more="$.more",
)


async def ids(*items: Any) -> list[str]:
    return [each.external_id for each in await PATHS.comments_of(list(items))]


async def test_items_become_comments_in_order() -> None:
    document = {"list": [{"id": "a", "text": "x", "by": {"name": "N"}}, {"id": "b", "text": "y"}]}
    first, second = await PATHS.comments_of(await PATHS.items_of(document))
    assert (first.external_id, first.author, first.text) == ("a", "N", "x")
    assert (second.external_id, second.author, second.text) == ("b", "", "y")


@pytest.mark.parametrize("items", ["$.list[*]", "$.list.*", "$.list[?@.id]"])
@pytest.mark.parametrize("empty", [[], None, {}])
async def test_a_page_without_items_is_empty(items: str, empty: Any) -> None:
    paths = PATHS.model_copy(update={"items": items})
    assert await paths.items_of({"list": empty}) == []


@pytest.mark.parametrize("document", [{}, {"lists": []}, [], "no", 7, None, {"error": "login"}])
@pytest.mark.parametrize("items", ["$.list[*]", "$.list.*"])
async def test_a_document_without_the_list_is_not_an_empty_page(items: str, document: Any) -> None:
    paths = PATHS.model_copy(update={"items": items})
    with pytest.raises(Invalid, match=r"items: \$\.list found nothing in the answer"):
        await paths.items_of(document)


async def test_a_path_to_the_array_itself_is_told_what_it_lacks() -> None:
    paths = PATHS.model_copy(update={"items": "$.list"})
    with pytest.raises(Invalid, match=r"items: \$\.list selects an array.*add \[\*\]"):
        await paths.items_of({"list": [{"id": 1}]})


async def test_a_page_may_be_only_so_long() -> None:
    assert len(await PATHS.items_of({"list": [0] * MAX_ITEMS})) == MAX_ITEMS
    with pytest.raises(TooLarge):
        await PATHS.items_of({"list": [0] * (MAX_ITEMS + 1)})


async def test_a_page_whose_items_all_lack_the_text_names_the_path() -> None:
    with pytest.raises(Invalid, match=r"text: \$\.text found nothing in the answer"):
        await PATHS.comments_of([{"id": 1, "body": "x"}, {"id": 2}])


async def test_a_single_item_without_a_text_is_an_empty_comment() -> None:
    found = await PATHS.comments_of([{"id": 1}, {"id": 2, "text": None}, {"id": 3, "text": "x"}])
    assert [each.text for each in found] == ["", "", "x"]


async def test_ids_may_be_numbers() -> None:
    assert await ids({"id": 7, "text": ""}, {"id": 2**63, "text": ""}, {"id": 1.5, "text": ""}) == [
        "7",
        "9223372036854775808",
        "1.5",
    ]


@pytest.mark.parametrize("nothing", [{}, {"id": None}, {"id": ""}])
async def test_a_missing_id_is_the_hash_of_author_and_text(nothing: dict[str, Any]) -> None:
    item = {"text": "hi", "by": {"name": "Ann"}} | nothing
    (ident,) = await ids(item)
    assert ident.startswith("sha256:")
    assert len(ident) == 71
    assert await ids(item) == [ident]
    assert await ids(item | {"text": "ho"}) != [ident]
    assert await ids(item | {"by": {"name": "Bob"}}) != [ident]


async def test_author_and_text_cannot_run_into_each_other() -> None:
    one = {"by": {"name": "ab"}, "text": "c"}
    two = {"by": {"name": "a"}, "text": "bc"}
    assert len(set(await ids(one, two))) == 2


async def test_ids_that_do_not_fit_are_hashed_and_stay_different() -> None:
    found = await ids(
        *({"id": each, "text": ""} for each in ("a" * 256, "a" * 257, "a\x00b", "ab", "a" * 255))
    )
    assert len(set(found)) == 5
    assert found[3:] == ["ab", "a" * 255]
    assert all(each.startswith("sha256:") for each in found[:3])


@pytest.mark.parametrize("text", NASTY_STRINGS)
async def test_nasty_text_passes_unchanged(text: str) -> None:
    (found,) = await PATHS.comments_of([{"id": text, "text": text, "by": {"name": text}}])
    assert (found.author, found.text) == (text, text)
    assert 0 < len(found.external_id) <= 255


@given(st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5))
async def test_whatever_stands_for_an_id_is_text_or_refused(value: Any) -> None:
    if isinstance(value, list):
        with pytest.raises(Invalid, match="id: "):
            await ids({"id": value, "text": "x"})
    else:
        (found,) = await ids({"id": value, "text": "x"})
        assert 0 < len(found) <= 255


@pytest.mark.parametrize(
    ("document", "cursor", "more"),
    [
        ({"next": "a", "more": True}, "a", True),
        ({"next": 7, "more": 1}, "7", True),
        ({"next": "a", "more": False}, "a", False),
        ({"next": "a", "more": "false"}, "a", False),
        ({"next": "a", "more": " No "}, "a", False),
        ({"next": "a", "more": 0}, "a", False),
        ({"next": "a", "more": None}, "a", True),
        ({"next": "a"}, "a", True),
        ({"next": None}, "", False),
        ({}, "", False),
        ({"more": True}, "", True),
    ],
)
async def test_the_way_on_is_read_from_the_document(document: Any, cursor: str, more: bool) -> None:
    onward = await PATHS.cursor_of(document)
    assert onward == cursor
    assert await PATHS.more_of(document, onward) is more


async def test_a_feed_whose_cursor_is_not_mapped_has_one_page() -> None:
    paths = Paths(items="$[*]", id="$.id", text="$.text")
    assert await paths.cursor_of({"next": "a"}) == ""
    assert await paths.more_of({"next": "a"}, "") is False
    assert [each.author for each in await paths.comments_of([{"text": "x"}])] == [""]


@pytest.mark.parametrize("cursor", [["a"], {"a": 1}, "a" * (CURSOR_LENGTH + 1)])
async def test_a_cursor_that_cannot_be_kept_is_refused(cursor: Any) -> None:
    with pytest.raises(Invalid, match="next_cursor: "):
        await PATHS.cursor_of({"next": cursor})


def test_truth_values_are_written_as_json_writes_them() -> None:
    assert (scalar(True, "x"), scalar(False, "x"), scalar(None, "x")) == ("true", "false", "")


def test_a_number_too_long_to_write_is_refused() -> None:
    with pytest.raises(Invalid, match="id: the number is too long"):
        scalar(10**5000, "id")


@pytest.mark.parametrize("said", ["", "0", "FALSE", "no", "null", 0, None, False])
def test_many_ways_to_say_no_are_understood(said: Any) -> None:
    assert not truth(said)


@pytest.mark.parametrize("said", ["1", "true", "yes", 1, True, "more"])
def test_many_ways_to_say_yes_are_understood(said: Any) -> None:
    assert truth(said)

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from limner.actors.poller import xiaohongshu
from limner.actors.poller.connector import Page
from limner.actors.poller.xiaohongshu import Xiaohongshu
from limner.core.errors import Invalid, LimnerError, Refused, Transient
from limner.core.outgoing import Outgoing
from tests.fakes.feed import Failure, Feed, Said, some


class Vault:
    """Secrets as the store fills them in, without a database."""

    async def fill(self, text: str) -> str:
        return text.replace("secret:token", "t&k")


@pytest.fixture
async def feed() -> AsyncIterator[Feed]:
    async with Feed(some(3), page_size=2) as serving:
        yield serving


@pytest.fixture
async def outgoing(feed: Feed) -> AsyncIterator[Outgoing]:
    client = Outgoing(allow_private_hosts=frozenset({feed.host}))
    yield client
    await client.aclose()


@pytest.fixture
def notes(outgoing: Outgoing) -> Xiaohongshu:
    return Xiaohongshu(outgoing, Vault())


def ids(page: Page) -> list[str]:
    return [each.external_id for each in page.comments]


def replies(count: int, of: str = "r") -> list[Said]:
    return [Said(f"{of}{n}", f"reply {n}", "Bob") for n in range(1, count + 1)]


async def test_a_note_is_read_page_by_page(notes: Xiaohongshu, feed: Feed) -> None:
    page = await notes.fetch(feed.note, "", "")
    assert (ids(page), page.next_cursor, page.has_more) == (["c1", "c2"], "2", True)
    page = await notes.fetch(feed.note, "", "2")
    assert (ids(page), page.has_more) == (["c3"], False)
    assert [each.author for each in page.comments] == ["Ann"]


async def test_the_gateway_is_told_note_cursor_and_token(notes: Xiaohongshu, feed: Feed) -> None:
    options = feed.note | {
        "gateway": feed.url + "/",
        "note_id": "n&1=ü",
        "xsec_token": "secret:token",
        "headers": {"Authorization": "Bearer secret:token"},
    }
    await notes.fetch(options, "", "")
    assert feed.asked[0].query == {"note_id": "n&1=ü", "cursor": "", "xsec_token": "t&k"}
    assert feed.asked[0].headers["Authorization"] == "Bearer t&k"


async def test_replies_follow_their_comment(notes: Xiaohongshu, feed: Feed) -> None:
    feed.comments[0].replies = replies(2)
    page = await notes.fetch(feed.note, "", "")
    assert ids(page) == ["c1", "r1", "r2", "c2"]
    assert [each.author for each in page.comments] == ["Ann", "Bob", "Bob", "Ann"]
    assert len(feed.asked) == 1


async def test_replies_that_are_not_embedded_are_fetched(notes: Xiaohongshu, feed: Feed) -> None:
    feed.comments[0].replies = replies(65)
    feed.comments[1].replies = replies(3, of="s")
    page = await notes.fetch(feed.note | {"xsec_token": "tk"}, "", "")
    assert ids(page) == [
        "c1",
        *(f"r{n}" for n in range(1, 66)),
        "c2",
        *(f"s{n}" for n in range(1, 4)),
    ]
    asked = [each.query for each in feed.asked if each.what == "sub_comments"]
    assert [each["cursor"] for each in asked] == ["r2", "r32", "r62", "r2"]
    assert asked[0] == {
        "note_id": "n1",
        "root_comment_id": "c1",
        "num": "30",
        "cursor": "r2",
        "xsec_token": "tk",
    }


async def test_twenty_pages_of_replies_to_one_comment_are_enough(
    notes: Xiaohongshu, feed: Feed
) -> None:
    feed.comments[0].replies = replies(1000)
    page = await notes.fetch(feed.note, "", "")
    assert len([each for each in feed.asked if each.what == "sub_comments"]) == 20
    assert len(page.comments) == 2 + 2 + 20 * 30


async def test_a_page_has_an_upper_size_with_its_replies(
    notes: Xiaohongshu, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xiaohongshu, "MAX_ITEMS", 40)
    feed.comments[0].replies = replies(100)
    feed.comments[1].replies = replies(3, of="s")
    page = await notes.fetch(feed.note, "", "")
    assert ids(page) == ["c1", *(f"r{n}" for n in range(1, 39)), "c2"]
    asked = [each.cursor for each in feed.asked if each.what == "sub_comments"]
    assert asked == ["r2", "r32"]


async def test_replies_whose_cursor_stands_still_end(notes: Xiaohongshu, feed: Feed) -> None:
    feed.comments[0].replies = replies(5)
    body = b'{"data": {"comments": [{"id": "r9", "content": "x"}], "cursor": "r2", "has_more": 1}}'
    feed.fail("r2", Failure(200, body=body))
    assert ids(await notes.fetch(feed.note, "", "")) == ["c1", "r1", "r2", "r9", "c2"]


async def test_replies_that_are_gone_do_not_stop_the_feed(notes: Xiaohongshu, feed: Feed) -> None:
    feed.comments[0].replies = replies(9)
    feed.fail("r2", Failure(404))
    assert ids(await notes.fetch(feed.note, "", "")) == ["c1", "r1", "r2", "c2"]


@pytest.mark.parametrize(("status", "kind"), [(500, Transient), (429, Transient), (401, Refused)])
async def test_any_other_failure_of_replies_is_the_pages(
    status: int, kind: type[LimnerError], notes: Xiaohongshu, feed: Feed
) -> None:
    feed.comments[0].replies = replies(9)
    feed.fail("r2", Failure(status))
    with pytest.raises(kind):
        await notes.fetch(feed.note, "", "")


@pytest.mark.parametrize(
    "item",
    [
        {"sub_comments": None, "sub_comment_has_more": None, "sub_comment_cursor": None},
        {"sub_comments": [], "sub_comment_has_more": True, "sub_comment_cursor": ""},
        {"sub_comments": "some", "sub_comment_has_more": {}},
        {},
    ],
)
async def test_a_comment_may_say_nothing_of_replies(
    item: dict[str, Any], notes: Xiaohongshu, feed: Feed
) -> None:
    data = {"comments": [{"id": "a", "content": "x", **item}], "cursor": "", "has_more": False}
    feed.fail("", Failure(200, body=json.dumps({"data": data}).encode()))
    page = await notes.fetch(feed.note, "", "")
    assert ids(page) == ["a"]
    assert len(feed.asked) == 1


async def test_an_item_of_another_shape_among_good_ones_is_an_empty_comment(
    notes: Xiaohongshu, feed: Feed
) -> None:
    body = b'{"data": {"comments": ["x", {"id": "a", "content": "y"}]}}'
    feed.fail("", Failure(200, body=body))
    page = await notes.fetch(feed.note, "", "")
    assert [each.text for each in page.comments] == ["", "y"]


@pytest.mark.parametrize(
    "comments", [b'["x"]', b'[{"id": 1, "content": "x", "sub_comments": [7]}]', b'[{"id": 1}]']
)
async def test_an_answer_of_another_shape_is_invalid(
    comments: bytes, notes: Xiaohongshu, feed: Feed
) -> None:
    feed.fail("", Failure(200, body=b'{"data": {"comments": %s}}' % comments))
    with pytest.raises(Invalid):
        await notes.fetch(feed.note, "", "")

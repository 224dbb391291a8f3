from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from limner.actors.poller.connector import CURSOR_REFUSED, Page
from limner.actors.poller.documents import Documents
from limner.actors.poller.http import Http, filled
from limner.core.errors import Invalid, LimnerError, NotConfigured, Refused, TooLarge, Transient
from limner.core.outgoing import Outgoing
from tests.fakes.feed import Failure, Feed, Said, some

Fetch = Callable[..., Awaitable[Page]]


class Vault:
    """Secrets as the store fills them in, without a database."""

    async def fill(self, text: str) -> str:
        if "secret:gone" in text:
            raise NotConfigured("there is no secret gone")
        return text.replace("secret:xhs", "cookie of 小明".encode().hex())


@pytest.fixture
async def feed() -> AsyncIterator[Feed]:
    async with Feed(some(12)) as serving:
        yield serving


@pytest.fixture
async def outgoing(feed: Feed) -> AsyncIterator[Outgoing]:
    client = Outgoing(allow_private_hosts=frozenset({feed.host}))
    yield client
    await client.aclose()


@pytest.fixture
def fetch(feed: Feed, outgoing: Outgoing) -> Fetch:
    http = Http(outgoing, Vault())

    async def get(cursor: str = "", external_id: str = "42", **options: Any) -> Page:
        return await http.fetch(feed.options | options, external_id, cursor)

    return get


async def failure(fetching: Awaitable[Page]) -> LimnerError:
    with pytest.raises(LimnerError) as caught:
        await fetching
    return caught.value


async def test_a_page_has_its_comments_and_the_way_to_the_next(fetch: Fetch, feed: Feed) -> None:
    page = await fetch()
    assert [each.external_id for each in page.comments] == ["c1", "c2", "c3", "c4", "c5"]
    assert (page.next_cursor, page.has_more) == ("5", True)
    page = await fetch("10")
    assert [each.external_id for each in page.comments] == ["c11", "c12"]
    assert (page.next_cursor, page.has_more) == ("12", False)


async def test_placeholders_are_filled_in_encoded_and_once(fetch: Fetch, feed: Feed) -> None:
    await fetch(external_id="{cursor}&x=1#?/ü %2F")
    assert feed.asked[0].query == {"note": "{cursor}&x=1#?/ü %2F", "cursor": ""}


def test_other_braces_stay() -> None:
    url = "https://x.test/{external_id}/{y}?c={cursor}"
    assert filled(url, cursor="a b", external_id="{cursor}") == (
        "https://x.test/%7Bcursor%7D/{y}?c=a%20b"
    )


async def test_headers_go_out_with_their_secrets(fetch: Fetch, feed: Feed) -> None:
    await fetch(headers={"Cookie": "a=secret:xhs; b=1", "X-Plain": "yes"})
    sent = feed.asked[0].headers
    assert sent["Cookie"] == f"a={'cookie of 小明'.encode().hex()}; b=1"
    assert sent["X-Plain"] == "yes"
    assert sent["Accept"] == "application/json"


async def test_without_its_secret_nothing_is_asked(fetch: Fetch, feed: Feed) -> None:
    error = await failure(fetch(headers={"Cookie": "secret:gone"}))
    assert isinstance(error, NotConfigured)
    assert feed.asked == []


async def test_a_url_without_a_cursor_has_one_page(fetch: Fetch, feed: Feed) -> None:
    page = await fetch(url=f"{feed.url}/comments", has_more=None)
    assert (page.next_cursor, page.has_more) == ("", False)


async def test_a_private_address_that_is_not_allowed_is_refused(feed: Feed) -> None:
    outgoing = Outgoing()
    error = await failure(Http(outgoing, Vault()).fetch(feed.options, "", ""))
    await outgoing.aclose()
    assert isinstance(error, Refused)
    assert error.code == "address_refused"
    assert feed.asked == []


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520])
async def test_what_may_pass_is_transient(status: int, fetch: Fetch, feed: Feed) -> None:
    feed.fail("", Failure(status))
    error = await failure(fetch())
    assert isinstance(error, Transient)
    assert error.retry_after_s is None
    assert error.detail == f"{feed.host} answered {status}"


@pytest.mark.parametrize("status", [429, 503])
async def test_the_feed_says_how_long_to_wait(status: int, fetch: Fetch, feed: Feed) -> None:
    feed.fail("", Failure(status, {"Retry-After": "17"}))
    error = await failure(fetch())
    assert isinstance(error, Transient)
    assert error.retry_after_s == 17


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 410, 422, 451])
async def test_what_will_not_pass_is_refused(status: int, fetch: Fetch, feed: Feed) -> None:
    feed.fail("", Failure(status))
    error = await failure(fetch())
    assert isinstance(error, Refused)
    assert (error.code, error.detail) == ("feed_refused", f"{feed.host} answered {status}")


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, CURSOR_REFUSED), (404, CURSOR_REFUSED), (410, CURSOR_REFUSED), (401, "feed_refused")],
)
async def test_with_a_cursor_it_may_be_the_cursors_fault(
    status: int, code: str, fetch: Fetch, feed: Feed
) -> None:
    feed.fail("5", Failure(status))
    assert (await failure(fetch("5"))).code == code


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        (b"<html>", Invalid, "not JSON"),
        (b"", Invalid, "not JSON"),
        (b"[" * 70 + b"]" * 70, Invalid, "deeper than 64"),
        (b'{"data": {}}', Invalid, "items: $.data.comments found nothing"),
        (b'{"data": {"comments": [{"id": 1}]}}', Invalid, "text: $.content found nothing"),
        (b'{"data": {"comments": [{"id": [], "content": ""}]}}', Invalid, "id: this is no text"),
        (b'{"data": {"comments": [], "cursor": {}}}', Invalid, "next_cursor: this is no text"),
        (b" " * 5_000_001, TooLarge, "over 5000000 bytes"),
    ],
)
async def test_a_bad_document_says_what_is_wrong(
    body: bytes, kind: type[LimnerError], text: str, fetch: Fetch, feed: Feed
) -> None:
    feed.fail("", Failure(200, body=body))
    error = await failure(fetch())
    assert isinstance(error, kind)
    assert text in error.detail


async def test_a_redirect_is_followed(fetch: Fetch, feed: Feed) -> None:
    feed.fail("", Failure(302, {"Location": "/comments?cursor=10"}))
    assert [each.external_id for each in (await fetch()).comments] == ["c11", "c12"]


async def test_half_a_surrogate_pair_does_no_harm(fetch: Fetch, feed: Feed) -> None:
    body = rb'{"data": {"comments": [{"id": 1, "content": "a\ud83dz"}], "cursor": ""}}'
    feed.fail("", Failure(200, body=body))
    assert [each.text for each in (await fetch()).comments] == ["a\ufffdz"]


async def test_options_of_another_time_are_invalid_and_no_bug(fetch: Fetch, feed: Feed) -> None:
    error = await failure(fetch(itmes="$"))
    assert isinstance(error, Invalid)
    assert error.faults == (("/options/itmes", "Extra inputs are not permitted"),)
    assert feed.asked == []


async def test_the_document_is_what_the_feed_sent(feed: Feed, outgoing: Outgoing) -> None:
    feed.comments = [Said(7, "x", "y")]
    document = await Documents(outgoing, Vault()).get(f"{feed.url}/comments", {}, "")
    assert document["data"]["comments"][0]["id"] == 7

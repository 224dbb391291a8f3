import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from limner.actors.poller.actor import build
from limner.actors.poller.messages import Poll
from limner.actors.poller.sample import comments
from limner.core.actor import ActorLoop
from limner.core.clock import HeldClock
from limner.core.outgoing import Outgoing
from limner.storage.sql.changes import Insert
from limner.storage.sql.comments import Comment
from limner.storage.sql.connection import Connection
from limner.storage.sql.database import Database
from limner.storage.sql.messaging import OutboxRow
from limner.storage.sql.sources import Source, create_source
from tests.fakes.feed import Asked, Failure, Feed, Said, some
from tests.fakes.nasty_strings import NASTY_STRINGS
from tests.fakes.polls import Polls
from tests.fakes.ports import open_ports


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
def polls(database: Database, clock: HeldClock, outgoing: Outgoing) -> Polls:
    return Polls(database, clock, outgoing)


class Counting:
    """A connection that notes how many values each INSERT into comments had."""

    def __init__(self, connection: Any, seen: list[int]) -> None:
        self._connection = connection
        self._seen = seen

    async def execute(self, sql: str, values: Sequence[Any] = ()) -> int:
        if sql.startswith("INSERT INTO `comments`"):
            self._seen.append(len(values))
        changed: int = await self._connection.execute(sql, values)
        return changed


@pytest.fixture
def inserts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect for each INSERT into comments how many values it had."""
    seen: list[int] = []
    apply = Insert.apply

    async def counted(self: Insert, connection: Any) -> None:
        await apply(self, cast("Connection", Counting(connection, seen)))

    monkeypatch.setattr(Insert, "apply", counted)
    return seen


async def test_every_comment_of_every_page_is_stored_in_order(polls: Polls, feed: Feed) -> None:
    source = await polls.poll(await polls.source("http", feed.options))
    assert await polls.ids(source) == [f"c{n}" for n in range(1, 13)]
    assert feed.cursors_asked == ["", "5", "10"]
    assert feed.asked[0].query["note"] == "n/42"
    assert (source.cursor, source.poll_id, source.broken, source.last_error) == (
        "12",
        "",
        False,
        "",
    )
    assert source.lease_until is None
    assert source.last_polled_at == polls.clock.now()


async def test_each_comment_is_its_owners_and_is_told_to_the_intent_actor(
    polls: Polls, feed: Feed
) -> None:
    source = await polls.poll(await polls.source("http", feed.options))
    rows = await Comment.filter(source_id=source.id)
    assert {(row.state, row.user_id, row.author) for row in rows} == {("new", "user_1", "Ann")}
    told = await OutboxRow.filter(topic="intent.read")
    assert {each.trace_id for each in told} == {row.trace_id for row in rows}
    assert len({row.trace_id for row in rows}) == 12
    assert {row.id for row in rows} == {bytes(each.body).decode()[15:-2] for each in told}


async def test_a_page_with_nothing_new_ends_the_poll(polls: Polls, feed: Feed) -> None:
    source = await polls.poll(await polls.source("http", feed.options))
    feed.asked.clear()
    feed.comments = [Said("new"), *feed.comments]
    source = await polls.poll(source)
    assert feed.cursors_asked == ["", "5"]
    assert (await polls.ids(source))[12:] == ["new"]


async def test_every_poll_begins_at_the_beginning(polls: Polls, feed: Feed) -> None:
    source = await polls.source("http", feed.options)
    for _ in range(3):
        source = await polls.poll(source)
    assert feed.cursors_asked == ["", "5", "10", "", ""]


async def test_a_source_that_resumes_goes_on_from_the_saved_cursor(
    polls: Polls, feed: Feed
) -> None:
    feed.cursors = "after"
    source = await polls.poll(await polls.source("http", feed.options | {"resume": True}))
    assert source.cursor == "c12"
    feed.asked.clear()
    feed.comments += some(6, first=13)
    source = await polls.poll(source)
    assert feed.cursors_asked == ["c12", "c17"]
    assert await polls.ids(source) == [f"c{n}" for n in range(1, 19)]
    feed.asked.clear()
    source = await polls.poll(source)
    assert (feed.cursors_asked, source.cursor) == (["c18"], "c18")


async def test_a_last_page_without_a_cursor_is_read_again_by_a_source_that_resumes(
    polls: Polls, feed: Feed
) -> None:
    feed.cursors = "after"
    last = b'{"data": {"comments": [{"id": "c11", "content": "x"}], "cursor": null}}'
    feed.fail("c10", Failure(200, body=last))
    source = await polls.poll(await polls.source("http", feed.options | {"resume": True}))
    assert source.cursor == "c10"
    source = await polls.poll(source)
    assert feed.cursors_asked == ["", "c5", "c10", "c10"]
    assert (await polls.ids(source))[-2:] == ["c11", "c12"]


async def test_one_comment_that_comes_several_times_is_one(polls: Polls, feed: Feed) -> None:
    feed.comments = [Said("a", "one"), Said("a", "two"), Said("b"), Said("a"), Said("c"), Said("a")]
    source = await polls.poll(await polls.source("http", feed.options))
    assert await polls.ids(source) == ["a", "b", "c"]
    assert await Comment.filter(external_id="a", text="one").count() == 1


async def test_two_sources_of_one_feed_have_their_own_comments(polls: Polls, feed: Feed) -> None:
    one = await polls.source("http", feed.options)
    two = await polls.source("http", feed.options)
    await polls.poll(one)
    await polls.poll(two)
    assert len(await polls.ids(one)) == len(await polls.ids(two)) == 12


async def test_an_order_that_changes_loses_and_doubles_nothing(polls: Polls, feed: Feed) -> None:
    feed.cursors = "after"
    feed.shuffled = random.Random(7)  # noqa: S311 - an order, no secret
    source = await polls.source("http", feed.options)
    for first in (13, 16, 19):
        source = await polls.poll(source)
        feed.comments = [*some(3, first), *feed.comments]
    source = await polls.poll(source)
    ids = await polls.ids(source)
    assert sorted(ids) == sorted(f"c{n}" for n in range(1, 22))


async def test_a_thousand_comments_take_one_insert_for_each_page(
    polls: Polls, feed: Feed, inserts: list[int]
) -> None:
    feed.comments, feed.page_size = some(1000), 20
    source = await polls.poll(await polls.source("http", feed.options))
    assert await polls.ids(source) == [f"c{n}" for n in range(1, 1001)]
    assert len(inserts) == len(feed.asked) == 50
    assert len(set(inserts)) == 1
    assert not source.broken


async def test_a_page_without_anything_new_inserts_nothing(
    polls: Polls, feed: Feed, inserts: list[int]
) -> None:
    source = await polls.poll(await polls.source("http", feed.options))
    inserts.clear()
    await polls.poll(source)
    assert inserts == []


async def test_a_poll_ends_after_fifty_pages_and_the_next_goes_on(polls: Polls, feed: Feed) -> None:
    feed.comments, feed.page_size = some(104), 2
    source = await polls.poll(await polls.source("http", feed.options))
    assert len(feed.asked) == 50
    assert (source.broken, source.cursor, source.last_error) == (True, "100", "")
    source = await polls.poll(source)
    assert feed.cursors_asked[50:] == ["100", "102"]
    assert len(await polls.ids(source)) == 104
    assert not source.broken


async def test_an_endless_feed_of_known_comments_is_given_up(polls: Polls, feed: Feed) -> None:
    feed.comments, feed.page_size = some(300), 2
    source = await polls.poll(await polls.source("http", feed.options))
    assert source.broken

    def repeat_itself(_: Asked) -> None:
        feed.comments = some(2) * 200

    feed.before = repeat_itself
    source = await polls.poll(source)
    assert len(feed.asked) == 100
    assert not source.broken


@pytest.mark.parametrize("cursor", ["", "same"])
async def test_a_cursor_that_leads_nowhere_ends_the_poll(
    cursor: str, polls: Polls, feed: Feed
) -> None:
    feed.said_more = True
    options = feed.options | {"next_cursor": f"$.{cursor or 'missing'}"}
    page = b'{"same": "same", "data": {"comments": [{"id": %d, "content": "x"}]}}'
    for n, at in enumerate(("", "same", "same")):
        feed.fail(at, Failure(200, {"Content-Type": "application/json"}, page % n))
    source = await polls.poll(await polls.source("http", options))
    assert feed.cursors_asked == (["", "same"] if cursor else [""])
    assert source.cursor == cursor


async def test_an_unchanging_cursor_ends_the_poll_although_there_is_something_new(
    polls: Polls, feed: Feed
) -> None:
    def add(_: Asked) -> None:
        feed.comments = [*some(5, first=100 * len(feed.asked)), *feed.comments]

    feed.before = add
    feed.said_more = True
    options = feed.options | {"next_cursor": "$.code"}
    source = await polls.poll(await polls.source("http", options))
    assert feed.cursors_asked == ["", "0"]
    assert len(await polls.ids(source)) == 10


async def test_nasty_text_is_stored_as_it_is_but_for_nul_and_length(
    polls: Polls, feed: Feed
) -> None:
    feed.comments = [Said(f"n{n}", text, author=text) for n, text in enumerate(NASTY_STRINGS)]
    feed.page_size = 20
    source = await polls.poll(await polls.source("http", feed.options))
    rows = {row.external_id: row for row in await Comment.filter(source_id=source.id)}
    for n, text in enumerate(NASTY_STRINGS):
        row = rows[f"n{n}"]
        kept = text.replace("\x00", "")
        assert row.text == kept[:4000]
        assert row.author == kept[:255]
        assert (row.reason == "text cut at 4000 characters") is (len(kept) > 4000)


async def test_nasty_cursors_and_ids_come_back_as_they_went(polls: Polls, feed: Feed) -> None:
    feed.cursors, feed.page_size = "after", 1
    ids = [text for text in NASTY_STRINGS if text and len(text) < 200 and "\x00" not in text]
    feed.comments = [Said(ident) for ident in ids[:45]]
    source = await polls.poll(await polls.source("http", feed.options, external_id="a&b=c/ü"))
    assert feed.cursors_asked == ["", *ids[:44]]
    assert {each.query["note"] for each in feed.asked} == {"a&b=c/ü"}
    assert await polls.ids(source) == ids[:45]


async def test_two_polls_at_once_are_one(polls: Polls, feed: Feed) -> None:
    source = await polls.source("http", feed.options)
    await polls.ask(source)
    await polls.ask(source)
    first, second = await polls.take(), await polls.take()
    assert first is not None
    assert second is not None
    feed.hold()
    both = asyncio.gather(polls.loop.settle(first), polls.loop.settle(second))
    await feed.until_asked()
    feed.go()
    await both
    await polls.run()
    assert feed.cursors_asked == ["", "5", "10"]
    assert feed.most_in_flight == 1
    assert len(await polls.ids(source)) == 12
    assert await polls.dead() == []


async def test_a_poll_that_is_asked_for_between_two_pages_does_nothing(
    polls: Polls, feed: Feed
) -> None:
    source = await polls.source("http", feed.options)
    await polls.ask(source)
    await polls.step()
    await polls.ask(source)
    await polls.run()
    assert feed.cursors_asked == ["", "5", "10"]


@pytest.mark.parametrize("state", ["paused", "deleted"])
async def test_a_source_that_is_not_active_is_not_polled(
    state: str, polls: Polls, feed: Feed
) -> None:
    source = await polls.source("http", feed.options)
    work = polls.units.open("test")
    work.move(source, expected="active", to=state)
    await polls.units.commit(work)
    await polls.poll(source)
    assert feed.asked == []
    assert await polls.dead() == []


async def test_a_source_that_does_not_exist_is_no_failure(polls: Polls) -> None:
    await polls.broker.start(["poller"])
    work = polls.units.open("test")
    work.send(Poll(source_id="source_gone"))
    await polls.units.commit(work)
    assert await polls.run() == 1
    assert await polls.dead() == []


async def test_the_demo_comments_come_in_once_each(polls: Polls) -> None:
    source = await polls.poll(await polls.source("demo", {}))
    expected = dict.fromkeys(each["id"] for each in comments() if "provider" not in each)
    assert await polls.ids(source) == list(expected)
    assert (await polls.poll(source)).last_error == ""
    assert await polls.ids(source) == list(expected)


async def test_the_poller_is_built_with_all_connectors(
    tmp_path: Path, migrated_file: Path, feed: Feed
) -> None:
    async with open_ports(
        tmp_path, migrated=migrated_file, allow_private_hosts=(feed.host,)
    ) as ports:
        actor = build(ports)
        assert list(actor.handlers) == ["poller.poll"]
        loop = ActorLoop(
            actor.with_defaults(concurrency=1, timeout_s=30, max_attempts=1),
            ports.broker,
            ports.units,
            ports.clock,
            ports.metrics,
        )
        command = Poll(source_id="source_1")
        work = ports.units.open("test")
        source = Source(
            id="source_1", state="active", name="x", connector="xiaohongshu", options=feed.note
        )
        create_source(work, source, command)
        work.send(command)
        await ports.units.commit(work)
        async with ports.broker.consume("poller", 1) as deliveries:
            await loop.settle((await anext(deliveries)).envelope)
        assert await Comment.filter(source_id="source_1").count() == 5

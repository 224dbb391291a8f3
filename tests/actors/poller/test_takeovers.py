"""Death between pages and within them, those who take over, and sources that change meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from limner.actors.poller.messages import Poll
from limner.core import failpoints
from limner.core.clock import HeldClock
from limner.core.message import Envelope
from limner.core.outgoing import Outgoing
from limner.core.unit import Commit
from limner.storage.sql.comments import Comment
from limner.storage.sql.database import Database
from limner.storage.sql.messaging import DeadLetter, OutboxRow
from limner.storage.sql.sources import Source, delete_source, update_source
from tests.fakes.feed import Failure, Feed, some
from tests.fakes.polls import Polls

ALL = [f"c{n}" for n in range(1, 13)]


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


async def take(polls: Polls) -> Envelope:
    envelope = await polls.take()
    assert envelope is not None
    return envelope


async def change(polls: Polls, source: Source, **changes: Any) -> Source:
    work = polls.units.open("test")
    update_source(work, source, **changes)
    assert await polls.units.commit(work) is Commit.DONE
    return await polls.fresh(source)


async def test_death_between_two_pages_costs_nothing(polls: Polls, feed: Feed) -> None:
    source = await polls.source("http", feed.options)
    await polls.ask(source)
    await polls.step()
    await polls.crash()
    await polls.run()
    assert feed.cursors_asked == ["", "5", "10"]
    assert await polls.ids(source) == ALL


async def test_death_within_a_page_reads_it_again(polls: Polls, feed: Feed) -> None:
    source = await polls.source("http", feed.options)
    await polls.ask(source)
    feed.hold()
    dying = asyncio.create_task(polls.loop.settle(await take(polls)))
    await feed.until_asked()
    dying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dying
    feed.go()
    await polls.crash()
    await polls.run()
    assert feed.cursors_asked == ["", "", "5", "10"]
    assert await polls.ids(source) == ALL


@pytest.mark.parametrize("point", ["before", "after"])
@pytest.mark.parametrize("nth", [2, 3, 4])
async def test_a_commit_that_fails_neither_skips_nor_doubles(
    nth: int, point: str, polls: Polls, feed: Feed
) -> None:
    source = await polls.source("http", feed.options)
    failpoints.arm(f"db.commit.{point}:{nth}:raise")
    source = await polls.poll(source)
    assert f"db.commit.{point}" in failpoints.fired()
    assert await polls.ids(source) == ALL
    assert await OutboxRow.filter(topic="intent.read").count() == 12
    assert not source.broken


async def test_the_next_poll_takes_over_what_a_lost_message_left(polls: Polls, feed: Feed) -> None:
    source = await polls.source("http", feed.options)
    await polls.ask(source)
    await polls.step()
    lost = await take(polls)
    await OutboxRow.filter(message_id=lost.message_id).delete()
    await polls.ask(source)
    await polls.run()
    assert feed.cursors_asked == [""]
    await polls.later(61)
    await polls.ask(source)
    await polls.run()
    assert feed.cursors_asked == ["", "5", "10"]
    assert await polls.ids(source) == ALL
    await polls.loop.settle(lost)
    assert len(feed.asked) == 3
    assert not (await polls.fresh(source)).broken


async def test_a_takeover_reads_on_past_what_moved_in_between(polls: Polls, feed: Feed) -> None:
    source = await polls.source("http", feed.options)
    await polls.ask(source)
    await polls.step()
    lost = await take(polls)
    await OutboxRow.filter(message_id=lost.message_id).delete()
    feed.comments = [*some(5, first=101), *feed.comments]
    polls.clock.advance(61)
    source = await polls.poll(source)
    assert feed.cursors_asked == ["", "5", "10", "15"]
    assert await polls.ids(source) == ALL
    source = await polls.poll(source)
    assert (await polls.ids(source))[12:] == [f"c{n}" for n in range(101, 106)]


async def test_giving_up_does_not_end_the_poll_that_took_over_meanwhile(
    polls: Polls, feed: Feed
) -> None:
    source = await polls.source("http", feed.options)
    await polls.ask(source)
    await polls.step()
    running = await polls.fresh(source)
    work = polls.units.open("poller")
    await polls.handler.abandon(Poll(source_id=source.id, poll_id=running.poll_id), "x", work)
    polls.clock.advance(61)
    await polls.ask(source)
    await take(polls)
    await polls.step()
    taken = await polls.fresh(source)
    assert taken.poll_id not in {"", running.poll_id}
    assert await polls.units.commit(work) is Commit.STALE
    assert (await polls.fresh(source)).poll_id == taken.poll_id


async def test_a_page_that_comes_back_after_a_takeover_changes_nothing(
    polls: Polls, feed: Feed
) -> None:
    source = await polls.source("http", feed.options)
    await polls.ask(source)
    await polls.step()
    feed.hold()
    late = asyncio.create_task(polls.loop.settle(await take(polls)))
    await feed.until_asked()
    polls.clock.advance(61)
    await polls.ask(source)
    second = asyncio.create_task(polls.loop.settle(await take(polls)))
    await feed.until_asked()
    feed.go()
    await asyncio.gather(late, second)
    await polls.run()
    assert await polls.ids(source) == ALL
    assert await OutboxRow.filter(topic="intent.read").count() == 12
    assert not (await polls.fresh(source)).poll_id


async def test_a_poll_that_breaks_off_while_another_looks_is_gone_on_with(
    polls: Polls, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await polls.source("http", feed.options)
    found = Source.found

    async def slowly(ident: str) -> Source | None:
        looked = await found(ident)
        monkeypatch.setattr(Source, "found", found)
        feed.fail("5", Failure(401))
        await polls.ask(source)
        await polls.loop.settle(await take(polls))
        await polls.loop.settle(await take(polls))
        assert (await polls.fresh(source)).broken
        return looked

    await polls.ask(source)
    envelope = await take(polls)
    monkeypatch.setattr(Source, "found", slowly)
    await polls.loop.settle(envelope)
    await polls.run()
    assert feed.cursors_asked == ["", "5", "", "5", "10"]
    assert await polls.ids(source) == ALL


async def test_a_paused_source_drops_the_page_and_resumes_without_skipping(
    polls: Polls, feed: Feed
) -> None:
    source = await polls.source("http", feed.options)
    await polls.ask(source)
    await polls.step()
    source = await change(polls, await polls.fresh(source), state="paused")
    await polls.run()
    assert feed.cursors_asked == [""]
    source = await change(polls, source, state="active")
    source = await polls.poll(source)
    assert feed.cursors_asked == ["", "5", "10"]
    assert (source.broken, await polls.ids(source)) == (False, ALL)


async def test_a_source_paused_while_its_page_is_fetched_keeps_nothing_of_it(
    polls: Polls, feed: Feed
) -> None:
    source = await polls.source("http", feed.options)
    await polls.ask(source)
    feed.hold()
    fetching = asyncio.create_task(polls.loop.settle(await take(polls)))
    await feed.until_asked()
    await change(polls, await polls.fresh(source), state="paused")
    feed.go()
    await fetching
    assert await polls.ids(source) == []
    assert await polls.run() == 0


async def test_a_page_asked_for_before_the_pause_does_not_go_on_after_it(
    polls: Polls, feed: Feed
) -> None:
    source = await polls.source("http", feed.options)
    await polls.ask(source)
    await polls.step()
    page = await take(polls)
    source = await change(polls, await polls.fresh(source), state="paused")
    source = await change(polls, source, state="active")
    await polls.loop.settle(page)
    assert feed.cursors_asked == [""]
    source = await polls.poll(source)
    assert await polls.ids(source) == ALL


async def test_a_source_that_becomes_another_feed_begins_at_its_beginning(
    polls: Polls, feed: Feed
) -> None:
    source = await polls.source("http", feed.options)
    await polls.ask(source)
    await polls.step()
    source = await change(polls, await polls.fresh(source), external_id="other")
    await polls.run()
    assert (source.cursor, source.poll_id, len(feed.asked)) == ("", "", 1)
    await polls.poll(source)
    assert [each.query["note"] for each in feed.asked] == ["n/42", "other"]


async def test_a_deleted_source_ends_its_poll(polls: Polls, feed: Feed) -> None:
    source = await polls.source("http", feed.options)
    await polls.ask(source)
    await polls.step()
    work = polls.units.open("test")
    delete_source(work, await polls.fresh(source))
    assert await polls.units.commit(work) is Commit.DONE
    await polls.run()
    assert feed.cursors_asked == [""]
    assert await DeadLetter.all().count() == 0


async def test_a_comment_that_somebody_else_stored_meanwhile_is_not_doubled(
    polls: Polls, feed: Feed
) -> None:
    source = await polls.source("http", feed.options)

    async def store() -> None:
        work = polls.units.open("test")
        row = Comment(
            id="comment_x", state="new", source_id=source.id, external_id="c3", text="first"
        )
        work.add(row)
        await polls.units.commit(work)

    await polls.ask(source)
    feed.hold()
    envelope = await take(polls)
    reading = asyncio.create_task(polls.loop.settle(envelope))
    await feed.until_asked()
    await store()
    feed.go()
    await reading
    await polls.run()
    ids = await polls.ids(source)
    assert sorted(ids) == sorted(ALL)


async def test_a_clash_at_the_unique_key_is_sorted_out_at_the_next_attempt(
    polls: Polls, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await polls.source("http", feed.options)
    commit = polls.units.commit

    async def clash(work: Any) -> Commit:
        monkeypatch.setattr(polls.units, "commit", commit)
        other = polls.units.open("test")
        other.add(
            Comment(id="comment_x", state="new", source_id=source.id, external_id="c3", text="a")
        )
        await commit(other)
        return await commit(work)

    await polls.ask(source)
    monkeypatch.setattr(polls.units, "commit", clash)
    await polls.run()
    await polls.later(61)
    await polls.run()
    assert sorted(await polls.ids(source)) == sorted(ALL)
    assert await polls.dead() == []

"""What a poll makes of pages that fail, once and for good."""

from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any

import pytest

from limner.actors.poller.actor import ERROR_LENGTH
from limner.actors.poller.connector import Page
from limner.actors.poller.messages import Poll
from limner.actors.poller.sample import Demo
from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable
from limner.core.message import Envelope
from limner.core.outgoing import Outgoing
from limner.core.unit import Commit
from limner.storage.sql.database import Database
from limner.storage.sql.messaging import OutboxRow
from limner.storage.sql.tunables import SecretStore
from tests.fakes.feed import Failure, Feed, Said, some
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


@pytest.mark.parametrize("failure", [Failure(500), Failure(429), Failure(408), Failure(cut=True)])
async def test_a_page_that_fails_once_is_read_again(
    failure: Failure, polls: Polls, feed: Feed
) -> None:
    feed.fail("5", failure)
    source = await polls.poll(await polls.source("http", feed.options))
    assert feed.cursors_asked == ["", "5", "5", "10"]
    assert await polls.ids(source) == ALL
    assert (source.broken, source.last_error) == (False, "")
    assert await polls.dead() == []


async def test_the_reason_shows_while_the_page_waits_for_its_next_attempt(
    polls: Polls, feed: Feed
) -> None:
    feed.fail("", Failure(503))
    source = await polls.source("http", feed.options)
    await polls.ask(source)
    await polls.run()
    source = await polls.fresh(source)
    assert source.last_error == f"{feed.host} answered 503"
    assert source.poll_id
    await polls.later(61)
    await polls.run()
    assert (await polls.fresh(source)).last_error == ""


async def test_a_wait_that_the_feed_asks_for_is_kept_even_if_polls_are_asked_for(
    polls: Polls, feed: Feed
) -> None:
    feed.fail("5", Failure(429, {"Retry-After": "600"}))
    source = await polls.source("http", feed.options)
    await polls.ask(source)
    await polls.run()
    assert feed.cursors_asked == ["", "5"]
    row = await OutboxRow.get(topic=Poll.topic)
    assert row.due_at - polls.clock.now() == timedelta(seconds=600)
    await polls.later(590)
    await polls.ask(source)
    await polls.run()
    assert feed.cursors_asked == ["", "5"]
    await polls.later(10)
    await polls.run()
    assert await polls.ids(source) == ALL


async def test_a_page_that_fails_for_good_breaks_the_poll_and_the_next_goes_on_there(
    polls: Polls, feed: Feed
) -> None:
    feed.fail("5", Failure(502), times=None)
    source = await polls.poll(await polls.source("http", feed.options))
    assert feed.cursors_asked == ["", "5", "5", "5"]
    assert (source.broken, source.cursor, source.poll_id) == (True, "5", "")
    assert source.lease_until is None
    assert source.last_error == f"{feed.host} answered 502"
    assert await polls.dead() == [("attempts_exhausted", f"{feed.host} answered 502")]
    feed.mend()
    feed.asked.clear()
    source = await polls.poll(source)
    assert feed.cursors_asked == ["5", "10"]
    assert await polls.ids(source) == ALL
    assert (source.broken, source.last_error) == (False, "")


async def test_nothing_is_skipped_when_pages_moved_while_the_poll_was_broken(
    polls: Polls, feed: Feed
) -> None:
    feed.fail("10", Failure(500), times=None)
    source = await polls.poll(await polls.source("http", feed.options))
    feed.mend()
    feed.comments = [*(Said(f"new{n}") for n in range(7)), *feed.comments]
    source = await polls.poll(source)
    assert not source.broken
    source = await polls.poll(source)
    assert set(await polls.ids(source)) == {*ALL, *(f"new{n}" for n in range(7))}


async def test_a_first_page_that_fails_for_good_is_not_begun_where_the_last_poll_ended(
    polls: Polls, feed: Feed
) -> None:
    source = await polls.poll(await polls.source("http", feed.options))
    assert source.cursor == "12"
    feed.fail("", Failure(500), times=None)
    source = await polls.poll(source)
    assert (source.broken, source.cursor) == (True, "")
    feed.mend()
    feed.comments = [Said("new"), *feed.comments]
    source = await polls.poll(source)
    assert (await polls.ids(source))[12:] == ["new"]


@pytest.mark.parametrize("status", [401, 403, 404, 301, 304])
async def test_a_refusal_ends_the_poll_at_once_with_its_reason(
    status: int, polls: Polls, feed: Feed
) -> None:
    feed.fail("", Failure(status, body=b""), times=None)
    source = await polls.poll(await polls.source("http", feed.options))
    assert len(feed.asked) == 1
    assert source.last_error == f"{feed.host} answered {status}"
    assert (source.broken, source.poll_id, source.lease_until) == (True, "", None)
    assert source.last_polled_at == polls.clock.now()
    assert await polls.dead() == [("feed_refused", f"{feed.host} answered {status}")]


async def test_a_cursor_that_the_feed_has_forgotten_makes_it_begin_anew_and_skip_nothing(
    polls: Polls, feed: Feed
) -> None:
    feed.cursors = "after"
    feed.fail("c5", Failure(500), times=None)
    source = await polls.poll(await polls.source("http", feed.options))
    assert (source.broken, source.cursor) == (True, "c5")
    feed.mend()
    feed.comments = [each for each in feed.comments if each.id != "c5"]
    source = await polls.poll(source)
    assert (source.broken, source.cursor) == (True, "")
    assert source.last_error == f"{feed.host} answered 400"
    feed.asked.clear()
    source = await polls.poll(source)
    assert feed.cursors_asked == ["", "c6", "c11"]
    assert (source.broken, await polls.ids(source)) == (False, ALL)


async def test_a_cursor_refused_within_a_poll_stays_for_the_next(polls: Polls, feed: Feed) -> None:
    feed.fail("5", Failure(404))
    source = await polls.poll(await polls.source("http", feed.options))
    assert (source.broken, source.cursor) == (True, "5")
    assert await polls.ids(await polls.poll(source)) == ALL


async def test_an_answer_that_is_something_else_says_what_was_not_found(
    polls: Polls, feed: Feed
) -> None:
    feed.fail("", Failure(200, body=b'{"code": -1, "msg": "log in first"}'))
    source = await polls.poll(await polls.source("http", feed.options))
    assert source.last_error == "items: $.data.comments found nothing in the answer"
    assert source.broken


async def test_a_long_reason_fits_its_column(polls: Polls, feed: Feed) -> None:
    source = await polls.source("http", feed.options, poll_id="poll_1")
    work = polls.units.open("poller")
    message = Poll(source_id=source.id, poll_id="poll_1")
    await polls.handler.abandon(message, "x" * 5000, work)
    await polls.units.commit(work)
    assert (await polls.fresh(source)).last_error == "x" * ERROR_LENGTH


async def test_a_missing_secret_is_named(polls: Polls, feed: Feed) -> None:
    options = feed.options | {"headers": {"Cookie": "secret:xhs"}}
    source = await polls.poll(await polls.source("http", options))
    assert "there is no secret xhs" in source.last_error
    assert feed.asked == []


async def test_a_connector_that_is_gone_is_named(polls: Polls) -> None:
    source = await polls.poll(await polls.source("rss", {}))
    assert source.last_error == "there is no connector rss"


async def test_an_engine_that_is_away_is_no_failure_of_the_feed(
    database: Database, clock: HeldClock, outgoing: Outgoing
) -> None:
    class Away(Demo):
        async def fetch(self, options: Mapping[str, Any], external_id: str, cursor: str) -> Page:
            raise EngineUnavailable("database: away")

    secrets = SecretStore(b"k" * 32)
    polls = Polls(database, clock, outgoing, connectors={"demo": Away(outgoing, secrets)})
    source = await polls.source("demo", {})
    await polls.ask(source)
    with pytest.raises(EngineUnavailable):
        await polls.step()
    assert (await polls.fresh(source)).last_error == ""
    polls = Polls(database, clock, outgoing)
    await polls.crash()
    await polls.run()
    assert await polls.ids(source)


async def test_what_is_abandoned_after_a_takeover_changes_nothing(polls: Polls, feed: Feed) -> None:
    source = await polls.source("http", feed.options)
    await polls.ask(source)
    await polls.step()
    before = await polls.fresh(source)
    work = polls.units.open("poller")
    await polls.handler.abandon(Poll(source_id=source.id, poll_id="poll_x"), "late", work)
    await polls.handler.abandon(Poll(source_id="source_gone", poll_id="poll_x"), "late", work)
    assert await polls.units.commit(work) is Commit.DONE
    assert (await polls.fresh(source)).version == before.version


async def test_a_feed_that_hangs_is_given_up_and_asked_again(
    database: Database, clock: HeldClock, outgoing: Outgoing, feed: Feed
) -> None:
    polls = Polls(database, clock, outgoing, timeout_s=0.2)
    source = await polls.source("http", feed.options)
    feed.hold()
    await polls.ask(source)
    await polls.run()
    feed.go()
    await polls.later(61)
    await polls.run()
    assert await polls.ids(source) == ALL
    assert feed.cursors_asked == ["", "", "5", "10"]

"""That a unit of work takes each message once: repeated, lost, again, never again, early."""

import asyncio
from typing import Any

import pytest
from tortoise.exceptions import OperationalError

from limner.core import failpoints
from limner.core.errors import FailpointReached, Stale, Transient
from limner.core.message import Envelope
from limner.core.unit import Commit
from limner.storage.sql.comments import Comment
from limner.storage.sql.faults import Deadlocked
from limner.storage.sql.messaging import DeadLetter, InboxRow, OutboxRow
from tests.contracts.engines import START
from tests.contracts.units import (
    Say,
    Sql,
    World,
    comment,
    durable_process,
    foreign,
    message,
    outbox_row,
    task,
)

# Once


async def test_with_an_embedded_broker_the_consumers_unit_deletes_the_row(world: World) -> None:
    envelope = await world.send()
    assert await OutboxRow.all().count() == 1
    work = world.receive(envelope)
    work.add(comment())
    assert await world.units.commit(work) is Commit.DONE
    assert await OutboxRow.all().count() == 0
    assert await InboxRow.filter(consumer="echo").count() == 0


async def test_with_a_durable_broker_confirmed_rows_leave_the_outbox(sql: Sql) -> None:
    world = durable_process(sql)
    await world.broker.start(["echo"])
    envelope = await world.send()
    assert world.published == [envelope]
    assert await OutboxRow.all().count() == 0
    work = world.receive(envelope)
    work.add(comment())
    assert await world.units.commit(work) is Commit.DONE
    assert await InboxRow.filter(consumer="echo").count() == 1


async def test_a_message_that_comes_again_changes_nothing(any_world: World) -> None:
    envelope = await any_world.send()
    for expected in (Commit.DONE, Commit.REPEATED, Commit.REPEATED):
        work = any_world.receive(envelope)
        work.add(comment())
        work.send(Say(text="answer"), after_s=60)
        assert await any_world.units.commit(work) is expected
    assert await Comment.all().count() == 1
    assert await OutboxRow.all().count() == 1


async def test_of_deliveries_of_one_message_at_once_one_is_done(any_world: World) -> None:
    envelope = await any_world.send()

    async def handle() -> Commit:
        work = any_world.receive(envelope)
        work.add(comment())
        return await any_world.units.commit(work)

    outcomes = await asyncio.gather(*(handle() for _ in range(8)))
    assert sorted(outcomes) == [Commit.DONE] + [Commit.REPEATED] * 7
    assert await Comment.all().count() == 1


async def test_a_foreign_message_leaves_an_inbox_row_on_either_broker(any_world: World) -> None:
    envelope = foreign()
    for expected in (Commit.DONE, Commit.REPEATED):
        work = any_world.receive(envelope)
        work.add(comment())
        assert await any_world.units.commit(work) is expected
    row = await InboxRow.get(message_id="order-1")
    assert (row.consumer, row.at) == ("echo", START)
    assert await Comment.all().count() == 1


async def test_a_foreign_message_with_a_row_is_taken_from_the_outbox_and_noted(
    world: World,
) -> None:
    envelope = message(app_id="shop", message_id="order-2")
    await outbox_row(world, envelope)
    for expected in (Commit.DONE, Commit.REPEATED):
        assert await world.units.commit(world.receive(envelope)) is expected
    twice = message(app_id="shop", message_id="order-2")
    await outbox_row(world, twice)
    assert await world.units.commit(world.receive(twice)) is Commit.REPEATED
    assert await InboxRow.filter(message_id="order-2").count() == 1


@pytest.mark.parametrize(
    "other",
    [foreign(app_id="other"), foreign(message_id="order-9"), foreign(attempt=2)],
    ids=["sender", "id", "attempt"],
)
async def test_another_sender_id_or_attempt_is_another_message(
    any_world: World, other: Envelope
) -> None:
    for envelope in (foreign(), other):
        assert await any_world.units.commit(any_world.receive(envelope)) is Commit.DONE


async def test_two_consumers_handle_the_same_message_each_once(any_world: World) -> None:
    for consumer in ("echo", "other"):
        work = any_world.units.open(consumer, foreign())
        assert await any_world.units.commit(work) is Commit.DONE


async def test_a_stale_unit_keeps_only_that_its_message_was_handled(any_world: World) -> None:
    envelope = await any_world.send()
    work = any_world.receive(envelope)
    work.add(comment())
    work.move(task(), expected="pending", to="cancelled")
    work.send(Say(text="never"))
    assert await any_world.units.commit(work) is Commit.STALE
    await any_world.settle()
    assert await Comment.all().count() == 0
    assert await OutboxRow.all().count() == 0
    again = any_world.receive(envelope)
    again.add(comment())
    assert await any_world.units.commit(again) is Commit.REPEATED


async def test_a_commit_whose_answer_was_lost_is_known_again_at_the_next_try(
    any_world: World,
) -> None:
    envelope = await any_world.send()
    work = any_world.receive(envelope)
    work.add(comment())
    work.send(Say(text="answer"))
    failpoints.arm("db.commit:execute-then-raise")
    with pytest.raises(FailpointReached):
        await any_world.units.commit(work)
    failpoints.arm(None)
    assert await Comment.all().count() == 1
    again = any_world.receive(envelope)
    again.add(comment())
    again.send(Say(text="answer"))
    assert await any_world.units.commit(again) is Commit.REPEATED
    assert await any_world.units.commit(work) is Commit.REPEATED
    assert await Comment.all().count() == 1
    answers = [row.body for row in await OutboxRow.all()]
    assert answers == [Say(text="answer").to_bytes()]
    await any_world.sql.pass_time(5)
    assert await any_world.outbox.relay_once() == 1


async def test_the_unit_of_a_request_is_known_again_too(world: World) -> None:
    work = world.units.open("http")
    work.add(comment())
    failpoints.arm("db.commit.after")
    with pytest.raises(FailpointReached):
        await world.units.commit(work)
    failpoints.arm(None)
    assert await world.units.commit(work) is Commit.REPEATED
    other = world.units.open("http")
    other.add(comment())
    assert await world.units.commit(other) is Commit.DONE
    assert await Comment.all().count() == 2


async def test_a_failure_before_the_commit_stores_nothing_and_may_be_repeated(
    any_world: World,
) -> None:
    envelope = await any_world.send()
    work = any_world.receive(envelope)
    work.add(comment())
    failpoints.arm("db.commit.before")
    with pytest.raises(FailpointReached):
        await any_world.units.commit(work)
    failpoints.arm(None)
    assert await Comment.all().count() == 0
    assert await any_world.units.commit(work) is Commit.DONE
    assert await Comment.all().count() == 1


async def test_a_unit_that_is_cancelled_while_it_waits_for_its_turn_stores_nothing(
    world: World,
) -> None:
    async with world.sql.database.transaction():
        work = world.units.open("http")
        work.add(comment())
        waiting = asyncio.create_task(world.units.commit(work))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await world.commit(comment())
    assert await Comment.all().count() == 1


# Again, and never again


async def test_a_retry_with_an_embedded_broker_moves_the_row_on_in_place(world: World) -> None:
    envelope = await world.send()
    work = world.receive(envelope)
    work.add(comment())
    work.retry("smtp: 421", after_s=30)
    assert await world.units.commit(work) is Commit.DONE
    assert await Comment.all().count() == 1
    row = await OutboxRow.get()
    assert (row.id, row.attempt) == (envelope.outbox_id, 2)
    assert (row.due_at - START).total_seconds() == 30
    assert row.publish_after == row.due_at
    late = world.receive(envelope)
    late.retry("smtp: 421", after_s=90)
    for repeated in (late, world.receive(envelope)):
        assert await world.units.commit(repeated) is Commit.REPEATED
    assert (await OutboxRow.get()).attempt == 2
    assert await world.units.commit(world.receive(envelope.next_attempt())) is Commit.DONE
    assert await OutboxRow.all().count() == 0


async def test_a_retry_with_a_durable_broker_is_a_new_row_of_the_next_attempt(sql: Sql) -> None:
    world = durable_process(sql)
    await world.broker.start(["echo"])
    envelope = await world.send()
    work = world.receive(envelope)
    work.retry("smtp: 421", after_s=30)
    assert await world.units.commit(work) is Commit.DONE
    row = await OutboxRow.get()
    assert (row.message_id, row.attempt) == (envelope.message_id, 2)
    assert row.id != envelope.outbox_id
    assert await world.units.commit(world.receive(envelope)) is Commit.REPEATED
    assert await OutboxRow.all().count() == 1
    await sql.pass_time(30)
    assert await world.outbox.relay_once() == 1
    await world.settle()
    (_, again) = world.published
    assert (again.message_id, again.attempt, again.outbox_id) == (envelope.message_id, 2, row.id)
    assert await world.units.commit(world.receive(again)) is Commit.DONE


async def test_a_foreign_message_on_an_embedded_broker_is_retried_by_a_row(world: World) -> None:
    work = world.receive(foreign())
    work.retry("busy", after_s=30)
    assert await world.units.commit(work) is Commit.DONE
    row = await OutboxRow.get()
    assert (row.message_id, row.app_id, row.attempt) == ("order-1", "shop", 2)
    await world.sql.pass_time(30)
    assert await world.outbox.relay_once() == 1
    async with world.broker.consume("echo", 1) as deliveries:
        again = (await anext(deliveries)).envelope
    second = world.receive(again)
    second.retry("busy", after_s=30)
    assert await world.units.commit(second) is Commit.DONE
    assert (await OutboxRow.get()).attempt == 3
    assert await InboxRow.filter(message_id="order-1").count() == 2


async def test_a_buried_message_is_a_dead_letter_with_everything_in_it(any_world: World) -> None:
    envelope = await any_world.send("the last word")
    work = any_world.receive(envelope)
    work.add(comment())
    work.bury("invalid_message", "x" * 3000)
    assert await any_world.units.commit(work) is Commit.DONE
    letter = await DeadLetter.get()
    assert (letter.consumer, letter.topic, letter.reason) == ("echo", "echo.say", "invalid_message")
    assert (letter.message_id, letter.app_id) == (envelope.message_id, "limner")
    assert (bytes(letter.body), letter.attempt) == (envelope.body, 1)
    assert letter.detail == "x" * 2000
    assert (letter.state, letter.trace_id) == ("open", envelope.trace_id)
    assert await Comment.all().count() == 1
    assert await OutboxRow.all().count() == 0
    again = any_world.receive(envelope)
    again.bury("invalid_message", "")
    assert await any_world.units.commit(again) is Commit.REPEATED
    assert await DeadLetter.all().count() == 1


async def test_a_buried_message_whose_guard_fails_is_a_dead_letter_all_the_same(
    any_world: World,
) -> None:
    envelope = await any_world.send()
    work = any_world.receive(envelope)
    work.move(task(), expected="pending", to="failed")
    work.bury("attempts_exhausted", "no answer")
    assert await any_world.units.commit(work) is Commit.STALE
    assert (await DeadLetter.get()).detail == "no answer"
    assert await any_world.units.commit(any_world.receive(envelope)) is Commit.REPEATED


async def test_a_fate_means_nothing_to_the_unit_of_a_request(world: World) -> None:
    work = world.units.open("http")
    work.retry("busy", after_s=1)
    assert await world.units.commit(work) is Commit.DONE
    assert await OutboxRow.all().count() == 0


# The transaction that is opened early


async def test_an_early_transaction_reads_its_own_writes_and_commits_once(
    any_world: World,
) -> None:
    envelope = await any_world.send()
    work = any_world.receive(envelope)
    work.add(comment(external_id="collected"))
    async with work.transaction() as connection:
        await connection.execute("UPDATE users SET name = 'x'")
        assert await connection.query("SELECT id FROM comments") == []
    async with work.transaction() as same:
        assert same is connection
    readers = await any_world.sql.database.read().query(
        "SELECT id FROM inbox WHERE consumer='echo'"
    )
    assert readers == []
    assert await any_world.units.commit(work) is Commit.DONE
    assert await Comment.all().count() == 1
    assert await any_world.units.commit(any_world.receive(envelope)) is Commit.REPEATED


async def test_an_early_transaction_of_a_handled_message_is_stale(any_world: World) -> None:
    envelope = await any_world.send()
    assert await any_world.units.commit(any_world.receive(envelope)) is Commit.DONE
    work = any_world.receive(envelope)
    with pytest.raises(Stale):
        async with work.transaction():
            pytest.fail("it was handled before")
    await any_world.commit(comment())


async def test_a_discarded_unit_rolls_its_early_transaction_back(any_world: World) -> None:
    envelope = await any_world.send()
    kept = comment()
    await any_world.commit(kept)
    work = any_world.receive(envelope)
    async with work.transaction() as connection:
        await connection.execute("DELETE FROM comments")
    await any_world.units.discard(work)
    await any_world.units.discard(work)
    assert await Comment.all().count() == 1
    assert await any_world.units.commit(any_world.receive(envelope)) is Commit.DONE


async def test_a_guard_that_fails_after_an_early_transaction_leaves_only_the_dedup_row(
    any_world: World,
) -> None:
    envelope = await any_world.send()
    work = any_world.receive(envelope)
    async with work.transaction() as connection:
        await connection.execute("INSERT INTO language_usage (id, tokens, calls) VALUES ('x',1,1)")
    work.move(task(), expected="pending", to="cancelled")
    assert await any_world.units.commit(work) is Commit.STALE
    rows = await any_world.sql.database.read().query("SELECT id FROM language_usage")
    assert rows == []
    assert await any_world.units.commit(any_world.receive(envelope)) is Commit.REPEATED


async def test_a_deadlock_after_an_early_transaction_is_left_to_the_next_attempt(
    world: World,
) -> None:
    async def deadlock(_: Any) -> None:
        raise Deadlocked("Deadlock found")

    work = world.units.open("http")
    async with work.transaction():
        pass
    work.step(deadlock)
    with pytest.raises(Transient):
        await world.units.commit(work)
    await world.commit(comment())


async def test_a_retry_after_an_early_transaction_comes_as_a_new_row(world: World) -> None:
    envelope = await world.send()
    work = world.receive(envelope)
    async with work.transaction():
        pass
    work.retry("busy", after_s=30)
    assert await world.units.commit(work) is Commit.DONE
    row = await OutboxRow.get()
    assert (row.message_id, row.attempt) == (envelope.message_id, 2)


async def test_an_early_transaction_that_fails_at_its_first_row_leaves_nothing_open(
    any_world: World,
) -> None:
    await any_world.sql.database.write().execute("ALTER TABLE inbox RENAME TO hidden")
    work = any_world.receive(foreign())
    with pytest.raises(OperationalError):
        async with work.transaction():
            pytest.fail("there is no inbox")
    assert work.early is None
    await any_world.sql.database.write().execute("ALTER TABLE hidden RENAME TO inbox")
    assert await any_world.units.commit(work) is Commit.DONE

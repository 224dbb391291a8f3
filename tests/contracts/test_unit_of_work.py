"""What a unit of work keeps to, over each database in ``units.DATABASES``: all or nothing, once.

Whole processes stand beside each other here: with the embedded broker, where the outbox row is the
message, and with a durable one, where a row of the inbox says that a message was handled.
"""

import asyncio
from typing import Any

import pytest
from tortoise.exceptions import OperationalError

from limner.core.errors import Conflict, Transient
from limner.core.message import Event
from limner.core.unit import Commit
from limner.storage.sql.accounts import User
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.comments import Comment
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.faults import REPEATS, Deadlocked
from limner.storage.sql.messaging import DeadLetter, InboxRow, OutboxRow
from limner.storage.sql.tasks import Task
from limner.storage.sql.timeline import TimelineLine, lines_after
from tests.contracts.engines import START
from tests.contracts.units import (
    Say,
    World,
    comment,
    delivery,
    task,
)


async def nothing_is_stored() -> bool:
    counts = [
        await model.all().count()
        for model in (Task, Comment, TimelineLine, OutboxRow, InboxRow, DeadLetter, AuditLine)
    ]
    return not any(counts)


async def state_of(row: Task | Delivery | Comment) -> tuple[str, int]:
    fresh = await type(row).get(id=row.id)
    return fresh.state, fresh.version


# All or nothing


async def test_everything_a_unit_collects_is_stored_together(world: World) -> None:
    one, two = comment(), comment()
    wish = task(comment_id=one.id, user_id="user_1")
    work = world.units.open("intent")
    work.add(one, two, wish)
    work.send(Say(text="at once"))
    work.send(Say(text="later"), after_s=90)
    work.audit("task.created", subject=wish.id, data={"by": "test"})
    assert await world.units.commit(work) is Commit.DONE
    assert {row.id for row in await Comment.all()} == {one.id, two.id}
    stored = await Task.get(id=wish.id)
    assert (stored.state, stored.version, stored.user_id) == ("pending", 1, "user_1")
    assert stored.trace_id == work.trace_id
    assert (stored.created_at, stored.updated_at) == (START, START)
    assert [row.body for row in await OutboxRow.all().order_by("publish_after")] == [
        Say(text="at once").to_bytes(),
        Say(text="later").to_bytes(),
    ]
    line = await AuditLine.get()
    assert (line.event, line.actor, line.subject) == ("task.created", "intent", wish.id)
    assert (line.data, line.trace_id, line.seq) == ({"by": "test"}, work.trace_id, None)


async def test_a_failed_guard_undoes_everything_else_of_its_unit(world: World) -> None:
    wish = task(state="extracted")
    await world.commit(wish)
    before = await TimelineLine.all().count()
    work = world.units.open("http")
    work.add(comment())
    work.move(wish, expected="extracted", to="submitted")
    work.move(task(), expected="pending", to="cancelled")
    work.send(Say())
    work.audit("never")
    assert await world.units.commit(work) is Commit.STALE
    assert await state_of(wish) == ("extracted", 1)
    assert await Comment.all().count() == 0
    assert await OutboxRow.all().count() == 0
    assert await AuditLine.all().count() == 0
    assert await TimelineLine.all().count() == before
    assert (await world.broker.depth("echo")).ready == 0


async def test_a_step_that_raises_rolls_the_whole_unit_back(world: World) -> None:
    async def write_and_fail(connection: Any) -> None:
        await connection.execute("DELETE FROM comments")
        raise ZeroDivisionError

    kept = comment()
    await world.commit(kept)
    work = world.units.open("http")
    work.add(comment())
    work.step(write_and_fail)
    work.send(Say())
    with pytest.raises(ZeroDivisionError):
        await world.units.commit(work)
    assert [row.id for row in await Comment.all()] == [kept.id]
    assert await OutboxRow.all().count() == 0


async def test_a_step_sees_what_came_before_it_in_the_unit(world: World) -> None:
    seen: list[str] = []

    async def look(connection: Any) -> None:
        rows = await connection.query("SELECT state FROM comments")
        seen.extend(row["state"] for row in rows)

    row = comment()
    work = world.units.open("http")
    work.add(row)
    work.step(look)
    work.move(row, expected="new", to="ignored")
    work.step(look)
    assert await world.units.commit(work) is Commit.DONE
    assert seen == ["new", "ignored"]


async def test_a_taken_unique_key_is_a_conflict_and_undoes_the_unit(world: World) -> None:
    first = comment(external_id="42")
    await world.commit(first)
    work = world.units.open("poller")
    work.add(comment(), comment(external_id="42"))
    with pytest.raises(Conflict):
        await world.units.commit(work)
    assert [row.id for row in await Comment.all()] == [first.id]


async def test_a_unique_key_taken_by_an_update_is_a_conflict_too(world: World) -> None:
    one = User(id="user_1", state="active", email="one@b.test")
    two = User(id="user_2", state="active", email="two@b.test")
    await world.commit(one, two)
    work = world.units.open("http")
    work.change(two, email="one@b.test")
    with pytest.raises(Conflict):
        await world.units.commit(work)
    assert (await User.get(id="user_2")).email == "two@b.test"


async def test_an_error_of_ours_in_the_sql_is_raised_and_nothing_is_stored(world: World) -> None:
    async def misspell(connection: Any) -> None:
        await connection.execute("UPDATE no_such_table SET a = 1")

    work = world.units.open("http")
    work.add(comment())
    work.step(misspell)
    with pytest.raises(OperationalError):
        await world.units.commit(work)
    assert await nothing_is_stored()
    await world.commit(comment())


async def test_a_lost_deadlock_repeats_the_whole_unit(world: World) -> None:
    tries: list[int] = []

    async def deadlock_twice(_: Any) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise Deadlocked("Deadlock found when trying to get lock")

    work = world.units.open("http")
    work.add(comment())
    work.step(deadlock_twice)
    assert await world.units.commit(work) is Commit.DONE
    assert len(tries) == 3
    assert await Comment.all().count() == 1


async def test_endless_deadlocks_are_transient(world: World) -> None:
    tries: list[int] = []

    async def deadlock(_: Any) -> None:
        tries.append(1)
        raise Deadlocked("Lock wait timeout exceeded")

    work = world.units.open("http")
    work.step(deadlock)
    with pytest.raises(Transient):
        await world.units.commit(work)
    assert len(tries) == REPEATS + 1
    assert await nothing_is_stored()


async def test_more_rows_than_one_statement_takes_are_stored_in_order(world: World) -> None:
    rows = [comment(external_id=str(n)) for n in range(450)]
    await world.commit(*rows)
    stored = await Comment.all().order_by("id")
    assert [row.external_id for row in stored] == [str(n) for n in range(450)]


async def test_an_empty_unit_of_a_request_commits(world: World) -> None:
    work = world.units.open("http")
    assert await world.units.commit(work) is Commit.DONE
    assert work.envelope is None
    assert len(work.trace_id) == 32


async def test_a_unit_that_was_opened_elsewhere_is_refused(world: World) -> None:
    with pytest.raises(TypeError):
        await world.units.commit(object())  # type: ignore[arg-type] # on purpose


# Guards, states and the timeline


async def test_a_move_changes_state_counter_and_columns(world: World) -> None:
    wish = task()
    await world.commit(wish)
    world.sql.clock.advance(5)
    work = world.units.open("intent")
    work.move(wish, expected="pending", to="extracted", prompt="a cat", email="a@b.test")
    assert await world.units.commit(work) is Commit.DONE
    stored = await Task.get(id=wish.id)
    assert (stored.state, stored.version) == ("extracted", 2)
    assert (stored.prompt, stored.email) == ("a cat", "a@b.test")
    assert (stored.updated_at - START).total_seconds() == 5


async def test_of_units_that_move_the_same_row_one_succeeds(world: World) -> None:
    wish = task(state="extracted")
    await world.commit(wish)

    async def move() -> Commit:
        work = world.units.open("http")
        work.move(wish, expected="extracted", to="submitted")
        return await world.units.commit(work)

    outcomes = await asyncio.gather(*(move() for _ in range(10)))
    assert sorted(outcomes) == [Commit.DONE] + [Commit.STALE] * 9
    assert await state_of(wish) == ("submitted", 2)


async def test_a_move_may_expect_one_of_several_states(world: World) -> None:
    wish = task(state="running")
    await world.commit(wish)
    work = world.units.open("http")
    work.move(wish, expected=("submitted", "running"), to="cancelled")
    assert await world.units.commit(work) is Commit.DONE
    assert (await state_of(wish))[0] == "cancelled"


async def test_a_transition_that_the_kind_does_not_have_is_a_bug(world: World) -> None:
    work = world.units.open("http")
    with pytest.raises(ValueError, match="a task cannot go from emailed to pending"):
        work.move(task(), expected=("pending", "emailed"), to="pending")
    with pytest.raises(ValueError, match="a delivery cannot go from sent to sending"):
        await work.begin(delivery(), expected="sent", to="sending", lease_s=5)
    assert work.changes == []


async def test_a_change_counts_even_if_the_value_stays_the_same(world: World) -> None:
    row = comment(reason="same")
    await world.commit(row)
    for _ in range(2):
        work = world.units.open("http")
        work.change(row, guard={"reason": "same"}, reason="same")
        assert await world.units.commit(work) is Commit.DONE
    assert await state_of(row) == ("new", 3)


async def test_guards_hold_for_values_tuples_and_null(world: World) -> None:
    row = comment()
    await world.commit(row)

    async def change(**guard: Any) -> Commit:
        work = world.units.open("http")
        work.change(row, guard=guard, reason="x")
        return await world.units.commit(work)

    assert await change(task_id=None, state=("new", "task"), author="") is Commit.DONE
    assert await change(task_id="task_1") is Commit.STALE
    assert await change(author=None) is Commit.STALE
    assert await change(state=("ignored",)) is Commit.STALE
    assert await change(state="new") is Commit.DONE


async def test_a_change_of_a_row_that_is_gone_is_stale(world: World) -> None:
    work = world.units.open("http")
    work.change(comment(), reason="x")
    assert await world.units.commit(work) is Commit.STALE


async def test_the_timeline_tells_every_move_and_note_with_its_number(world: World) -> None:
    wish = task(user_id="user_1")
    await world.commit(wish)
    work = world.units.open("status")
    work.move(wish, expected="pending", to="extracted", detail="rules", data={"by": "rules"})
    work.note(wish, "log", {"text": "on its way"})
    work.move(wish, expected="extracted", to="submitted")
    assert await world.units.commit(work) is Commit.DONE
    last = world.units.open("status")
    last.move(wish, expected="submitted", to="failed", detail="no credits left")
    assert await world.units.commit(last) is Commit.DONE
    lines = await lines_after(wish.id, 0)
    assert [(line.n, line.type, line.state, line.detail) for line in lines] == [
        (1, "status", "pending", ""),
        (2, "status", "extracted", "rules"),
        (3, "log", "pending", ""),
        (4, "status", "submitted", ""),
        (5, "status", "failed", "no credits left"),
        (6, "error", "failed", "no credits left"),
        (7, "done", "failed", ""),
    ]
    assert lines[1].data == {"by": "rules"}
    assert lines[2].data == {"text": "on its way"}
    assert {(line.kind, line.user_id, line.at) for line in lines} == {("task", "user_1", START)}
    assert (await state_of(wish))[1] == 7
    assert [line.n for line in await lines_after(wish.id, 5)] == [6, 7]
    assert [line.n for line in await lines_after(wish.id, 2, limit=2)] == [3, 4]


async def test_fifty_units_at_once_number_one_timeline_without_a_gap(world: World) -> None:
    wish = task()
    await world.commit(wish)

    async def note(n: int) -> Commit:
        work = world.units.open("generator")
        work.note(wish, "preview", {"n": n})
        if n % 10 == 0:
            work.move(task(id="task_missing"), expected="pending", to="cancelled")
        return await world.units.commit(work)

    outcomes = await asyncio.gather(*(note(n) for n in range(50)))
    assert outcomes.count(Commit.STALE) == 5
    lines = await lines_after(wish.id, 0)
    assert [line.n for line in lines] == list(range(1, 47))
    assert (await state_of(wish))[1] == 46
    told = sorted(int(str(line.data["n"])) for line in lines[1:])
    assert told == [n for n in range(50) if n % 10]


async def test_a_kind_without_a_timeline_tells_nothing(world: World) -> None:
    async with world.broker.subscribe() as events:
        row = comment()
        await world.commit(row)
        work = world.units.open("intent")
        work.move(row, expected="new", to="ignored")
        assert await world.units.commit(work) is Commit.DONE
        own = Event(id="e1", type="last", at=START, subject={})
        final = world.units.open("intent")
        final.announce(own)
        await world.units.commit(final)
        heard = await asyncio.wait_for(anext(events), 10)
        assert Event.from_bytes(heard.body) == own
    assert await TimelineLine.all().count() == 0

"""What a unit of work keeps to when many are committed at the same time, as one group or alone."""

import asyncio
from typing import Any

from limner.core.errors import Conflict, Invalid
from limner.core.unit import Commit
from limner.storage.sql.comments import Comment
from limner.storage.sql.messaging import DeadLetter, InboxRow, OutboxRow
from limner.storage.sql.tasks import Task
from limner.storage.sql.timeline import lines_after
from limner.storage.sql.unit import SqlUnit
from tests.contracts.units import Say, World, comment, task

MANY = 30


async def commit_all(world: World, units: list[SqlUnit]) -> list[Any]:
    """Commit all at the same time and give what each heard."""
    return await asyncio.gather(
        *(world.units.commit(unit) for unit in units), return_exceptions=True
    )


async def moved(world: World, row: Task, **changes: Any) -> SqlUnit:
    """Give a unit that moves a pending task on and tells of it."""
    unit = world.units.open("intent", await world.send(f"move {row.id}"))
    unit.move(row, expected="pending", to="extracted", **changes)
    unit.send(Say(text=row.id))
    return unit


async def test_units_that_finish_together_share_a_transaction(any_world: World) -> None:
    rows = [task(prompt=str(n)) for n in range(MANY)]
    await any_world.commit(*rows)
    before = any_world.units.committer.groups
    units = [await moved(any_world, row, prompt=f"picture {row.prompt}") for row in rows]
    sent = any_world.units.committer.groups - before
    assert await commit_all(any_world, units) == [Commit.DONE] * MANY
    assert any_world.units.committer.groups - before - sent < MANY / 2
    stored = {row.id: row for row in await Task.all()}
    for row in rows:
        assert (stored[row.id].state, stored[row.id].version) == ("extracted", 2)
        assert stored[row.id].prompt == f"picture {row.prompt}"
        lines = await lines_after(row.id, 0)
        assert [(line.n, line.state) for line in lines] == [(1, "pending"), (2, "extracted")]


async def test_a_unit_whose_guard_fails_takes_nobody_with_it(any_world: World) -> None:
    rows = [task(state="cancelled" if n == 7 else "pending") for n in range(MANY)]
    await any_world.commit(*rows)
    outcomes = await commit_all(any_world, [await moved(any_world, row) for row in rows])
    expected = [Commit.STALE if n == 7 else Commit.DONE for n in range(MANY)]
    assert outcomes == expected
    await any_world.settle()
    states = [str(row.state) for row in await Task.all().order_by("id")]
    assert sorted(states) == ["cancelled", *["extracted"] * (MANY - 1)]
    assert await InboxRow.filter(consumer="intent").count() in (0, MANY)


async def test_a_unit_whose_key_is_taken_takes_nobody_with_it(any_world: World) -> None:
    units = []
    for n in range(MANY):
        unit = any_world.units.open("http")
        unit.add(comment(external_id=str(n % (MANY - 1))))
        unit.send(Say(text=str(n)))
        units.append(unit)
    outcomes = await commit_all(any_world, units)
    assert sum(isinstance(one, Conflict) for one in outcomes) == 1
    assert outcomes.count(Commit.DONE) == MANY - 1
    assert await Comment.all().count() == MANY - 1


async def test_units_that_want_the_same_row_come_one_after_the_other(any_world: World) -> None:
    row = task()
    await any_world.commit(row)
    outcomes = await commit_all(any_world, [await moved(any_world, row) for _ in range(8)])
    assert sorted(outcomes) == [Commit.DONE, *[Commit.STALE] * 7]
    assert [line.n for line in await lines_after(row.id, 0)] == [1, 2]


async def test_counters_of_one_row_rise_by_each_unit(any_world: World) -> None:
    row = task()
    await any_world.commit(row)
    units = []
    for n in range(MANY):
        unit = any_world.units.open("http")
        unit.note(row, "log", {"n": n})
        units.append(unit)
    assert await commit_all(any_world, units) == [Commit.DONE] * MANY
    lines = await lines_after(row.id, 0)
    assert [line.n for line in lines] == list(range(1, MANY + 2))
    assert sorted(int(str(line.data["n"])) for line in lines[1:]) == list(range(MANY))


async def test_a_message_that_came_twice_is_handled_once(any_world: World) -> None:
    envelope = await any_world.send()
    units = []
    for _ in range(6):
        unit = any_world.receive(envelope)
        unit.add(comment())
        units.append(unit)
    outcomes = await commit_all(any_world, units)
    assert sorted(outcomes) == [Commit.DONE, *[Commit.REPEATED] * 5]
    assert await Comment.all().count() == 1


async def test_fates_and_steps_of_a_group_are_each_units_own(any_world: World) -> None:
    ran: list[int] = []
    units = []
    for n in range(12):
        unit = any_world.receive(await any_world.send(str(n)))
        unit.add(comment(external_id=str(n)))
        if n % 4 == 1:
            unit.retry("later", after_s=30)
        elif n % 4 == 2:
            unit.bury("invalid", f"number {n}")
        elif n == 3:

            async def refuse(_: Any) -> None:
                raise Invalid("not with us")

            unit.step(refuse)
        elif n % 4 == 3:

            async def run(_: Any, n: int = n) -> None:
                ran.append(n)

            unit.step(run)
        units.append(unit)
    outcomes = await commit_all(any_world, units)
    assert isinstance(outcomes[3], Invalid)
    assert outcomes[:3] + outcomes[4:] == [Commit.DONE] * 11
    await any_world.settle()
    assert set(ran) == {7, 11}
    assert {row.detail for row in await DeadLetter.all()} == {f"number {n}" for n in (2, 6, 10)}
    assert await OutboxRow.filter(attempt=2).count() == 3
    stored = {str(row.external_id) for row in await Comment.all()}
    assert stored == {str(n) for n in range(12) if n != 3}

"""Lines read for streams, and timelines forgotten, on each database."""

from datetime import timedelta
from typing import Any

import pytest

from limner.core.ids import new_id
from limner.storage.sql import lines as line_reads
from limner.storage.sql import timeline
from limner.storage.sql.jobs import Job
from limner.storage.sql.lines import (
    Newest,
    Wish,
    by_object,
    ending_of,
    last_numbers,
    lines_beyond,
    newest_of,
)
from limner.storage.sql.timeline import TimelineLine, forget_lines
from tests.contracts.units import World


async def job(world: World, *states: str, **fields: Any) -> Job:
    row = Job(id=new_id("job"), state="queued", prompt="a circle", user_id="user_1", **fields)
    work = world.units.open("test")
    work.add(row)
    await world.units.commit(work)
    for state in states:
        row = await Job.get(id=row.id)
        work = world.units.open("test")
        work.move(row, expected=row.state, to=state, data={"step": 1})
        await world.units.commit(work)
    return row


async def test_lines_come_by_object_and_number_with_their_json_as_text(world: World) -> None:
    first, second = await job(world, "running", "failed"), await job(world)
    reader = world.sql.database.read()
    wishes = [Wish(first.id, 1), Wish(second.id, None, 0)]
    lines, is_whole = await lines_beyond(reader, wishes)
    assert is_whole
    found = by_object(lines)
    assert [one.n for one in found[first.id]] == [2, 3, 4, 5]
    assert [one.type for one in found[first.id]] == ["status", "status", "error", "done"]
    assert found[first.id][0].data.replace(" ", "") == '{"step":1}'
    assert found[first.id][0].at.endswith("Z")
    assert "T" in found[first.id][0].at
    assert [one.n for one in found[second.id]] == [1]
    beyond = [Wish(second.id, None, found[second.id][0].id)]
    assert await lines_beyond(reader, beyond) == ([], True)
    assert await last_numbers(reader, [first.id, second.id, "job_0"]) == {
        first.id: 5,
        second.id: 1,
    }
    newest = await newest_of(reader, ["user_1", "user_2"], 0)
    assert {(one.object_id, one.n) for one in newest["user_1"]} == {(first.id, 5), (second.id, 1)}
    assert "user_2" not in newest


async def test_the_newest_line_of_an_object_comes_with_its_newest_settled_one(world: World) -> None:
    early, late = await job(world, "running"), await job(world, "running", "failed")
    reader = world.sql.database.read()
    lines, _ = await lines_beyond(reader, [Wish(early.id, 0), Wish(late.id, 0)])
    ids = {(one.object_id, one.n): one.id for one in lines}

    async def newest(after: int, settled: int) -> dict[str, Newest]:
        found = await newest_of(reader, ["user_1"], after, settled)
        return {one.object_id: one for one in found.get("user_1", [])}

    def newest_line(row: Job, n: int, old: int | None = None) -> Newest:
        before = None if old is None else Newest(row.id, old, ids[row.id, old])
        return Newest(row.id, n, ids[row.id, n], before)

    second = ids[late.id, 2]
    assert await newest(0, second) == {
        early.id: newest_line(early, 2, old=2),
        late.id: newest_line(late, 5, old=2),
    }
    # Old is what lies between the two rows.
    assert await newest(second, second) == {late.id: newest_line(late, 5)}
    assert await newest(ids[late.id, 1], second) == {late.id: newest_line(late, 5, old=2)}
    assert await newest(0, 0) == {early.id: newest_line(early, 2), late.id: newest_line(late, 5)}


async def test_a_read_that_is_cut_never_ends_with_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = await job(world, "running", "cancelled")
    monkeypatch.setattr(line_reads, "LINES_PER_READ", 4)
    lines, is_whole = await lines_beyond(world.sql.database.read(), [Wish(row.id, 0)])
    assert ([one.n for one in lines], is_whole) == ([1, 2, 3], False)


async def test_the_end_is_a_done_that_nothing_has_overtaken(world: World) -> None:
    reader = world.sql.database.read()
    assert await ending_of(reader, "job_none") == (None, None)
    waiting, ended = await job(world, "running"), await job(world, "running", "failed")
    assert await ending_of(reader, waiting.id) == (2, None)
    assert await ending_of(reader, ended.id) == (5, 5)
    row = await Job.get(id=ended.id)
    for kind, found in (("log", (6, 5)), ("status", (7, None)), ("done", (8, 8))):
        work = world.units.open("test")
        work.note(row, kind, {})
        await world.units.commit(work)
        assert await ending_of(reader, ended.id) == found


async def test_the_timelines_of_what_ended_long_ago_are_forgotten_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "LINES_PER_DELETE", 3)
    gone = [await job(world, "running", "cancelled") for _ in range(2)]
    waiting, young = await job(world, "running"), await job(world, "cancelled")
    writer = world.sql.database.write()
    now = (await Job.get(id=young.id)).updated_at
    old = now - timedelta(days=100)
    for row in (*gone, waiting):
        await writer.execute("UPDATE jobs SET updated_at = ? WHERE id = ?", [old, row.id])
    await writer.execute("UPDATE timeline SET at = ? WHERE object_id <> ?", [old, young.id])
    # The young one has an old line, too: it is kept whole as well.
    await writer.execute(
        "UPDATE timeline SET at = ? WHERE object_id = ? AND n = 1", [old, young.id]
    )
    assert await forget_lines(writer, Job, now - timedelta(days=90)) == 8
    left = {line.object_id for line in await TimelineLine.all()}
    assert left == {waiting.id, young.id}
    assert await forget_lines(writer, Job, now - timedelta(days=90)) == 0
    assert await TimelineLine.filter(object_id=young.id).count() == 3

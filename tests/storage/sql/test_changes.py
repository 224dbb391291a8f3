"""The changes a unit collects, one by one, as SQL."""

from typing import Any

import pytest
from tortoise.exceptions import ValidationError

from limner.core.errors import Conflict, Stale
from limner.storage.sql.aggregate import column_value
from limner.storage.sql.changes import (
    DETAIL_LENGTH,
    FirstLine,
    Guarded,
    Insert,
    Line,
    Run,
    lines_for,
)
from limner.storage.sql.comments import Comment
from limner.storage.sql.connection import Connection, FromNow
from limner.storage.sql.database import Database
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.jobs import Job
from limner.storage.sql.tasks import Task
from limner.storage.sql.timeline import TimelineLine, lines_after
from tests.contracts.engines import START
from tests.contracts.units import comment, delivery, task


def stamped(row: Any) -> Any:
    row.created_at = row.updated_at = START
    return row


async def apply(database: Database, *changes: Any) -> None:
    async def work(connection: Connection) -> None:
        for change in changes:
            await change.apply(connection)

    await database.run(work)


async def test_rows_are_inserted_with_every_column(database: Database) -> None:
    mail = stamped(delivery(variables={"prompt": "小猫", "n": [1, None]}, lease_until=START))
    await apply(database, Insert([mail]))
    stored = await Delivery.get(id=mail.id)
    assert stored.variables == {"prompt": "小猫", "n": [1, None]}
    assert (stored.lease_until, stored.sent_at, stored.attempt) == (START, None, 1)


async def test_a_number_that_the_database_gives_is_left_to_it(database: Database) -> None:
    lines = [
        TimelineLine(kind="task", object_id="t1", n=n, at=START, type="log", state="x")
        for n in (1, 2)
    ]
    await apply(database, Insert(lines))
    stored = await TimelineLine.all().order_by("id")
    assert [(line.n, line.id > 0) for line in stored] == [(1, True), (2, True)]
    with pytest.raises(Conflict, match="timeline"):
        await apply(database, Insert(lines[:1]))


async def test_a_guarded_update_sets_plain_json_and_database_times(database: Database) -> None:
    job = stamped(Job(id="job_1", state="queued", prompt="a cat"))
    await apply(database, Insert([job]))
    changes = {"outputs": [{"key": "x"}], "lease_until": FromNow(30), "state": "running"}
    await apply(database, Guarded(job, {"state": ("queued", "running"), "token": 0}, changes))
    stored = await Job.get(id="job_1")
    assert stored.outputs == [{"key": "x"}]
    assert stored.lease_until is not None
    assert (stored.lease_until - START).total_seconds() == 30
    assert (stored.state, stored.version, stored.updated_at) == ("running", 2, START)
    with pytest.raises(Stale, match="job job_1 is no longer as expected"):
        await apply(database, Guarded(job, {"state": "queued"}, {}))


async def test_lines_are_numbered_by_the_raised_counter_and_cut_to_their_column(
    database: Database,
) -> None:
    wish = stamped(task(user_id="user_1"))
    lines = [Line("log", "pending", "x" * 2000), Line("log", "pending", "second", {"a": 1})]
    await apply(database, Insert([wish]), FirstLine(wish), Guarded(wish, {}, {}, lines))
    stored = await lines_after(wish.id, 0)
    assert [line.n for line in stored] == [1, 2, 3]
    assert [len(line.detail) for line in stored] == [0, DETAIL_LENGTH, 6]
    assert stored[2].data == {"a": 1}
    assert (await Task.get(id=wish.id)).version == 3


async def test_a_step_runs_with_the_connection(database: Database) -> None:
    given: list[Connection] = []

    async def keep(connection: Connection) -> None:
        given.append(connection)

    await apply(database, Run(keep))
    assert given[0].dialect == "sqlite"


@pytest.mark.parametrize("name", ["a`; DROP TABLE tasks; --", "a b", "a.b", ""])
async def test_what_is_no_column_is_never_put_into_sql(database: Database, name: str) -> None:
    row = stamped(comment())
    await apply(database, Insert([row]))
    with pytest.raises((ValueError, KeyError)):
        await apply(database, Guarded(row, {}, {name: 1}))
    with pytest.raises(ValueError, match="no column"):
        await apply(database, Guarded(row, {name: None}, {}))
    assert await Comment.all().count() == 1


def test_a_move_tells_its_state_its_error_and_its_end() -> None:
    wish = task()
    told = lines_for(wish, "extracted", "by rules", {"a": 1})
    assert told == [Line("status", "extracted", "by rules", {"a": 1})]
    assert [line.type for line in lines_for(wish, "emailed", "", {})] == ["status", "done"]
    failed = lines_for(wish, "failed", "no credits", {})
    assert [(line.type, line.detail) for line in failed] == [
        ("status", "no credits"),
        ("error", "no credits"),
        ("done", ""),
    ]


async def test_a_value_is_checked_and_turned_into_its_columns_form(database: Database) -> None:
    assert column_value(Job, "warnings", ["a"]) == '["a"]'
    assert column_value(Job, "cancel_requested", value=True) is True
    with pytest.raises(ValidationError, match="worker_id: Length"):
        column_value(Job, "worker_id", "x" * 129)

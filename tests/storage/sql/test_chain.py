"""The audit chain: what was sealed cannot be changed, removed or added to unseen."""

import asyncio
from datetime import timedelta

import pytest

from limner.core import failpoints
from limner.core.clock import HeldClock
from limner.core.errors import FailpointReached
from limner.storage.sql import chain
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.chain import Verdict, line_hash, seal, verify
from limner.storage.sql.database import Database
from limner.storage.sql.unit import SqlUnits


async def write(units: SqlUnits, clock: HeldClock, count: int) -> None:
    """Write lines of all sorts, a second apart."""
    for number in range(count):
        clock.advance(1)
        work = units.open("test")
        work.audit("task.approved", subject=f"task_{number}", data={"n": number, "prompt": "狐狸"})
        await units.commit(work)


async def tamper(database: Database, sql: str, *values: object) -> None:
    assert await database.write().execute(sql, values) >= 1


async def test_an_empty_chain_holds(database: Database) -> None:
    assert await seal(database) == 0
    assert await verify() == Verdict(0, None, 0)


async def test_sealed_lines_are_numbered_and_linked(
    database: Database, units: SqlUnits, clock: HeldClock
) -> None:
    await write(units, clock, 3)
    assert await verify() == Verdict(0, None, 3)
    assert await seal(database) == 3
    assert await verify() == Verdict(3, None, 0)
    lines = await AuditLine.all().order_by("seq")
    assert [line.seq for line in lines] == [1, 2, 3]
    assert [line.subject for line in lines] == ["task_0", "task_1", "task_2"]
    assert lines[0].hash == line_hash(chain.ZERO, lines[0], 1)
    assert lines[2].hash == line_hash(lines[1].hash, lines[2], 3)


async def test_sealing_goes_on_where_it_ended(
    database: Database, units: SqlUnits, clock: HeldClock
) -> None:
    await write(units, clock, 5)
    assert [await seal(database, limit=2) for _ in range(4)] == [2, 2, 1, 0]
    await write(units, clock, 1)
    assert await verify() == Verdict(5, None, 1)
    await seal(database)
    assert await verify() == Verdict(6, None, 0)


async def test_lines_are_checked_page_by_page(
    database: Database, units: SqlUnits, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "BATCH", 2)
    await write(units, clock, 5)
    await seal(database, limit=10)
    assert await verify() == Verdict(5, None, 0)
    await tamper(database, "UPDATE audit SET actor = 'x' WHERE seq = 5")
    assert await verify() == Verdict(4, 5, 0)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("event", "task.rejected"),
        ("actor", "user_2"),
        ("subject", "task_9"),
        ("request_id", "r2"),
        ("trace_id", "0" * 32),
        ("data", '{"n": 1, "prompt": "猫"}'),
        ("id", "audit_0"),
        ("hash", "0" * 64),
    ],
)
async def test_a_changed_line_is_found(
    database: Database, units: SqlUnits, clock: HeldClock, column: str, value: str
) -> None:
    await write(units, clock, 4)
    await seal(database)
    await tamper(database, f"UPDATE audit SET {column} = ? WHERE seq = 2", value)  # noqa: S608 - ours
    assert await verify() == Verdict(1, 2, 0)


async def test_a_changed_time_is_found(
    database: Database, units: SqlUnits, clock: HeldClock
) -> None:
    await write(units, clock, 4)
    await seal(database)
    later = clock.now() + timedelta(microseconds=1)
    await tamper(database, "UPDATE audit SET at = ? WHERE seq = 3", later)
    assert await verify() == Verdict(2, 3, 0)


async def test_a_changed_line_that_was_hashed_anew_breaks_the_next(
    database: Database, units: SqlUnits, clock: HeldClock
) -> None:
    await write(units, clock, 4)
    await seal(database)
    before, line = await AuditLine.filter(seq__lte=2).order_by("seq")
    line.actor = "somebody else"
    forged = line_hash(before.hash, line, 2)
    await tamper(database, "UPDATE audit SET actor = ?, hash = ? WHERE seq = 2", line.actor, forged)
    assert await verify() == Verdict(2, 3, 0)


@pytest.mark.parametrize("seq", [1, 2, 3])
async def test_a_removed_line_is_found(
    database: Database, units: SqlUnits, clock: HeldClock, seq: int
) -> None:
    await write(units, clock, 4)
    await seal(database)
    await tamper(database, "DELETE FROM audit WHERE seq = ?", seq)
    assert await verify() == Verdict(seq - 1, seq, 0)


async def test_a_removed_line_is_found_although_the_rest_was_numbered_anew(
    database: Database, units: SqlUnits, clock: HeldClock
) -> None:
    await write(units, clock, 4)
    await seal(database)
    await tamper(database, "DELETE FROM audit WHERE seq = 2")
    for seq in (3, 4):
        await tamper(database, "UPDATE audit SET seq = ? WHERE seq = ?", seq - 1, seq)
    assert await verify() == Verdict(1, 2, 0)


async def test_an_inserted_line_is_found(
    database: Database, units: SqlUnits, clock: HeldClock
) -> None:
    await write(units, clock, 4)
    await seal(database)
    for seq in (4, 3):
        await tamper(database, "UPDATE audit SET seq = ? WHERE seq = ?", seq + 1, seq)
    await write(units, clock, 1)
    forged = await AuditLine.get(seq=None)
    before = await AuditLine.get(seq=2)
    await tamper(
        database,
        "UPDATE audit SET seq = 3, hash = ? WHERE id = ?",
        line_hash(before.hash, forged, 3),
        forged.id,
    )
    assert await verify() == Verdict(3, 4, 0)


async def test_two_sealers_at_once_make_one_chain(
    database: Database, units: SqlUnits, clock: HeldClock
) -> None:
    await write(units, clock, 6)
    sealed = await asyncio.gather(*(seal(database, limit=2) for _ in range(4)))
    assert sum(sealed) == 6
    assert await verify() == Verdict(6, None, 0)


@pytest.mark.parametrize("action", ["raise", "execute-then-raise"])
async def test_a_seal_that_broke_off_is_made_again(
    database: Database, units: SqlUnits, clock: HeldClock, action: str
) -> None:
    await write(units, clock, 3)
    failpoints.arm(f"audit.seal:{action}")
    with pytest.raises(FailpointReached):
        await seal(database)
    failpoints.arm(None)
    await seal(database)
    assert await verify() == Verdict(3, None, 0)

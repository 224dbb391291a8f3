"""What is remembered of reads: for how long, by how many, and how changes overtake it."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable, Stale
from limner.core.unit import Commit
from limner.storage.sql.connection import Connection
from limner.storage.sql.database import Database
from limner.storage.sql.providers import Provider
from limner.storage.sql.remembered import CHANGES_LIMIT, LIFE_S, Remembered
from limner.storage.sql.unit import SqlUnits
from tests.fakes.front import PATIENCE_S


class Loader:
    """Gives one value after the other, and each only when it is let, if it is ``held``."""

    def __init__(self, *rows: str, held: bool = False) -> None:
        self.rows: Iterable[str] = rows
        self.loads = 0
        self.error: Exception | None = None
        self.began = asyncio.Event()
        self._gates: list[asyncio.Event] = []
        self._held = held

    async def __call__(self) -> tuple[int, Iterable[str]]:
        self.loads += 1
        number, gate = self.loads, asyncio.Event()
        self._gates.append(gate)
        self.began.set()
        if self._held:
            await gate.wait()
        if self.error is not None:
            raise self.error
        return number, self.rows

    def let(self, number: int) -> None:
        """Let the load of this number, from 1, come to its end."""
        self._gates[number - 1].set()


@pytest.fixture
def memory(clock: HeldClock) -> Remembered[int]:
    return Remembered(clock)


async def turns(count: int = 5) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_value_is_loaded_once_and_again_after_its_life(
    memory: Remembered[int], clock: HeldClock
) -> None:
    load = Loader("row")
    assert [await memory.get("key", load) for _ in range(3)] == [1, 1, 1]
    clock.advance(LIFE_S - 0.001)
    assert await memory.get("key", load) == 1
    clock.advance(0.001)
    assert await memory.get("key", load) == 2
    assert len(memory) == 1


async def test_the_life_begins_when_the_loading_does(
    memory: Remembered[int], clock: HeldClock
) -> None:
    load = Loader("row", held=True)
    asked = asyncio.create_task(memory.get("key", load))
    await load.began.wait()
    clock.advance(LIFE_S)
    load.let(1)
    assert await asked == 1
    load.began.clear()
    again = asyncio.create_task(memory.get("key", load))
    await load.began.wait()
    load.let(2)
    assert await again == 2


async def test_of_many_who_ask_at_once_one_loads(memory: Remembered[int]) -> None:
    load = Loader("row", held=True)
    asking = [asyncio.create_task(memory.get("key", load)) for _ in range(10)]
    await load.began.wait()
    load.let(1)
    assert await asyncio.gather(*asking) == [1] * 10


async def test_a_change_of_a_row_forgets_what_was_made_of_it_and_nothing_else(
    memory: Remembered[int],
) -> None:
    first, both, other = Loader("a"), Loader("a", "b"), Loader("c")
    for key, load in (("first", first), ("both", both), ("other", other)):
        await memory.get(key, load)
    memory.forget("a")
    memory.forget("unknown")
    assert len(memory) == 1
    values = [
        await memory.get(key, load)
        for key, load in (("first", first), ("both", both), ("other", other))
    ]
    assert values == [2, 2, 1]


async def test_the_oldest_go_when_there_are_too_many(clock: HeldClock) -> None:
    memory: Remembered[int] = Remembered(clock, limit=2)
    loads = {name: Loader("shared", name) for name in "abc"}
    for name, load in loads.items():
        await memory.get(name, load)
    assert len(memory) == 2
    assert [await memory.get(name, loads[name]) for name in "bca"] == [1, 1, 2]
    memory.forget("shared")
    assert (len(memory), memory._keys_of) == (0, {})


async def test_a_change_while_it_is_loaded_is_shown_to_who_asks_after_it(
    memory: Remembered[int],
) -> None:
    load = Loader("row", held=True)
    before = asyncio.create_task(memory.get("key", load))
    await load.began.wait()
    memory.forget("row")
    after = asyncio.create_task(memory.get("key", load))
    await turns()
    load.let(1)
    assert await before == 1
    await turns()
    assert len(memory) == 0
    load.let(2)
    assert await after == 2
    assert await memory.get("key", load) == 2


async def test_changes_of_other_rows_do_not_hinder_what_is_loaded(memory: Remembered[int]) -> None:
    load = Loader("row", held=True)
    before = asyncio.create_task(memory.get("key", load))
    await load.began.wait()
    memory.forget("other")
    after = asyncio.create_task(memory.get("key", load))
    await turns()
    load.let(1)
    assert [await before, await after] == [1, 1]
    assert await memory.get("key", load) == 1
    assert load.loads == 1


async def test_only_the_first_change_of_a_row_decides_who_is_shown_what(
    memory: Remembered[int],
) -> None:
    load = Loader("row", held=True)
    before = asyncio.create_task(memory.get("key", load))
    await load.began.wait()
    memory.forget("row")
    between = asyncio.create_task(memory.get("key", load))
    await turns()
    memory.forget("row")
    load.let(1)
    assert await before == 1
    await turns()
    load.let(2)
    assert await between == 2


async def test_what_is_made_of_no_row_yet_is_overtaken_by_any_change(
    memory: Remembered[int],
) -> None:
    """The row that it lacks may be the very one that has just been stored."""
    load = Loader(held=True)
    before = asyncio.create_task(memory.get("key", load))
    await load.began.wait()
    memory.forget("fresh")
    memory.forget("another")
    load.let(1)
    assert await before == 1
    assert len(memory) == 0


async def test_very_many_changes_while_it_is_loaded_count_as_a_change_of_it(
    memory: Remembered[int],
) -> None:
    load = Loader("row", held=True)
    asked = asyncio.create_task(memory.get("key", load))
    await load.began.wait()
    for number in range(CHANGES_LIMIT + 2):
        memory.forget(f"other {number}")
    (loading,) = memory._loading.values()
    assert len(loading._of_row) == CHANGES_LIMIT
    load.let(1)
    assert await asked == 1
    assert len(memory) == 0


async def test_one_who_gives_up_does_not_end_it_for_the_others(memory: Remembered[int]) -> None:
    load = Loader("row", held=True)
    hasty, patient = (asyncio.create_task(memory.get("key", load)) for _ in range(2))
    await load.began.wait()
    hasty.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hasty
    load.let(1)
    assert await patient == 1


async def test_when_all_gave_up_the_value_is_kept_for_the_next(memory: Remembered[int]) -> None:
    load = Loader("row", held=True)
    asked = asyncio.create_task(memory.get("key", load))
    await load.began.wait()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    load.let(1)
    await turns()
    assert await memory.get("key", load) == 1


async def test_an_error_is_everybodys_and_is_not_kept(memory: Remembered[int]) -> None:
    load = Loader("row", held=True)
    load.error = EngineUnavailable("away")
    asking = [asyncio.create_task(memory.get("key", load)) for _ in range(3)]
    await load.began.wait()
    load.let(1)
    errors = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(error) for error in errors] == [EngineUnavailable] * 3
    load.error = None
    again = asyncio.create_task(memory.get("key", load))
    await turns()
    load.let(2)
    assert await again == 2


async def test_an_error_that_nobody_waits_for_is_no_news_for_the_event_loop(
    memory: Remembered[int],
) -> None:
    """The fixture that surrounds each test fails it if the loop hears of an error."""
    load = Loader("row", held=True)
    load.error = EngineUnavailable("away")
    asked = asyncio.create_task(memory.get("key", load))
    await load.began.wait()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    load.let(1)
    await turns()
    load.error = None
    assert not memory._loading


async def test_a_load_that_is_cancelled_at_the_end_of_the_process_leaves_nothing_behind(
    memory: Remembered[int],
) -> None:
    load = Loader("row", held=True)
    asked = asyncio.create_task(memory.get("key", load))
    await load.began.wait()
    (loading,) = memory._loading.values()
    loading.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert not memory._loading


def provider(name: str = "acme") -> Provider:
    return Provider(id=f"provider_{name}", user_id="user_1", state="active", name=name)


async def add(units: SqlUnits, *rows: Any) -> None:
    work = units.open("test")
    work.add(*rows)
    assert await units.commit(work) is Commit.DONE


async def test_a_commit_forgets_what_was_made_of_the_rows_it_adds_or_changes(
    database: Database, units: SqlUnits
) -> None:
    memory, load, other = database.memory("test"), Loader("provider_acme"), Loader("provider_x")
    await memory.get("key", load)
    await memory.get("other", other)
    await add(units, provider())
    assert await memory.get("key", load) == 2
    work = units.open("test")
    work.change(await Provider.get(), media="image")
    assert await memory.get("key", load) == 2, "nothing is committed yet"
    await units.commit(work)
    assert await memory.get("key", load) == 3
    assert await memory.get("other", other) == 1


async def test_a_step_says_itself_what_it_changes(database: Database, units: SqlUnits) -> None:
    memory, load = database.memory("test"), Loader("a", "b")

    async def write(connection: Connection) -> None:
        await connection.execute("DELETE FROM providers WHERE id = ?", ["a"])

    for named, expected in ((), 1), (("b", "c"), 2):
        await memory.get("key", load)
        work = units.open("test")
        work.step(write)
        work.forget(*named)
        await units.commit(work)
        assert await memory.get("key", load) == expected


async def test_a_transaction_that_was_opened_early_is_remembered_too(
    database: Database, units: SqlUnits
) -> None:
    memory, load = database.memory("test"), Loader("provider_acme")
    await memory.get("key", load)
    work = units.open("test")
    async with work.transaction():
        work.add(provider())
    assert await units.commit(work) is Commit.DONE
    assert await memory.get("key", load) == 2


async def test_a_commit_that_failed_may_have_happened_and_forgets_as_well(
    database: Database, units: SqlUnits, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, load = database.memory("test"), Loader("provider_acme")
    await add(units, provider())
    await memory.get("key", load)
    work = units.open("test")
    work.change(await Provider.get(), media="image")

    async def fail(*_: Any) -> None:
        raise Stale("as if")

    monkeypatch.setattr(database, "run", fail)
    monkeypatch.setattr(database, "run_batch", fail)
    assert await units.commit(work) is Commit.STALE
    assert await memory.get("key", load) == 2


async def test_a_commit_whose_caller_is_cancelled_forgets_when_it_happens(
    database: Database, units: SqlUnits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unit is committed all the same, later than its caller is gone."""
    memory, load = database.memory("test"), Loader("provider_acme")
    await memory.get("key", load)
    gate, began = asyncio.Event(), asyncio.Event()
    run = database.run

    async def slow(work: Any) -> Any:
        began.set()
        result = await run(work)
        await gate.wait()
        return result

    monkeypatch.setattr(database, "run", slow)
    work = units.open("test")
    work.add(provider())
    caller = asyncio.create_task(units.commit(work))
    await began.wait()
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    assert await memory.get("key", load) == 1
    gate.set()
    async with asyncio.timeout(PATIENCE_S):
        while load.loads == 1:
            await memory.get("key", load)
            await asyncio.sleep(0.001)


def test_the_bounds_are_what_other_parts_rely_on() -> None:
    assert LIFE_S <= 5

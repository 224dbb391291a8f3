"""The committer: what waits while a group is being committed is the next group."""

import asyncio
from collections.abc import Sequence

import pytest

from limner.core.unit import Commit
from limner.storage.sql.committer import Committer, Verdict

NOTHING: frozenset[str] = frozenset()


class Store:
    """Notes the groups it is given; holds each until told to go on."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.go = asyncio.Event()
        self.begun = asyncio.Event()
        self.go.set()

    async def write(self, units: Sequence[str]) -> Sequence[Verdict]:
        self.groups.append(list(units))
        self.begun.set()
        await self.go.wait()
        return [ValueError(unit) if unit.startswith("bad") else Commit.DONE for unit in units]


async def test_an_idle_committer_commits_at_once() -> None:
    store = Store()
    committer: Committer[str] = Committer(store.write)
    assert await committer.commit("a") is Commit.DONE
    assert await committer.commit("b") is Commit.DONE
    assert store.groups == [["a"], ["b"]]
    assert (committer.units, committer.groups) == (2, 2)


async def test_what_comes_while_a_group_is_written_is_the_next_group() -> None:
    store = Store()
    store.go.clear()
    committer: Committer[str] = Committer(store.write, limit=3)
    first = asyncio.create_task(committer.commit("a"))
    await store.begun.wait()
    rest = [asyncio.create_task(committer.commit(unit)) for unit in "bcde"]
    await asyncio.sleep(0)
    store.go.set()
    assert await asyncio.gather(first, *rest) == [Commit.DONE] * 5
    assert store.groups == [["a"], ["b", "c", "d"], ["e"]]


async def test_each_unit_hears_its_own_verdict() -> None:
    store = Store()
    committer: Committer[str] = Committer(store.write)
    heard = await asyncio.gather(
        *(committer.commit(unit) for unit in ("a", "bad b", "c")), return_exceptions=True
    )
    assert (heard[0], heard[2]) == (Commit.DONE, Commit.DONE)
    assert isinstance(heard[1], ValueError)
    assert store.groups == [["a", "bad b", "c"]]


async def test_what_the_store_raises_is_heard_by_all_and_the_next_group_goes_on() -> None:
    fails = [True]

    async def write(units: Sequence[str]) -> Sequence[Verdict]:
        if fails.pop() if fails else False:
            raise OSError("gone")
        return [Commit.DONE] * len(units)

    committer: Committer[str] = Committer(write)
    heard = await asyncio.gather(
        committer.commit("a"), committer.commit("b"), return_exceptions=True
    )
    assert [type(one) for one in heard] == [OSError, OSError]
    assert await committer.commit("c") is Commit.DONE


async def test_units_with_a_key_in_common_never_share_a_group_nor_overtake_each_other() -> None:
    store = Store()
    store.go.clear()
    committer: Committer[str] = Committer(store.write, lambda unit: frozenset(unit[0]))
    first = asyncio.create_task(committer.commit("x"))
    await store.begun.wait()
    rest = [asyncio.create_task(committer.commit(unit)) for unit in ("a1", "b1", "a2", "c1", "a3")]
    await asyncio.sleep(0)
    store.go.set()
    await asyncio.gather(first, *rest)
    assert store.groups == [["x"], ["a1", "b1", "c1"], ["a2"], ["a3"]]


async def test_a_caller_that_is_cancelled_does_not_disturb_the_others() -> None:
    store = Store()
    store.go.clear()
    committer: Committer[str] = Committer(store.write)
    leaving, staying = (asyncio.create_task(committer.commit(unit)) for unit in "ab")
    await store.begun.wait()
    leaving.cancel()
    store.go.set()
    assert await staying is Commit.DONE
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_a_committer_that_is_cancelled_leaves_nobody_waiting() -> None:
    store = Store()
    store.go.clear()
    committer: Committer[str] = Committer(store.write, limit=1)
    waiting = [asyncio.create_task(committer.commit(unit)) for unit in "ab"]
    await store.begun.wait()
    assert committer._lane is not None
    committer._lane.cancel()
    heard = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in heard] == [asyncio.CancelledError] * 2

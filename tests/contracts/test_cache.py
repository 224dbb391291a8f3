"""What every cache keeps to; run over each engine in ``engines.CACHES``.

Times are long where nothing may end during a test, and short where something has to: an engine
with a clock of its own runs the same tests.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from limner.core.cache import (
    BURST_MAX,
    NAME_MAX_CHARACTERS,
    TTL_MAX_S,
    VALUE_MAX_BYTES,
    Cache,
)
from limner.core.errors import Busy, Invalid, LeaseLost, TooLarge
from tests.contracts.engines import CACHES, CacheUnderTest, Engine, each, eventually, prepare

LONG_S = 600.0
SHORT_S = 0.2


@pytest.fixture(params=each(CACHES))
async def under_test(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[CacheUnderTest]:
    engine: Engine[CacheUnderTest] = request.param
    prepare(engine, request)
    async with engine.open(tmp_path) as opened:
        yield opened


@pytest.fixture
def cache(under_test: CacheUnderTest) -> Cache:
    return under_test.cache


async def is_gone(cache: Cache, key: str) -> bool:
    return await cache.get(key) is None


async def can_lock(cache: Cache, name: str) -> bool:
    try:
        async with cache.lock(name, LONG_S):
            return True
    except Busy:
        return False


@pytest.mark.parametrize("value", [b"", b"x", bytes(range(256)), bytes(VALUE_MAX_BYTES)])
async def test_a_value_comes_back_as_it_was(cache: Cache, value: bytes) -> None:
    await cache.set("key", value, LONG_S)
    assert await cache.get("key") == value


async def test_what_was_never_set_is_none(cache: Cache) -> None:
    assert await cache.get("key") is None


async def test_setting_again_takes_the_place_of_value_and_end(under_test: CacheUnderTest) -> None:
    cache = under_test.cache
    await cache.set("key", b"first", SHORT_S)
    await cache.set("key", b"second", LONG_S)
    await cache.set("other", b"x", SHORT_S)
    await under_test.pass_time(SHORT_S)
    await eventually(lambda: is_gone(cache, "other"))
    assert await cache.get("key") == b"second"


async def test_a_value_ends(under_test: CacheUnderTest) -> None:
    cache = under_test.cache
    await cache.set("key", b"x", SHORT_S)
    await under_test.pass_time(SHORT_S)
    await eventually(lambda: is_gone(cache, "key"))
    assert await cache.add("key", b"y", LONG_S)


async def test_a_deleted_value_is_gone_and_deleting_nothing_is_fine(cache: Cache) -> None:
    await cache.set("key", b"x", LONG_S)
    await cache.delete("key")
    await cache.delete("key")
    assert await cache.get("key") is None


async def test_adding_keeps_what_is_there(cache: Cache) -> None:
    assert await cache.add("key", b"first", LONG_S)
    assert not await cache.add("key", b"second", LONG_S)
    assert await cache.get("key") == b"first"


async def test_an_empty_value_is_there_for_add(cache: Cache) -> None:
    await cache.set("key", b"", LONG_S)
    assert not await cache.add("key", b"x", LONG_S)


async def test_of_many_who_add_one_does(cache: Cache) -> None:
    answers = await asyncio.gather(*(cache.add("key", b"x", LONG_S) for _ in range(50)))
    assert answers.count(True) == 1


async def test_a_refused_add_does_not_prolong(under_test: CacheUnderTest) -> None:
    cache = under_test.cache
    await cache.set("key", b"x", SHORT_S)
    assert not await cache.add("key", b"y", LONG_S)
    await under_test.pass_time(SHORT_S)
    await eventually(lambda: is_gone(cache, "key"))


@pytest.mark.parametrize("name", ["", "x" * (NAME_MAX_CHARACTERS + 1)])
async def test_what_is_no_name_is_refused_by_every_call(cache: Cache, name: str) -> None:
    with pytest.raises(Invalid):
        await cache.get(name)
    with pytest.raises(Invalid):
        await cache.set(name, b"", LONG_S)
    with pytest.raises(Invalid):
        await cache.add(name, b"", LONG_S)
    with pytest.raises(Invalid):
        await cache.delete(name)
    with pytest.raises(Invalid):
        await cache.take(name, 1, 1)
    with pytest.raises(Invalid):
        async with cache.lock(name, LONG_S):
            pass


@pytest.mark.parametrize("ttl_s", [0, -1, float("nan"), TTL_MAX_S + 1])
async def test_what_is_no_time_to_live_is_refused_by_every_call(cache: Cache, ttl_s: float) -> None:
    with pytest.raises(Invalid):
        await cache.set("key", b"", ttl_s)
    with pytest.raises(Invalid):
        await cache.add("key", b"", ttl_s)
    with pytest.raises(Invalid):
        async with cache.lock("key", ttl_s):
            pass
    async with cache.lock("key", LONG_S) as lock:
        with pytest.raises(Invalid):
            await lock.extend(ttl_s)


async def test_a_value_over_the_limit_is_refused(cache: Cache) -> None:
    with pytest.raises(TooLarge):
        await cache.set("key", bytes(VALUE_MAX_BYTES + 1), LONG_S)
    with pytest.raises(TooLarge):
        await cache.add("key", bytes(VALUE_MAX_BYTES + 1), LONG_S)
    assert await cache.get("key") is None


async def test_values_buckets_and_locks_have_names_of_their_own(cache: Cache) -> None:
    await cache.set("name", b"x", LONG_S)
    async with cache.lock("name", LONG_S):
        assert (await cache.take("name", 0.01, 1)).allowed
        assert not (await cache.take("name", 0.01, 1)).allowed
        await cache.delete("name")
        assert await cache.get("name") is None
    assert not (await cache.take("name", 0.01, 1)).allowed


async def test_a_fresh_bucket_gives_its_burst_and_then_says_when_to_come_back(
    cache: Cache,
) -> None:
    answers = [await cache.take("bucket", 0.1, 5) for _ in range(5)]
    assert [each.allowed for each in answers] == [True] * 5
    assert [each.remaining for each in answers] == [4, 3, 2, 1, 0]
    assert [each.retry_after_s for each in answers] == [0.0] * 5
    assert [each.reset_s for each in answers] == pytest.approx([10, 20, 30, 40, 50], abs=3)
    refused = await cache.take("bucket", 0.1, 5)
    assert (refused.allowed, refused.remaining) == (False, 0)
    assert refused.retry_after_s == pytest.approx(10, abs=3)
    assert refused.reset_s == pytest.approx(50, abs=3)


async def test_a_cost_is_taken_whole_or_not_at_all(cache: Cache) -> None:
    assert (await cache.take("bucket", 0.01, 10, cost=7)).remaining == 3
    refused = await cache.take("bucket", 0.01, 10, cost=4)
    assert (refused.allowed, refused.remaining) == (False, 3)
    assert refused.retry_after_s == pytest.approx(100, abs=3)
    assert (await cache.take("bucket", 0.01, 10, cost=3)).remaining == 0


async def test_a_bucket_fills_again(under_test: CacheUnderTest) -> None:
    cache = under_test.cache
    for _ in range(3):
        assert (await cache.take("bucket", 4, 3)).allowed
    refused = await cache.take("bucket", 4, 3)
    assert not refused.allowed
    await under_test.pass_time(refused.retry_after_s)

    async def refilled() -> bool:
        return (await cache.take("bucket", 4, 3)).allowed

    await eventually(refilled)


async def test_a_bucket_never_holds_more_than_its_burst(under_test: CacheUnderTest) -> None:
    cache = under_test.cache
    assert (await cache.take("bucket", 20, 2)).allowed
    await under_test.pass_time(1)
    answer = await cache.take("bucket", 20, 2)
    assert (answer.allowed, answer.remaining) == (True, 1)


async def test_buckets_do_not_share(cache: Cache) -> None:
    assert (await cache.take("one", 0.01, 1)).allowed
    assert (await cache.take("two", 0.01, 1)).allowed
    assert not (await cache.take("one", 0.01, 1)).allowed


async def test_of_many_who_take_the_burst_gets_some(cache: Cache) -> None:
    answers = await asyncio.gather(*(cache.take("bucket", 0.001, 10) for _ in range(50)))
    assert sum(answer.allowed for answer in answers) == 10


@pytest.mark.parametrize(
    ("rate_per_s", "burst", "cost"),
    [
        (0, 1, 1),
        (-1, 1, 1),
        (float("nan"), 1, 1),
        (float("inf"), 1, 1),
        (1, 0, 1),
        (1, BURST_MAX + 1, 1),
        (1, 5, 0),
        (1, 5, 6),
    ],
)
async def test_a_bucket_that_makes_no_sense_is_refused(
    cache: Cache, rate_per_s: float, burst: int, cost: int
) -> None:
    with pytest.raises(Invalid):
        await cache.take("bucket", rate_per_s, burst, cost)


async def test_a_held_lock_is_busy_for_others_and_free_afterwards(cache: Cache) -> None:
    async with cache.lock("name", LONG_S) as lock:
        with pytest.raises(Busy) as caught:
            async with cache.lock("name", LONG_S):
                pytest.fail("two hold one lock")
        assert caught.value.retry_after_s is not None
        assert 0 < caught.value.retry_after_s <= LONG_S
        assert lock.token
        async with cache.lock("other", LONG_S) as other:
            assert other.token != lock.token
    assert await can_lock(cache, "name")


async def test_of_many_who_lock_one_does(cache: Cache) -> None:
    async with AsyncExitStack() as stack:

        async def take() -> bool:
            try:
                await stack.enter_async_context(cache.lock("name", LONG_S))
            except Busy:
                return False
            return True

        answers = await asyncio.gather(*(take() for _ in range(30)))
        assert answers.count(True) == 1


async def test_a_lock_is_free_after_an_error_in_its_block(cache: Cache) -> None:
    with pytest.raises(ZeroDivisionError):
        async with cache.lock("name", LONG_S):
            raise ZeroDivisionError
    assert await can_lock(cache, "name")


async def test_a_lock_is_free_after_its_holder_was_cancelled(cache: Cache) -> None:
    holding = asyncio.Event()

    async def hold() -> None:
        async with cache.lock("name", LONG_S):
            holding.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await asyncio.wait_for(holding.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await can_lock(cache, "name")


async def test_a_lock_ends_and_its_late_holder_frees_nothing(under_test: CacheUnderTest) -> None:
    cache = under_test.cache
    async with AsyncExitStack() as late:
        first = await late.enter_async_context(cache.lock("name", SHORT_S))
        await under_test.pass_time(SHORT_S)
        await eventually(lambda: can_lock(cache, "name"))
        async with cache.lock("name", LONG_S) as second:
            assert second.token != first.token
            with pytest.raises(LeaseLost):
                await first.extend()
            await late.aclose()
            assert not await can_lock(cache, "name")
            await second.extend()


async def test_an_ended_lock_cannot_be_extended_even_if_nobody_took_it(
    under_test: CacheUnderTest,
) -> None:
    cache = under_test.cache
    async with cache.lock("name", SHORT_S) as lock:
        await under_test.pass_time(SHORT_S)
        await eventually(lambda: can_lock(cache, "name"))
        with pytest.raises(LeaseLost):
            await lock.extend(LONG_S)


async def test_an_extended_lock_is_held_longer(under_test: CacheUnderTest) -> None:
    cache = under_test.cache
    async with cache.lock("name", 1.0) as lock, cache.lock("witness", 1.0):
        await lock.extend(LONG_S)
        await under_test.pass_time(1.0)
        await eventually(lambda: can_lock(cache, "witness"))
        assert not await can_lock(cache, "name")
    assert await can_lock(cache, "name")


async def test_extending_without_a_time_means_the_first_one(under_test: CacheUnderTest) -> None:
    cache = under_test.cache
    async with cache.lock("name", LONG_S) as lock:
        await lock.extend(SHORT_S)
        await lock.extend()
        async with cache.lock("witness", SHORT_S):
            await under_test.pass_time(SHORT_S)
            await eventually(lambda: can_lock(cache, "witness"))
        assert not await can_lock(cache, "name")


async def test_a_lock_can_be_cut_short(under_test: CacheUnderTest) -> None:
    cache = under_test.cache
    async with cache.lock("name", LONG_S) as lock:
        await lock.extend(SHORT_S)
        await under_test.pass_time(SHORT_S)
        await eventually(lambda: can_lock(cache, "name"))


async def test_a_cache_that_works_says_so_and_closes_twice(cache: Cache) -> None:
    await cache.check()
    await cache.aclose()
    await cache.aclose()

"""What the cache in memory adds to the contract: its bounds, and what goes at them."""

from contextlib import AsyncExitStack
from datetime import UTC, datetime

import pytest

from limner.core.clock import HeldClock
from limner.core.errors import Busy
from limner.storage.cache.memory import MemoryCache


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock(datetime(2026, 11, 22, tzinfo=UTC))


async def kept(cache: MemoryCache, *keys: str) -> list[str]:
    return [key for key in keys if await cache.get(key) is not None]


async def test_the_values_longest_unused_go_first(clock: HeldClock) -> None:
    cache = MemoryCache(clock, max_entries=3)
    for key in ("a", "b", "c"):
        await cache.set(key, b"x", 60)
    await cache.get("a")
    await cache.set("d", b"x", 60)
    assert await kept(cache, "a", "b", "c", "d") == ["a", "c", "d"]


async def test_values_that_have_ended_go_before_any_that_live(clock: HeldClock) -> None:
    cache = MemoryCache(clock, max_entries=2)
    await cache.set("old", b"x", 60)
    await cache.set("brief", b"x", 1)
    clock.advance(1)
    await cache.set("new", b"x", 60)
    assert await kept(cache, "old", "brief", "new") == ["old", "new"]


async def test_values_go_when_their_bytes_are_too_many(clock: HeldClock) -> None:
    cache = MemoryCache(clock, max_bytes=100)
    for key in ("a", "b", "c"):
        await cache.set(key, bytes(40), 60)
    assert await kept(cache, "a", "b", "c") == ["b", "c"]
    await cache.set("b", bytes(60), 60)
    assert await kept(cache, "a", "b", "c") == ["b", "c"]
    await cache.delete("c")
    await cache.set("d", bytes(40), 60)
    assert await kept(cache, "b", "c", "d") == ["b", "d"]
    clock.advance(60)
    await cache.set("e", bytes(100), 60)
    assert await kept(cache, "b", "d", "e") == ["e"]


async def test_a_limited_bucket_outlasts_a_flood_of_fresh_ones(clock: HeldClock) -> None:
    cache = MemoryCache(clock, max_entries=100)
    for _ in range(10):
        assert (await cache.take("limited", 0.1, 10)).allowed
    for number in range(1_000):
        assert (await cache.take(f"fresh {number}", 0.1, 10)).allowed
    assert not (await cache.take("limited", 0.1, 10)).allowed


async def test_full_buckets_are_not_remembered(clock: HeldClock) -> None:
    cache = MemoryCache(clock)
    for number in range(1_000):
        await cache.take(f"bucket {number}", 1, 10)
    clock.advance(1)
    await cache.take("last", 1, 10)
    assert len(cache._buckets) == 1


async def test_locks_are_never_dropped_but_one_more_is_refused(clock: HeldClock) -> None:
    cache = MemoryCache(clock, max_entries=3)
    async with AsyncExitStack() as stack:
        locks = [await stack.enter_async_context(cache.lock(name, 60)) for name in ("a", "b", "c")]
        with pytest.raises(Busy):
            await stack.enter_async_context(cache.lock("d", 60))
        for lock in locks:
            await lock.extend()
        clock.advance(60)
        await stack.enter_async_context(cache.lock("d", 60))


async def test_a_busy_lock_says_how_long_it_can_last(clock: HeldClock) -> None:
    cache = MemoryCache(clock)
    async with cache.lock("a", 60):
        clock.advance(20)
        with pytest.raises(Busy) as caught:
            async with cache.lock("a", 60):
                pytest.fail("two hold one lock")
    assert caught.value.retry_after_s == 40


async def test_memory_stays_bounded_under_endless_use(clock: HeldClock) -> None:
    cache = MemoryCache(clock, max_entries=50)
    for number in range(5_000):
        await cache.set(f"value {number % 90}", b"x", 60)
        await cache.take(f"bucket {number % 90}", 100, 10)
        async with cache.lock(f"lock {number % 90}", 60) as lock:
            await lock.extend()
        clock.advance(0.01)
    for deadlines in (cache._value_ends, cache._buckets, cache._lock_ends):
        assert len(deadlines) <= 50
        assert len(deadlines._heap) <= 2 * 50 + 64
    assert len(cache._values) == len(cache._value_ends)
    assert cache._values_bytes == len(cache._values)
    assert cache._holders == {}

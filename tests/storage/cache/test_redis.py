"""What the cache in Redis adds to the contract: lost servers, lost connections, many processes."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis

from limner.core.errors import Busy, EngineUnavailable, LeaseLost
from limner.storage.cache.redis import RedisCache
from tests.contracts.engines import eventually, require
from tests.engines import missing, shared
from tests.engines.redis import RedisServer

pytestmark = pytest.mark.real

LONG_S = 600.0
BRIEF_S = 0.3


@pytest.fixture(autouse=True)
def _needed() -> None:
    require("redis", missing.no_redis())


@pytest.fixture
async def url() -> str:
    return await asyncio.to_thread(shared.redis().fresh_database)


@pytest.fixture
async def cache(url: str) -> AsyncIterator[RedisCache]:
    opened = RedisCache(url)
    yield opened
    await opened.aclose()


@pytest.fixture
async def beside(url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(url) as client:
        yield client


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """Give a server of this test's own, which it may stop and kill."""
    with RedisServer(tmp_path / "redis") as private:
        yield private


@pytest.fixture
async def own(server: RedisServer) -> AsyncIterator[RedisCache]:
    """Give a cache on the private server that gives up soon."""
    opened = RedisCache(server.url, connections=2, call_s=BRIEF_S)
    yield opened
    await opened.aclose()


async def works(cache: RedisCache) -> bool:
    try:
        await cache.set("works", b"yes", LONG_S)
    except EngineUnavailable:
        return False
    return await cache.get("works") == b"yes"


async def test_all_that_is_kept_has_our_name_and_an_end(cache: RedisCache, beside: Redis) -> None:
    await cache.set("a", b"x", 60)
    await cache.take("b", 1, 10)
    await cache.check()
    async with cache.lock("c", 60):
        keys = [key async for key in beside.scan_iter()]
        assert sorted(keys) == [b"limner:b:b", b"limner:c:probe", b"limner:l:c", b"limner:v:a"]
        assert all([await beside.pttl(key) > 0 for key in keys])


async def test_a_bucket_that_is_full_again_is_forgotten(cache: RedisCache, beside: Redis) -> None:
    assert (await cache.take("b", 20, 5)).remaining == 4

    async def forgotten() -> bool:
        return not await beside.exists("limner:b:b")

    await eventually(forgotten)
    assert (await cache.take("b", 20, 5)).remaining == 4


async def test_values_and_locks_end_by_the_clock_of_the_server(cache: RedisCache) -> None:
    await cache.set("a", b"x", 0.05)
    async with AsyncExitStack() as late:
        first = await late.enter_async_context(cache.lock("name", 0.05))

        async def ended() -> bool:
            return await cache.get("a") is None and not await beside_lock(cache)

        await eventually(ended)
        with pytest.raises(LeaseLost):
            await first.extend()


async def beside_lock(cache: RedisCache) -> bool:
    """Say whether the lock is held by someone."""
    try:
        async with cache.lock("name", LONG_S):
            return False
    except Busy:
        return True


async def test_a_stolen_lock_is_not_freed_by_its_late_holder(url: str) -> None:
    one, other = RedisCache(url), RedisCache(url)
    async with AsyncExitStack() as late, AsyncExitStack() as stack:
        stack.push_async_callback(one.aclose)
        stack.push_async_callback(other.aclose)
        lock = await late.enter_async_context(one.lock("name", 0.02))

        async def stolen() -> bool:
            try:
                await stack.enter_async_context(other.lock("name", LONG_S))
            except Busy:
                return False
            return True

        await eventually(stolen)
        with pytest.raises(LeaseLost):
            await lock.extend()
        await late.aclose()
        assert await beside_lock(one)


async def test_what_someone_else_wrote_into_a_bucket_counts_as_a_full_one(
    cache: RedisCache, beside: Redis
) -> None:
    await beside.set("limner:b:b", b"rubbish")
    assert (await cache.take("b", 0.01, 2)).remaining == 1
    assert (await cache.take("b", 0.01, 2)).remaining == 0


TAKERS = """
import asyncio, sys
from limner.storage.cache.redis import RedisCache

async def main():
    cache = RedisCache(sys.argv[1])
    answers = await asyncio.gather(*(cache.take("shared", 0.0001, 100) for _ in range(60)))
    print(sum(answer.allowed for answer in answers))
    await cache.aclose()

asyncio.run(main())
"""


async def test_many_processes_take_a_burst_and_not_one_more(url: str) -> None:
    async def run() -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", TAKERS, url, stdout=asyncio.subprocess.PIPE
        )
        told, _ = await process.communicate()
        return int(told)

    assert sum(await asyncio.gather(*(run() for _ in range(4)))) == 100


async def test_forgotten_scripts_are_told_again(cache: RedisCache, beside: Redis) -> None:
    assert (await cache.take("b", 0.01, 3)).remaining == 2
    async with cache.lock("name", LONG_S) as lock:
        await beside.script_flush()
        assert (await cache.take("b", 0.01, 3)).remaining == 1
        await lock.extend()
        await beside.script_flush()
    assert not await beside_lock(cache)


async def test_a_flushed_server_is_an_empty_cache(cache: RedisCache, beside: Redis) -> None:
    await cache.set("a", b"x", LONG_S)
    await cache.take("b", 0.01, 1)
    async with cache.lock("name", LONG_S) as lock:
        await beside.flushdb()
        assert await cache.get("a") is None
        assert (await cache.take("b", 0.01, 1)).allowed
        with pytest.raises(LeaseLost):
            await lock.extend()


async def test_a_server_that_was_killed_and_came_back_is_used_on(
    server: RedisServer, own: RedisCache
) -> None:
    await own.set("a", b"x", LONG_S)
    await asyncio.to_thread(server.kill)
    for call in (own.get("a"), own.take("b", 1, 1), own.check(), own.delete("a")):
        with pytest.raises(EngineUnavailable, match="out of reach"):
            await call
    await asyncio.to_thread(server.start)
    assert await own.get("a") is None
    assert (await own.take("b", 1, 1)).allowed
    async with own.lock("name", LONG_S):
        assert await beside_lock(own)


async def test_an_idle_connection_whose_server_went_away_fails_no_call(
    server: RedisServer, own: RedisCache
) -> None:
    await asyncio.gather(own.get("a"), own.get("b"))
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    assert await asyncio.gather(*(own.get(key) for key in ("a", "b"))) == [None, None]


async def test_a_lock_whose_server_is_lost_leaves_its_block_in_peace(
    server: RedisServer, own: RedisCache
) -> None:
    async with own.lock("name", LONG_S) as lock:
        await asyncio.to_thread(server.kill)
        with pytest.raises(EngineUnavailable):
            await lock.extend()


async def test_connections_that_were_cut_are_replaced(cache: RedisCache, beside: Redis) -> None:
    await asyncio.gather(*(cache.get("a") for _ in range(10)))
    killed = await beside.client_kill_filter(_type="normal", skipme=True)
    assert killed >= 10
    await eventually(lambda: works(cache))
    await asyncio.gather(*(cache.get("a") for _ in range(50)))


async def test_a_server_that_does_not_answer_is_left_in_time(
    server: RedisServer, own: RedisCache
) -> None:
    assert await works(own)
    server.signal(signal.SIGSTOP)
    started_s = asyncio.get_running_loop().time()
    # Two connections for ten calls: those who wait for one give up in the same time.
    answers = await asyncio.gather(*(own.get("a") for _ in range(10)), return_exceptions=True)
    took_s = asyncio.get_running_loop().time() - started_s
    server.signal(signal.SIGCONT)
    assert all(isinstance(answer, EngineUnavailable) for answer in answers)
    assert took_s < 5 * BRIEF_S
    await eventually(lambda: works(own))


async def test_the_answer_of_a_cancelled_call_is_nobody_elses(server: RedisServer) -> None:
    cache = RedisCache(server.url, connections=1)
    await cache.set("a", b"of a", LONG_S)
    await cache.set("b", b"of b", LONG_S)
    for cancels in (1, 2):
        server.signal(signal.SIGSTOP)
        task = asyncio.create_task(cache.get("a"))
        for _ in range(5):  # the question goes out, the answer cannot come
            await asyncio.sleep(0)
        for _ in range(cancels):
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.signal(signal.SIGCONT)
        assert await cache.get("b") == b"of b"
        assert await cache.get("a") == b"of a"
    await cache.aclose()


async def test_cancelled_calls_give_their_connections_back(
    server: RedisServer, own: RedisCache
) -> None:
    server.signal(signal.SIGSTOP)
    for _ in range(5):
        tasks = [asyncio.create_task(own.take("b", 1, 1)) for _ in range(4)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    server.signal(signal.SIGCONT)
    assert [await works(own) for _ in range(3)] == [True] * 3


async def test_more_calls_than_connections_wait_for_each_other(url: str) -> None:
    cache = RedisCache(url, connections=1)
    await asyncio.gather(*(cache.add(f"{number}", b"x", LONG_S) for number in range(200)))
    async with Redis.from_url(url) as beside:
        assert await beside.dbsize() == 200
    await cache.aclose()


async def test_a_closed_cache_refuses(url: str) -> None:
    cache = RedisCache(url)
    await cache.check()
    await cache.aclose()
    with pytest.raises(EngineUnavailable, match="closed"):
        await cache.get("a")


async def test_a_wrong_password_is_refused_and_not_told(
    server: RedisServer, own: RedisCache
) -> None:
    assert await works(own)
    async with Redis.from_url(server.url) as admin:
        await admin.config_set("requirepass", "s3cr3t/word")
        base = server.url.removeprefix("redis://")
        right = RedisCache(f"redis://:s3cr3t%2Fword@{base}")
        for url in (server.url, f"redis://:wr0ng@{base}", f"redis://who:wr0ng@{base}"):
            wrong = RedisCache(url)
            with pytest.raises(EngineUnavailable, match="LIMNER_CACHE_URL") as caught:
                await wrong.check()
            assert "wr0ng" not in str(caught.value)
            await wrong.aclose()
        assert await works(right)
        await right.aclose()


async def test_a_full_server_says_so(server: RedisServer, own: RedisCache) -> None:
    async with Redis.from_url(server.url) as admin:
        await admin.config_set("maxmemory", "1")
        for call in (own.set("a", b"x", 60), own.take("b", 1, 1), own.check()):
            with pytest.raises(EngineUnavailable, match="full"):
                await call


async def test_a_replica_says_so(server: RedisServer, own: RedisCache) -> None:
    async with Redis.from_url(server.url) as admin:
        await admin.replicaof("127.0.0.1", "1")
        for call in (own.set("a", b"x", 60), own.take("b", 1, 1), own.check()):
            with pytest.raises(EngineUnavailable, match="primary"):
                await call


async def test_a_database_that_is_not_there_is_an_engine_out_of_reach(server: RedisServer) -> None:
    cache = RedisCache(server.url.removesuffix("0") + "99999")
    with pytest.raises(EngineUnavailable, match="DB index"):
        await cache.check()
    await cache.aclose()

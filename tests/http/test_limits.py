"""Rate limits: per account, per address, over proxies and processes, and without a cache."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer
from redis.asyncio import Redis
from structlog.testing import capture_logs

from limner.core.cache import Allowance, Cache
from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable
from limner.core.settings import HttpSettings
from limner.core.tunables import Tunables
from limner.http.limits import LOOK_AGAIN_S, Buckets, Rate, Rates
from limner.http.server import Options, build_application
from limner.storage.cache.memory import MemoryCache
from limner.storage.cache.redis import RedisCache
from limner.storage.sql.tunables import TunableStore
from tests.contracts.engines import require
from tests.engines import missing, shared
from tests.fakes.front import Stage, problem, staged

RATES = Rates(Rate("account", 1, 3), Rate("anonymous", 0.5, 2))


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    http = HttpSettings(trusted_proxies=("127.0.0.0/8", "10.0.0.0/8"))
    async with staged(migrated_file, tmp_path, clock, rates=RATES, http=http) as opened:
        yield opened


async def test_whoever_asks_too_often_is_told_when_to_come_back(stage: Stage) -> None:
    client = await stage.client()
    first = await client.get("/docs")
    assert first.headers["RateLimit-Policy"] == '"anonymous";q=2;w=4'
    assert first.headers["RateLimit"] == '"anonymous";r=1;t=2'
    assert (await client.get("/docs")).status == 200
    refused = await client.get("/docs")
    assert (await problem(refused))["code"] == "rate_limited"
    assert refused.status == 429
    assert refused.headers["Retry-After"] == "2"
    assert refused.headers["RateLimit"].startswith('"anonymous";r=0')
    stage.clock.advance(2)
    assert (await client.get("/docs")).status == 200


async def test_an_account_has_a_limit_of_its_own_over_all_its_credentials(stage: Stage) -> None:
    nobody = await stage.client()
    for _ in range(3):
        await nobody.get("/docs")
    one, other = await stage.admin(), await stage.admin()
    assert [(await one.get("/api/tasks")).status for _ in range(2)] == [200, 200]
    assert (await other.get("/api/tasks")).status == 200
    assert (await other.get("/api/tasks")).status == 429


async def test_bad_keys_count_for_the_address(stage: Stage) -> None:
    client = await stage.client("lim_" + "x" * 43)
    assert [(await client.get("/api/tasks")).status for _ in range(3)] == [401, 401, 429]


async def test_probes_are_never_refused(stage: Stage) -> None:
    client = await stage.client()
    assert {(await client.get(path)).status for path in ["/livez", "/readyz"] * 5} == {200}


@pytest.mark.parametrize(
    ("hops", "another", "is_same"),
    [
        ("203.0.113.7", "203.0.113.7", True),
        ("203.0.113.7", "203.0.113.8", False),
        ("1.1.1.1, 203.0.113.7", "2.2.2.2, 203.0.113.7", True),
        ("203.0.113.7, 10.0.0.9", "203.0.113.7", True),
        ("nonsense", "203.0.113.7, nonsense", True),
        ("2001:db8:1:2:3::4", "2001:db8:1:2:5::6", True),
        ("2001:db8:1:2::4", "2001:db8:1:3::4", False),
        ("::ffff:203.0.113.7", "203.0.113.7", True),
    ],
)
async def test_behind_a_trusted_proxy_the_client_is_counted(
    stage: Stage, hops: str, another: str, is_same: bool
) -> None:
    client = await stage.client()
    for _ in range(2):
        assert (await client.get("/docs", headers={"X-Forwarded-For": hops})).status == 200
    answer = await client.get("/docs", headers={"X-Forwarded-For": another})
    assert answer.status == (429 if is_same else 200)


async def test_without_a_trusted_proxy_nobody_can_say_who_they_are(
    migrated_file: Path, tmp_path: Path, clock: HeldClock
) -> None:
    async with staged(migrated_file, tmp_path, clock, rates=RATES) as stage:
        client = await stage.client()
        statuses = [
            (await client.get("/docs", headers={"X-Forwarded-For": f"1.1.1.{n}"})).status
            for n in range(3)
        ]
        assert statuses == [200, 200, 429]


class LosableCache(MemoryCache):
    """A cache that can be out of reach; ``asked`` counts how often it was."""

    is_away = False
    asked = 0

    async def take(self, bucket: str, rate_per_s: float, burst: int, cost: int = 1) -> Allowance:
        self.asked += 1
        if self.is_away:
            raise EngineUnavailable("redis is away")
        return await super().take(bucket, rate_per_s, burst, cost)


@asynccontextmanager
async def fronts(
    stage: Stage, *caches: Cache, rates: Rates | None = RATES
) -> AsyncIterator[list[TestClient[Any, Any]]]:
    """Serve one more front over the stage's database for each cache; give a client for each."""
    async with AsyncExitStack() as stack:
        clients = []
        for cache in caches:
            front = replace(
                stage.front,
                cache=cache,
                spare_cache=MemoryCache(stage.clock),
                tunables=TunableStore(stage.clock, stage.front.database.memory("tunables")),
            )
            server = TestServer(build_application(front, Options(rates=rates)), host="127.0.0.1")
            client: TestClient[Any, Any] = TestClient(server)
            await client.start_server()
            stack.push_async_callback(client.close)
            clients.append(client)
        yield clients


async def get(client: TestClient[Any, Any], path: str = "/docs", key: str = "") -> ClientResponse:
    return await client.get(path, headers={"Authorization": f"Bearer {key}"} if key else {})


async def test_two_fronts_with_one_cache_count_together(stage: Stage) -> None:
    cache = MemoryCache(stage.clock)
    key, other = await stage.key("admin"), await stage.key("tasks:read")
    async with fronts(stage, cache, cache) as (one, two):
        assert [(await get(client)).status for client in (one, two, one, two)] == [
            *(200, 200),
            *(429, 429),
        ]
        used = [
            await get(client, "/api/tasks", secret)
            for client, secret in ((one, key), (two, other), (one, other), (two, key))
        ]
        assert [answer.status for answer in used] == [200, 200, 200, 429]
        assert used[-1].headers["RateLimit"] == '"account";r=0;t=3'
        assert used[-1].headers["RateLimit-Policy"] == '"account";q=3;w=3'
        assert used[-1].headers["Retry-After"] == "1"


@pytest.mark.real
async def test_two_fronts_with_one_redis_count_together_and_a_flush_only_fills_the_buckets(
    stage: Stage,
) -> None:
    require("redis", missing.no_redis())
    url = await asyncio.to_thread(shared.redis().fresh_database)
    slow = Rates(Rate("account", 0.001, 3), Rate("anonymous", 0.001, 2))
    async with AsyncExitStack() as stack:
        caches = [RedisCache(url), RedisCache(url)]
        for cache in caches:
            stack.push_async_callback(cache.aclose)
        one, two = await stack.enter_async_context(fronts(stage, *caches, rates=slow))
        assert [(await get(client)).status for client in (one, two, one, two)] == [
            *(200, 200),
            *(429, 429),
        ]
        async with Redis.from_url(url) as line:
            await line.flushdb()
        assert [(await get(client)).status for client in (two, one, two)] == [200, 200, 429]


async def test_without_its_cache_each_process_limits_by_itself(stage: Stage) -> None:
    cache = LosableCache(stage.clock)
    async with fronts(stage, cache, cache) as (one, two):
        cache.is_away = True
        with capture_logs() as logs:
            assert [(await get(one)).status for _ in range(3)] == [200, 200, 429]
            assert [(await get(two)).status for _ in range(3)] == [200, 200, 429]
        told = [line for line in logs if line["event"] == "each process limits rates by itself"]
        assert len(told) == 2


async def test_a_cache_that_is_away_is_asked_now_and_then_and_counts_again_when_it_is_back(
    stage: Stage,
) -> None:
    cache = LosableCache(stage.clock)
    async with fronts(stage, cache) as (client,):
        cache.is_away = True
        for _ in range(5):
            await get(client)
        assert cache.asked == 1
        stage.clock.advance(LOOK_AGAIN_S)
        await get(client)
        assert cache.asked == 2
        cache.is_away = False
        await get(client)
        assert cache.asked == 2
        stage.clock.advance(LOOK_AGAIN_S)
        with capture_logs() as logs:
            assert [(await get(client)).status for _ in range(3)] == [200, 200, 429]
        assert "rates are limited together again" in {line["event"] for line in logs}
        assert cache.asked == 5


async def test_buckets_of_a_process_are_bounded(clock: HeldClock) -> None:
    cache = LosableCache(clock)
    cache.is_away = True
    buckets = Buckets(cache, MemoryCache(clock, max_entries=2), clock)
    for name in ("a", "a", "b", "c"):
        assert (await buckets.take(name, 0.1, 2)).allowed
    assert not (await buckets.take("a", 0.1, 2)).allowed, "whoever is limited stays so"
    assert (await buckets.take("c", 0.1, 2)).remaining == 0
    assert (await buckets.take("b", 0.1, 2)).remaining == 1, "it was forgotten"


async def test_the_settings_say_what_the_rates_are(
    migrated_file: Path, tmp_path: Path, clock: HeldClock
) -> None:
    async with staged(migrated_file, tmp_path, clock, rates=None) as stage:
        admin, nobody = await stage.admin(), await stage.client()
        first = await nobody.get("/docs")
        assert first.headers["RateLimit-Policy"] == '"anonymous";q=50;w=5'
        changes = {"rate_limit_anonymous_per_s": 0.1, "rate_limit_anonymous_burst": 1}
        assert (await admin.put("/api/settings", json=changes)).status == 200
        # Nothing has passed since: what is put here counts here at once.
        assert (await nobody.get("/docs")).headers["RateLimit-Policy"] == '"anonymous";q=1;w=10'
        assert (await nobody.get("/docs")).status == 429


async def test_what_another_process_sets_counts_here_within_three_seconds(stage: Stage) -> None:
    cache = MemoryCache(stage.clock)
    async with fronts(stage, cache, rates=None) as (client,):
        key = await stage.key("admin")
        await get(client)
        change = {"rate_limit_account_burst": 7}
        # As another process does: its commits are no news to the memories of this one.
        elsewhere = stage.front.database._memories
        stage.front.database._memories = {}
        admin = await stage.admin()
        assert (await admin.put("/api/settings", json=change)).status == 200
        stage.front.database._memories = elsewhere
        assert "q=200" in (await get(client, "/api/tasks", key)).headers["RateLimit-Policy"]
        stage.clock.advance(3)
        assert "q=7" in (await get(client, "/api/tasks", key)).headers["RateLimit-Policy"]


async def test_without_a_database_the_rates_that_counted_last_count(
    migrated_file: Path, tmp_path: Path, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []

    async def fail() -> Tunables:
        reads.append(1)
        raise EngineUnavailable("away")

    async with staged(migrated_file, tmp_path, clock, rates=None) as stage:
        client = await stage.client()
        await client.get("/nothing-here")
        monkeypatch.setattr(stage.front.tunables, "current", fail)
        for _ in range(3):
            assert "q=50" in (await client.get("/nothing-here")).headers["RateLimit-Policy"]
        assert len(reads) == 1
        stage.clock.advance(3)
        await client.get("/nothing-here")
        assert len(reads) == 2


@pytest.mark.parametrize("path", ["/docs", "/nothing-here", "/api/tasks", "/api/nothing"])
async def test_every_answer_that_was_counted_tells_what_is_left(stage: Stage, path: str) -> None:
    client = await stage.client()
    answers = [await client.get(path) for _ in range(3)]
    assert answers[-1].status == 429
    for answer in answers:
        assert {"RateLimit", "RateLimit-Policy"} <= set(answer.headers)

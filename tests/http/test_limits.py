"""Rate limits: per account, per address, over proxies and processes, and without a cache."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from secrets import token_urlsafe
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
from limner.http.auth import callers
from limner.http.auth.callers import Caller, LookUp
from limner.http.limits import DOUBTED_S, LOOK_AGAIN_S, Buckets, Rate, Rates
from limner.http.ports import Front
from limner.http.server import Options, build_application
from limner.storage.cache.memory import MemoryCache
from limner.storage.cache.redis import RedisCache
from limner.storage.sql.accounts import ApiKey, revoke_key
from limner.storage.sql.remembered import LIFE_S
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


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give what the database was asked about: an entry for each look for who calls."""
    found: list[str] = []

    def counted(name: str) -> None:
        look_up: LookUp = getattr(callers, name)

        async def look(front: Front, secret: str, credential: str) -> Caller:
            found.append(credential)
            return await look_up(front, secret, credential)

        monkeypatch.setattr(callers, name, look)

    for name in ("_by_key", "_by_token", "_by_cookie"):
        counted(name)
    return found


def invented(kind: str) -> dict[str, str]:
    """Give headers with a credential that is nobody's."""
    if kind == "cookie":
        return {"Cookie": f"limner_session={token_urlsafe()}"}
    return {"Authorization": f"Bearer {'lim_' if kind == 'key' else ''}{token_urlsafe()}"}


async def flood(client: TestClient[Any, Any], kind: str = "key", times: int = 20) -> Counter[int]:
    """Send invented credentials; say how often which status came."""
    statuses = Counter[int]()
    for _ in range(times):
        answer = await client.get("/api/tasks", headers=invented(kind))
        statuses[answer.status] += 1
        assert answer.status == 401 or int(answer.headers["Retry-After"]) > 0
    return statuses


@pytest.mark.parametrize("kind", ["key", "token", "cookie"])
async def test_who_invents_credentials_cannot_have_the_database_asked_at_will(
    stage: Stage, looks: list[str], kind: str
) -> None:
    client = await stage.client()
    assert await flood(client, kind) == {401: 2, 429: 18}
    assert len(looks) == 3, "the bucket, and the one that found it empty"
    stage.clock.advance(2)
    assert await flood(client, kind) == {401: 1, 429: 19}
    assert len(looks) == 4, "what has come in since, and no more"


async def test_who_was_let_in_before_is_not_locked_out_by_others_of_the_address(
    stage: Stage, looks: list[str]
) -> None:
    secret = await stage.key("admin")
    known = await stage.client(secret)
    browser = await stage.signed_in()
    assert (await known.get("/api/tasks")).status == 200
    assert (await browser.get("/api/tasks")).status == 200
    other = await stage.client()
    await flood(other)
    stage.clock.advance(LIFE_S)
    await flood(other)
    looks.clear()
    for client in (known, browser):
        answer = await client.get("/api/tasks")
        assert answer.status == 200
        assert answer.headers["RateLimit-Policy"].startswith('"account"')
    assert len(looks) == 2, "what was remembered of them is over; they are looked up anew"


async def test_a_newcomer_gets_in_as_soon_as_the_flood_leaves_a_unit(
    stage: Stage, looks: list[str]
) -> None:
    await flood(await stage.client())
    looks.clear()
    newcomer = await stage.admin()
    refused = await newcomer.get("/api/tasks")
    assert (refused.status, (await problem(refused))["code"]) == (429, "rate_limited")
    assert refused.headers["RateLimit-Policy"].startswith('"anonymous"')
    assert looks == []
    stage.clock.advance(float(refused.headers["Retry-After"]))
    answer = await newcomer.get("/api/tasks")
    assert answer.status == 200
    assert answer.headers["RateLimit"].startswith('"account";r=2'), "it counts for the account too"
    assert (await newcomer.get("/api/tasks")).status == 200, "from now on it is known"


async def test_a_credential_that_ends_is_worth_no_more_looks_than_an_invented_one(
    stage: Stage, looks: list[str]
) -> None:
    client = await stage.admin()
    assert (await client.get("/api/tasks")).status == 200
    await flood(await stage.client())
    work = stage.work()
    revoke_key(work, await ApiKey.get())
    await stage.front.units.commit(work)
    looks.clear()
    assert [(await client.get("/api/tasks")).status for _ in range(4)] == [429] * 4
    assert len(looks) == 1


async def test_an_address_in_doubt_costs_those_who_are_known_no_more_than_before(
    stage: Stage,
) -> None:
    cache = LosableCache(stage.clock)
    secret = await stage.key("admin")
    async with fronts(stage, cache) as (client,):
        assert (await get(client, "/api/tasks", secret)).status == 200
        await flood(client)
        cache.asked = 0
        assert (await get(client, "/api/tasks", secret)).status == 200
        assert cache.asked == 1
        assert (await get(client)).status == 429
        assert cache.asked == 2, "a visitor is counted once too"


async def test_after_a_minute_without_bad_credentials_an_address_is_no_longer_in_doubt(
    stage: Stage,
) -> None:
    cache = LosableCache(stage.clock)
    async with fronts(stage, cache) as (client,):
        await flood(client)
        stage.clock.advance(DOUBTED_S - 1)
        # Both of the bucket's units are there, and taken before the look.
        assert await flood(client, times=2) == {401: 2}
        stage.clock.advance(DOUBTED_S - 1)
        cache.asked = 0
        assert (await get(client, "/api/tasks", await stage.key("admin"))).status == 200
        assert cache.asked == 2, "the last bad one was less than a minute ago"
        stage.clock.advance(1)
        cache.asked = 0
        assert (await get(client, "/api/tasks", await stage.key("admin"))).status == 200
        assert cache.asked == 1


async def test_one_bad_credential_brings_no_address_into_doubt(stage: Stage) -> None:
    """A key that was revoked and is still used somewhere must not slow the company down."""
    cache = LosableCache(stage.clock)
    async with fronts(stage, cache) as (client,):
        assert await flood(client, times=2) == {401: 2}
        cache.asked = 0
        assert (await get(client, "/api/tasks", await stage.key("admin"))).status == 200
        assert cache.asked == 1


async def test_visitors_who_come_too_often_bring_no_address_into_doubt(stage: Stage) -> None:
    visitor = await stage.client()
    assert [(await visitor.get("/docs")).status for _ in range(4)] == [200, 200, 429, 429]
    assert (await (await stage.admin()).get("/api/tasks")).status == 200


async def test_behind_a_proxy_each_address_is_doubted_for_itself(
    stage: Stage, looks: list[str]
) -> None:
    client = await stage.client()
    mine, other = {"X-Forwarded-For": "203.0.113.7"}, {"X-Forwarded-For": "203.0.113.8"}
    for _ in range(5):
        await client.get("/api/tasks", headers={**invented("key"), **mine})
    looks.clear()
    newcomer = await stage.admin()
    assert (await newcomer.get("/api/tasks", headers=other)).status == 200
    assert (await (await stage.admin()).get("/api/tasks", headers=mine)).status == 429
    assert len(looks) == 1


@pytest.mark.parametrize("path", ["/livez?verbose", "/static/docs.css?verbose"])
async def test_only_the_report_of_a_probe_is_counted(stage: Stage, path: str) -> None:
    client = await stage.client()
    assert 429 not in {(await client.get(path)).status for _ in range(5)}
    reports = [(await client.get("/readyz?verbose")).status for _ in range(3)]
    assert reports == [401, 401, 429]

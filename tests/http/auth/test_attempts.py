"""Attempts to sign in: guessing is slow, and the owner is never locked out by who guesses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs

from limner.core.cache import Allowance, Cache
from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable
from limner.core.ids import new_id
from limner.core.settings import HttpSettings
from limner.http.auth.attempts import DEVICE_LIFE_S
from limner.http.auth.passwords import hash_password
from limner.http.server import Options, build_application
from limner.storage.cache.memory import MemoryCache
from limner.storage.cache.redis import RedisCache
from limner.storage.sql.accounts import User
from tests.contracts.engines import require
from tests.engines import missing, shared
from tests.fakes.front import PLENTY, Stage, problem, staged
from tests.fakes.letters import Letters

ANNA = "anna@example.org"
BEN = "ben@example.org"
GOOD = "correct horse battery"
BAD = "not this one"
HERE = "203.0.113.7"

Client = TestClient[Any, Any]


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    http = HttpSettings(trusted_proxies=("127.0.0.0/8",))
    async with staged(migrated_file, tmp_path, clock, http=http) as opened:
        for email in (ANNA, BEN):
            ident = new_id("user")
            await opened.add(
                User(
                    id=ident,
                    user_id=ident,
                    state="active",
                    email=email,
                    verified_at=clock.now(),
                    password_hash=await hash_password(GOOD),
                )
            )
        yield opened


async def log_in(
    client: Client, password: str = GOOD, email: str = ANNA, address: str = HERE
) -> ClientResponse:
    return await client.post(
        "/api/auth/login",
        json={"email": email, "password": password},
        headers={"X-Forwarded-For": address},
    )


async def guesses(
    client: Client, count: int, email: str = ANNA, address: str = "198.51.100.9"
) -> list[int]:
    """Try ``count`` wrong passwords; ``{n}`` in the address is the number of the try."""
    answers = [
        await log_in(client, BAD, email.format(n=n), address.format(n=n)) for n in range(count)
    ]
    for answer in answers:
        if answer.status == 429:
            assert (await problem(answer))["code"] == "rate_limited"
            assert 1 <= int(answer.headers["Retry-After"]) <= 180
    return [answer.status for answer in answers]


@pytest.mark.parametrize("address", ["198.51.100.9", "198.51.100.{n}"], ids=["one", "many"])
async def test_of_a_hundred_guesses_at_one_account_ten_are_looked_at(
    stage: Stage, address: str
) -> None:
    client = await stage.client()
    assert await guesses(client, 100, address=address) == [401] * 10 + [429] * 90
    stage.clock.advance(6.0)
    assert await guesses(client, 2, address=address) == [401, 429]


async def test_an_account_that_does_not_exist_is_slowed_down_like_any_other(stage: Stage) -> None:
    client = await stage.client()
    assert await guesses(client, 12, "nobody@example.org") == [401] * 10 + [429] * 2


async def test_of_a_hundred_guesses_from_one_address_sixty_are_looked_at(stage: Stage) -> None:
    client = await stage.client()
    assert await guesses(client, 100, "n{n}@example.org") == [401] * 60 + [429] * 40
    assert (await log_in(await stage.client())).status == 200


async def test_who_guesses_on_for_hours_gets_slower_still(stage: Stage) -> None:
    await stage.settings(login_limit_per_account_per_min=2)
    client, looked_at = await stage.client(), 0
    for minute in range(60):
        looked_at += (await guesses(client, 2, address=f"198.51.{minute}.9")).count(401)
        stage.clock.advance(60.0)
    # 20 in a full bucket of the hour, and another 20 that fill in during it.
    assert 38 <= looked_at <= 40


async def test_the_owners_browser_gets_in_while_others_guess(stage: Stage) -> None:
    browser = await stage.client()
    assert (await log_in(browser)).status == 200
    guesser = await stage.client()
    await guesses(guesser, 30, address="198.51.100.{n}")
    await guesses(guesser, 70, "n{n}@example.org", address=HERE)
    assert (await log_in(guesser, address=HERE)).status == 429
    assert (await log_in(browser)).status == 200
    assert (await log_in(browser, address="192.0.2.44")).status == 200


async def test_the_owners_program_gets_in_from_where_it_did_before(stage: Stage) -> None:
    for _ in range(30):
        assert (await log_in(await stage.client())).status == 200
    await guesses(await stage.client(), 30, address="198.51.100.{n}")
    assert (await log_in(await stage.client())).status == 200


async def test_an_owner_who_comes_from_elsewhere_sets_a_new_password_and_gets_in(
    stage: Stage,
) -> None:
    await guesses(await stage.client(), 30, address="198.51.100.{n}")
    letters, elsewhere = Letters(stage), await stage.client()
    assert (await log_in(elsewhere)).status == 429
    await elsewhere.post("/api/auth/password/forgot", json={"email": ANNA})
    body = {"token": await letters.token(), "password": "another horse battery"}
    answer = await elsewhere.post("/api/auth/password/reset", json=body)
    assert answer.status == 204
    assert (await log_in(elsewhere, "another horse battery")).status == 200


async def test_a_known_browser_may_fail_as_often_as_others_and_begins_anew_after_a_success(
    stage: Stage,
) -> None:
    browser = await stage.client()
    await log_in(browser)
    for _ in range(2):
        assert [(await log_in(browser, BAD)).status for _ in range(9)] == [401] * 9
        assert (await log_in(browser)).status == 200
    assert [(await log_in(browser, BAD)).status for _ in range(12)] == [401] * 10 + [429] * 2
    assert (await log_in(browser)).status == 429
    stage.clock.advance(6.0)
    assert (await log_in(browser)).status == 200


async def test_a_cookie_counts_for_its_account_only_and_not_when_forged_or_old(
    stage: Stage,
) -> None:
    browser = await stage.client()
    await log_in(browser, email=BEN)
    await guesses(await stage.client(), 30, address="198.51.100.{n}")
    assert (await log_in(browser)).status == 429
    assert (await log_in(browser, email=BEN)).status == 200
    forged = await stage.client()
    forged.session.cookie_jar.update_cookies({"limner_device": "AQ-forged"})
    assert (await log_in(forged)).status == 429
    stage.clock.advance(DEVICE_LIFE_S)
    await guesses(await stage.client(), 70, BEN, address="198.51.100.{n}")
    assert (await log_in(browser, email=BEN, address="192.0.2.1")).status == 429


async def test_the_cookie_says_nothing_and_no_script_reads_it(
    stage: Stage,
) -> None:
    answer = await log_in(await stage.client())
    (cookie,) = answer.headers.getall("Set-Cookie")
    assert cookie.startswith("limner_device=")
    for word in ("HttpOnly", "SameSite=Lax", "Path=/", f"Max-Age={DEVICE_LIFE_S}"):
        assert word in cookie
    assert ANNA not in cookie
    refused = await log_in(await stage.client(), BAD)
    assert "Set-Cookie" not in refused.headers


async def test_over_https_the_cookie_is_bound_to_host_and_encryption(
    migrated_file: Path, tmp_path: Path, clock: HeldClock
) -> None:
    async with staged(migrated_file, tmp_path, clock, public_url="https://x.test") as stage:
        ident = new_id("user")
        hashed = await hash_password(GOOD)
        await stage.add(
            User(
                id=ident,
                user_id=ident,
                state="active",
                email=ANNA,
                verified_at=clock.now(),
                password_hash=hashed,
            )
        )
        (cookie,) = (await log_in(await stage.client())).headers.getall("Set-Cookie")
    assert cookie.startswith("__Host-limner_device=")
    assert "Secure" in cookie
    assert "Domain" not in cookie


class WatchedCache(MemoryCache):
    """A cache that notes all names, and that can be out of reach."""

    def __init__(self, clock: HeldClock) -> None:
        super().__init__(clock)
        self.names: list[str] = []
        self.is_away = False

    async def take(self, bucket: str, rate_per_s: float, burst: int, cost: int = 1) -> Allowance:
        self._note(bucket)
        return await super().take(bucket, rate_per_s, burst, cost)

    async def get(self, key: str) -> bytes | None:
        self._note(key)
        return await super().get(key)

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        self._note(key)
        await super().set(key, value, ttl_s)

    def _note(self, name: str) -> None:
        if self.is_away:
            raise EngineUnavailable("redis is away")
        self.names.append(name)


@asynccontextmanager
async def fronts(stage: Stage, *caches: Cache) -> AsyncIterator[list[Client]]:
    """Serve one more front over the stage's database for each cache; give a client for each."""
    async with AsyncExitStack() as stack:
        clients = []
        for cache in caches:
            application = build_application(
                replace(stage.front, cache=cache), Options(rates=PLENTY)
            )
            client: Client = TestClient(TestServer(application, host="127.0.0.1"))
            await client.start_server()
            stack.push_async_callback(client.close)
            clients.append(client)
        yield clients


async def test_the_cache_is_told_no_address(stage: Stage) -> None:
    cache = WatchedCache(stage.clock)
    async with fronts(stage, cache) as (client,):
        await log_in(client, BAD)
        await log_in(client)
        await log_in(client)
        client.session.cookie_jar.clear()
        await log_in(client)
        await client.post("/api/auth/password/forgot", json={"email": ANNA})
    names = [name for name in cache.names if not name.startswith("http:")]
    assert {name.split(":")[1] for name in names} >= {"account", "address", "near", "device"}
    assert not [name for name in names if "@" in name or HERE in name or "127.0.0.1" in name]


async def test_without_the_cache_each_process_counts_and_the_operator_is_told(stage: Stage) -> None:
    cache = WatchedCache(stage.clock)
    async with fronts(stage, cache) as (client,):
        cache.is_away = True
        with capture_logs() as logs:
            assert (await log_in(client)).status == 200
            client.session.cookie_jar.clear()
            assert await guesses(client, 15) == [401] * 9 + [429] * 6
    told = [line for line in logs if "limits rates by itself" in line["event"]]
    assert told
    assert {line["log_level"] for line in told} == {"warning"}


async def test_two_processes_count_together(stage: Stage) -> None:
    cache = MemoryCache(stage.clock)
    async with fronts(stage, cache, cache) as (one, two):
        assert await guesses(one, 6) + await guesses(two, 6) == [401] * 10 + [429] * 2


@pytest.mark.real
async def test_two_processes_count_together_in_redis(stage: Stage) -> None:
    require("redis", missing.no_redis())
    url = await asyncio.to_thread(shared.redis().fresh_database)
    # So slow that the time this takes fills in nothing.
    await stage.settings(login_limit_per_account_per_min=1)
    async with AsyncExitStack() as stack:
        caches = [RedisCache(url), RedisCache(url)]
        for cache in caches:
            stack.push_async_callback(cache.aclose)
        one, two = await stack.enter_async_context(fronts(stage, *caches))
        assert await guesses(one, 1) == [401]
        answer = await log_in(two, BAD, address="192.0.2.5")
        assert answer.status == 429
        assert 1 <= int(answer.headers["Retry-After"]) <= 60

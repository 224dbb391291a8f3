"""Rate limits: per account, per address, over proxies, and never because the cache is away."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from limner.core.cache import Allowance
from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable
from limner.core.settings import HttpSettings
from limner.http.limits import Rate, Rates
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


async def test_a_cache_that_is_out_of_reach_limits_nobody(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> Allowance:
        raise EngineUnavailable("redis is away")

    monkeypatch.setattr(stage.front.cache, "take", fail)
    client = await stage.client()
    assert {(await client.get("/docs")).status for _ in range(5)} == {200}

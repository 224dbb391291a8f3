"""The token bucket's script decides as ``gcra`` does, whatever rates, bursts, costs and times.

The script is run as it is, but the time comes from the test and not from the server. Where one
bucket lives through many such times, it is also kept from ending by the server's.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fractions import Fraction
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from limner.core import cache
from limner.core.cache import BURST_MAX, RATE_MAX_PER_S, RATE_MIN_PER_S, gcra
from limner.storage.cache import redis
from tests.contracts.engines import require
from tests.engines import missing, shared

pytestmark = pytest.mark.real

KEY = "limner:b:tested"
SERVER_TIME = "redis.call('TIME')"
NOW_S = 1_795_348_800
SERVER_END = ", 'PX', string.format('%.0f', math.ceil(after * 1000))"
TAKE = redis.TAKE.text.replace(SERVER_TIME, "{ARGV[5], ARGV[6]}")
ENDLESS_TAKE = TAKE.replace(SERVER_END, "")
# What is left is told by the script itself, whose time stands still: some buckets live 1 ms.
ANSWER = "return string.format('%.17g', ahead)"
TELLING_TAKE = TAKE.replace(
    ANSWER,
    "return {string.format('%.17g', ahead), redis.call('GET', KEYS[1]), "
    "redis.call('PTTL', KEYS[1])}",
)

rates = st.one_of(
    st.floats(RATE_MIN_PER_S, RATE_MAX_PER_S),
    st.sampled_from([1e-6, 1 / 60, 0.1, 1 / 3, 1.0, 10.0, 50.0, 999.0, 1e6]),
)
bursts = st.one_of(st.integers(1, 20), st.integers(1, BURST_MAX))
gaps_us = st.one_of(st.integers(0, 5), st.integers(0, 10_000_000), st.integers(0, 10**11))


@pytest.fixture(autouse=True)
def _needed() -> None:
    require("redis", missing.no_redis())


@asynccontextmanager
async def opened() -> AsyncIterator[Redis]:
    async with Redis.from_url(await asyncio.to_thread(shared.redis().fresh_database)) as client:
        yield client


def arguments(now_us: int, rate: float, burst: int, cost: int) -> list[str]:
    seconds, part_us = divmod(now_us, 1_000_000)
    return [repr(rate), str(burst), str(cost), repr(redis.ROUNDING), str(seconds), str(part_us)]


def test_nothing_but_the_time_is_replaced() -> None:
    for replaced in (SERVER_TIME, SERVER_END, ANSWER):
        assert redis.TAKE.text.count(replaced) == 1
    assert redis.ROUNDING == cache._ROUNDING


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rate=rates, burst=bursts, share=st.floats(0, 1), ahead=st.floats(0, 1.2), part_us=gaps_us)
@example(rate=1e6, burst=1, share=0.0, ahead=0.0, part_us=999_999)
@example(rate=1e-6, burst=BURST_MAX, share=1.0, ahead=0.0, part_us=1)
async def test_one_decision_is_that_of_gcra_to_the_last_bit(
    rate: float, burst: int, share: float, ahead: float, part_us: int
) -> None:
    cost = max(1, round(share * burst))
    now_us = NOW_S * 1_000_000 + part_us
    async with opened() as server:
        full_at_s = Fraction(now_us, 1_000_000) + Fraction(ahead * burst / rate)
        before = f"{float(full_at_s):.17f}"
        await server.set(KEY, before)
        answer = server.eval(TELLING_TAKE, 1, KEY, *arguments(now_us, rate, burst, cost))
        told, after, left_ms = await cast("Any", answer)
        # What the script is to find: seconds and their parts subtracted one by one.
        found = Fraction(before)
        whole, part = math.floor(found), float(found - math.floor(found))
        seconds, us = divmod(now_us, 1_000_000)
        assert float(told) == max(0.0, float(whole - seconds) + (part - us / 1e6))
        new_s, allowance = gcra(float(told), 0.0, rate, burst, cost)
        if not allowance.allowed:
            assert after.decode() == before
            return
        kept_s = float(Fraction(after.decode()) - Fraction(now_us, 1_000_000))
        assert kept_s == pytest.approx(new_s, rel=1e-15, abs=1e-15)
        # It ends when the bucket is full, and not before.
        assert math.ceil(new_s * 1000) - 1_000 <= left_ms <= math.ceil(new_s * 1000)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rate=rates,
    burst=bursts,
    steps=st.lists(st.tuples(gaps_us, st.floats(0, 1)), min_size=1, max_size=30),
)
@example(rate=1e6, burst=1, steps=[(1, 0.0)] * 25)
@example(rate=1e6, burst=2, steps=[(1, 1.0), (2, 1.0), (1, 1.0)] * 8)
@example(rate=10.0, burst=5, steps=[(0, 0.0)] * 6 + [(100_000, 0.0)] * 20)
@example(rate=1 / 3, burst=3, steps=[(3_000_000, 0.0)] * 20)
async def test_a_sequence_of_takes_is_that_of_exact_arithmetic(
    rate: float, burst: int, steps: list[tuple[int, float]]
) -> None:
    async with opened() as server:
        now_us, exact_full_at = NOW_S * 1_000_000, Fraction(0)
        for gap_us, share in steps:
            now_us += gap_us
            cost = max(1, round(share * burst))
            now = Fraction(now_us, 1_000_000)
            given_exactly = cast("tuple[float, float, float]", (exact_full_at, now, Fraction(rate)))
            new_full_at, exact = gcra(*given_exactly, burst, cost)
            exact_full_at = Fraction(new_full_at)
            # Half a millionth of a unit from the edge, doubles may fall to either side.
            assume(abs(exact.retry_after_s * rate - redis.ROUNDING) > redis.ROUNDING / 2)
            left = (burst / Fraction(rate) - Fraction(exact.reset_s)) * Fraction(rate)
            edge = left + Fraction(redis.ROUNDING)
            assume(abs(edge - round(edge)) > redis.ROUNDING / 2)
            told = server.eval(ENDLESS_TAKE, 1, KEY, *arguments(now_us, rate, burst, cost))
            answer = gcra(float(await cast("Any", told)), 0.0, rate, burst, cost)[1]
            assert (answer.allowed, answer.remaining) == (exact.allowed, exact.remaining)
            within_s = 1e-6 + 1e-12 * burst / rate
            assert answer.retry_after_s == pytest.approx(float(exact.retry_after_s), abs=within_s)
            assert answer.reset_s == pytest.approx(float(exact.reset_s), abs=within_s)

"""What comes back: Retry-After, JSON, the pace and the size of a body."""

import asyncio
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime

import pytest
import pytest_asyncio

from limner.core.answers import Answer, Limits, Pace, media_limits, retry_after_s
from limner.core.clock import HeldClock
from limner.core.errors import (
    Invalid,
    TimedOut,
    TooLarge,
)
from limner.core.outgoing import Outgoing
from tests.fakes.names import Names, client
from tests.fakes.raw_http import (
    RawHttp,
    answer,
    bomb,
    drip,
    endless,
    ok,
    redirect,
)

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("86400", 3600.0),
        ("9" * 5_000, 3600.0),
        ("Sun, 22 Nov 2026 12:00:30 GMT", 30.0),
        ("Sun, 22 Nov 2026 13:00:30 +0100", 30.0),
        ("Sunday, 22-Nov-26 12:00:30 GMT", 30.0),
        ("Sun Nov 22 12:00:30 2026", 30.0),
        ("Sun, 22 Nov 2026 11:59:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("Sun, 99 Nov 2026 12:00:30 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert retry_after_s({"Retry-After": value}, NOW) == seconds


def test_without_the_header_nothing_was_asked() -> None:
    assert retry_after_s({}, NOW) is None


def test_an_answer_counts_from_its_own_time_to_the_callers_cap() -> None:
    headers = {"Retry-After": "Sun, 22 Nov 2026 12:10:00 GMT"}
    answer = Answer(429, headers, b"", "http://a.test/", NOW)
    assert answer.retry_after_s() == 600
    assert answer.retry_after_s(cap_s=60) == 60


async def test_json_short_or_long_is_parsed_within_its_depth() -> None:
    for count in (1, 40_000):
        answer = Answer(200, {}, b"[" + b"1, " * count + b"1]", "http://a.test/", NOW)
        assert await answer.json() == [1] * (count + 1)
        with pytest.raises(Invalid):
            await answer.json(max_depth=0)


def test_media_have_five_minutes_and_a_least_rate() -> None:
    limits = media_limits(7)
    assert (limits.max_bytes, limits.total_s, limits.min_bytes_per_s) == (7, 300, 10_000)


def test_a_body_that_keeps_the_rate_goes_on() -> None:
    pace = Pace(Limits(min_bytes_per_s=100, rate_window_s=10))
    for _ in range(50):
        pace.count(600, 5.9)
        pace.count(500, 3.0)
        assert pace.left_s == 10


def test_a_body_below_the_rate_is_given_up_at_the_end_of_its_window() -> None:
    pace = Pace(Limits(min_bytes_per_s=100, rate_window_s=10))
    pace.count(400, 4.0)
    assert pace.left_s == 6
    pace.count(400, 5.0)
    with pytest.raises(TimedOut):
        pace.count(1, 1.0)


def test_the_end_of_a_body_is_never_too_slow() -> None:
    Pace(Limits(min_bytes_per_s=100, rate_window_s=10)).count(0, 11.0)


def test_without_a_rate_a_body_may_take_its_time() -> None:
    pace = Pace(Limits())
    pace.count(1, 1e6)
    assert pace.left_s == float("inf")


@pytest_asyncio.fixture
async def server() -> AsyncIterator[RawHttp]:
    async with RawHttp() as running:
        yield running


@pytest_asyncio.fixture
async def other() -> AsyncIterator[RawHttp]:
    async with RawHttp() as running:
        yield running


@pytest_asyncio.fixture
async def outgoing(server: RawHttp) -> AsyncIterator[Outgoing]:
    async with client(server, resolver=Names(), clock=HeldClock(NOW)) as running:
        yield running


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_compressed_body_arrives_decoded(
    server: RawHttp, outgoing: Outgoing, encoding: str
) -> None:
    packed = zlib.compress(b"hello" * 100, wbits=31 if encoding == "gzip" else 15)
    server.script(answer(200, packed, {"Content-Encoding": encoding}))
    assert (await outgoing.request("GET", server.url)).body == b"hello" * 100


async def test_a_compressed_bomb_is_stopped_with_little_memory(
    server: RawHttp, outgoing: Outgoing
) -> None:
    server.script(bomb(60_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            await outgoing.request("GET", server.url, limits=Limits(max_bytes=1_000_000))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8_000_000


async def test_a_declared_length_over_the_cap_is_refused_unread(
    server: RawHttp, outgoing: Outgoing
) -> None:
    server.script(answer(200, b"", length=10_000_000_000))
    with pytest.raises(TooLarge) as caught:
        await outgoing.request("GET", server.url)
    assert caught.value.code == "answer_too_large"


async def test_a_body_of_exactly_the_cap_is_fine(server: RawHttp, outgoing: Outgoing) -> None:
    server.script(ok(b"x" * 1_000))
    limits = Limits(max_bytes=1_000)
    assert len((await outgoing.request("GET", server.url, limits=limits)).body) == 1_000


async def test_a_body_that_drips_is_given_up_before_the_total_time(
    server: RawHttp, outgoing: Outgoing
) -> None:
    server.script(drip(every_s=0.01))
    limits = Limits(total_s=30, min_bytes_per_s=10_000, rate_window_s=0.1)
    began = asyncio.get_running_loop().time()
    with pytest.raises(TimedOut):
        await outgoing.request("GET", server.url, limits=limits)
    assert asyncio.get_running_loop().time() - began < 10


async def test_a_large_result_is_streamed_in_small_pieces(
    server: RawHttp, outgoing: Outgoing
) -> None:
    body = bytes(3_000_000)
    server.script(answer(200, body, {"Content-Type": "image/png"}))
    async with outgoing.stream(server.url, limits=Limits(max_bytes=len(body))) as stream:
        assert (stream.status, stream.headers["content-type"]) == (200, "image/png")
        assert stream.url == server.url
        sizes = [len(chunk) async for chunk in stream.chunks()]
    assert sum(sizes) == len(body)
    assert max(sizes) < 600_000


async def drain(outgoing: Outgoing, url: str, limits: Limits, sizes: list[int]) -> None:
    """Read a stream, taking all its time over the first chunk if there is little."""
    async with outgoing.stream(url, limits=limits) as stream:
        async for chunk in stream.chunks():
            sizes.append(len(chunk))
            if limits.total_s < 1:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(stream.ends_at):
                        await asyncio.Event().wait()


async def test_a_stream_over_its_cap_breaks_off_after_what_fitted(
    server: RawHttp, outgoing: Outgoing
) -> None:
    server.script(endless())
    sizes: list[int] = []
    with pytest.raises(TooLarge):
        await drain(outgoing, server.url, Limits(max_bytes=500_000), sizes)
    assert 0 < sum(sizes) <= 500_000


async def test_time_the_caller_spends_counts_too(server: RawHttp, outgoing: Outgoing) -> None:
    server.script(endless())
    sizes: list[int] = []
    with pytest.raises(TimedOut):
        await drain(outgoing, server.url, Limits(max_bytes=10**12, total_s=0.5), sizes)
    assert len(sizes) == 1


async def test_a_stream_may_be_left_early(server: RawHttp, outgoing: Outgoing) -> None:
    server.script(redirect("/file"), endless())
    async with outgoing.stream(server.url, limits=Limits(), redirects=1) as stream:
        assert stream.url.endswith("/file")
    assert server.connections == 2

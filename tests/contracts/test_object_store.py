"""What every object store keeps to; run over each engine in ``engines.OBJECT_STORES``."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from limner.core import failpoints
from limner.core.errors import FailpointReached, Invalid, NotFound, TooLarge
from limner.core.objects import ObjectStore
from tests.contracts.engines import (
    OBJECT_STORES,
    Engine,
    StoreUnderTest,
    each,
    prepare,
)
from tests.contracts.objects import LIMIT, PNG, keys_of, noise, pieces


@pytest.fixture(params=each(OBJECT_STORES))
async def under_test(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[StoreUnderTest]:
    engine: Engine[StoreUnderTest] = request.param
    prepare(engine, request)
    async with engine.open(tmp_path) as opened:
        yield opened


@pytest.fixture
def store(under_test: StoreUnderTest) -> ObjectStore:
    return under_test.store


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.arm(None)


async def gather_range(store: ObjectStore, key: str, start: int, end: int | None) -> bytes:
    async with store.get(key, start=start, end=end) as reading:
        data = b"".join([chunk async for chunk in reading.chunks])
        assert reading.end - reading.start == len(data)
        return data


async def test_what_was_put_is_read_back_with_its_type_size_and_digest(store: ObjectStore) -> None:
    data = noise(70_000)
    info = await store.put("job_1/2-0.png", data, PNG, size_limit_bytes=LIMIT)
    assert (info.key, info.size_bytes, info.content_type) == ("job_1/2-0.png", 70_000, PNG)
    assert info.sha256 == hashlib.sha256(data).hexdigest()
    assert await store.read("job_1/2-0.png", LIMIT) == data
    again = await store.stat("job_1/2-0.png")
    assert (again.size_bytes, again.content_type, again.sha256) == (70_000, PNG, info.sha256)


@pytest.mark.parametrize("length", [1_000, 262_144, 5_000_000])
async def test_a_stream_is_stored_as_its_joined_chunks(store: ObjectStore, length: int) -> None:
    data = noise(3_000_001)
    info = await store.put("a", pieces(data, length), PNG, size_limit_bytes=LIMIT)
    assert (info.size_bytes, info.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert await gather_range(store, "a", 0, None) == data


async def test_a_stream_longer_than_a_part_is_stored_whole(store: ObjectStore) -> None:
    data = noise(9 * 1024 * 1024 + 17)
    info = await store.put("long", pieces(data, 1_000_003), PNG, size_limit_bytes=LIMIT)
    assert info.sha256 == hashlib.sha256(data).hexdigest()
    assert hashlib.sha256(await store.read("long", LIMIT)).hexdigest() == info.sha256


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_empty_object_is_an_object(store: ObjectStore, streamed: bool) -> None:
    data = pieces(b"", 1) if streamed else b""
    info = await store.put("empty", data, "text/plain; charset=utf-8", size_limit_bytes=0)
    assert info.size_bytes == 0
    assert info.sha256 == hashlib.sha256(b"").hexdigest()
    assert await gather_range(store, "empty", 0, None) == b""
    assert (await store.stat("empty")).content_type == "text/plain; charset=utf-8"


async def test_a_second_put_takes_the_place_of_the_first(store: ObjectStore) -> None:
    await store.put("a", noise(5_000), PNG, size_limit_bytes=LIMIT)
    await store.put("a", b"short", "text/plain", size_limit_bytes=LIMIT)
    assert await store.read("a", LIMIT) == b"short"
    info = await store.stat("a")
    assert (info.size_bytes, info.content_type) == (5, "text/plain")
    assert info.sha256 == hashlib.sha256(b"short").hexdigest()


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_object_over_the_limit_is_refused_and_the_former_stays(
    store: ObjectStore, streamed: bool
) -> None:
    await store.put("a", b"former", PNG, size_limit_bytes=LIMIT)
    for key in ("a", "b"):
        data = noise(1_001)
        source = pieces(data, 100) if streamed else data
        with pytest.raises(TooLarge):
            await store.put(key, source, PNG, size_limit_bytes=1_000)
    assert await store.read("a", LIMIT) == b"former"
    assert await keys_of(store) == ["a"]
    await store.put("b", noise(1_000), PNG, size_limit_bytes=1_000)


async def test_an_endless_stream_is_left_soon_after_the_limit(store: ObjectStore) -> None:
    given = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal given
        while True:
            given += 65_536
            yield bytes(65_536)

    with pytest.raises(TooLarge):
        await store.put("a", endless(), PNG, size_limit_bytes=100_000)
    assert given < 20 * 1024 * 1024


async def test_an_error_of_the_source_comes_out_and_nothing_is_stored(store: ObjectStore) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield noise(600_000)
        raise ConnectionResetError("the client went away")

    await store.put("a", b"former", PNG, size_limit_bytes=LIMIT)
    with pytest.raises(ConnectionResetError, match="went away"):
        await store.put("a", broken(), PNG, size_limit_bytes=LIMIT)
    assert await store.read("a", LIMIT) == b"former"


async def test_a_cancelled_put_stores_nothing(store: ObjectStore) -> None:
    waiting = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        yield noise(600_000)
        waiting.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.put("a", stalled(), PNG, size_limit_bytes=LIMIT))
    await asyncio.wait_for(waiting.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await keys_of(store) == []
    await store.put("a", b"next", PNG, size_limit_bytes=LIMIT)
    assert await store.read("a", LIMIT) == b"next"


BAD_KEYS = [
    "",
    "/a",
    "a/",
    "a//b",
    "..",
    "a/../b",
    "./a",
    "a b",
    "a\n",
    "ü",
    "a\\b",
    "a+",
    "x" * 513,
]


@pytest.mark.parametrize("key", BAD_KEYS)
async def test_what_is_no_key_is_refused_by_every_call(store: ObjectStore, key: str) -> None:
    with pytest.raises(Invalid):
        await store.put(key, b"", PNG, size_limit_bytes=LIMIT)
    with pytest.raises(Invalid):
        await store.read(key, LIMIT)
    with pytest.raises(Invalid):
        await store.stat(key)
    with pytest.raises(Invalid):
        await store.delete(key)
    with pytest.raises(Invalid):
        await store.presign("GET", key, 60)
    with pytest.raises(Invalid):
        async with store.get(key):
            pass


@pytest.mark.parametrize(
    "content_type", ["", "png", "image/png\r\nX-A: b", "ü/b", "a/" + "b" * 255]
)
async def test_what_is_no_content_type_is_refused(store: ObjectStore, content_type: str) -> None:
    with pytest.raises(Invalid):
        await store.put("a", b"", content_type, size_limit_bytes=LIMIT)
    assert await keys_of(store) == []


async def test_the_longest_content_type_is_kept(store: ObjectStore) -> None:
    content_type = 'a/b; c="' + '"' * 247
    await store.put("a", b"x", content_type, size_limit_bytes=LIMIT)
    assert (await store.stat("a")).content_type == content_type


async def test_a_key_and_the_keys_below_it_are_different_objects(store: ObjectStore) -> None:
    for key in ("a/b/c", "a", "a/b"):
        await store.put(key, key.encode(), PNG, size_limit_bytes=LIMIT)
    assert await keys_of(store) == ["a", "a/b", "a/b/c"]
    await store.delete("a/b")
    assert await keys_of(store) == ["a", "a/b/c"]
    assert await store.read("a/b/c", LIMIT) == b"a/b/c"


async def test_the_longest_key_is_kept(store: ObjectStore) -> None:
    key = "/".join(["x" * 200, "y" * 200, "z" * 110])
    assert len(key) == 512
    await store.put(key, b"deep", PNG, size_limit_bytes=LIMIT)
    assert await store.read(key, LIMIT) == b"deep"
    assert await keys_of(store) == [key]


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (0, None),
        (0, 1),
        (0, 1_000_000),
        (1, 2),
        (999_999, None),
        (262_143, 524_289),
        (7, 2_000_000),
    ],
)
async def test_a_range_is_what_a_slice_is(store: ObjectStore, start: int, end: int | None) -> None:
    data = noise(1_000_000)
    await store.put("a", data, PNG, size_limit_bytes=LIMIT)
    assert await gather_range(store, "a", start, end) == data[start:end]


async def test_a_reading_describes_the_whole_object(store: ObjectStore) -> None:
    await store.put("a", noise(1_000), PNG, size_limit_bytes=LIMIT)
    async with store.get("a", start=10, end=5_000) as reading:
        assert (reading.start, reading.end) == (10, 1_000)
        assert (reading.info.size_bytes, reading.info.content_type) == (1_000, PNG)


@pytest.mark.parametrize(
    ("start", "end"), [(10, None), (11, 12), (-1, None), (5, 5), (5, 4), (0, 0)]
)
async def test_a_range_that_holds_nothing_is_refused(
    store: ObjectStore, start: int, end: int | None
) -> None:
    await store.put("a", bytes(10), PNG, size_limit_bytes=LIMIT)
    with pytest.raises(Invalid) as caught:
        await gather_range(store, "a", start, end)
    assert caught.value.code == "range_not_satisfiable"


async def test_what_is_not_there_is_not_found(store: ObjectStore) -> None:
    await store.put("a/b", b"", PNG, size_limit_bytes=LIMIT)
    for key in ("b", "a", "a/b/c", "a/c"):
        with pytest.raises(NotFound):
            await store.read(key, LIMIT)
        with pytest.raises(NotFound):
            await store.stat(key)
        with pytest.raises(NotFound):
            async with store.get(key):
                pass


async def test_reading_stops_at_the_readers_limit(store: ObjectStore) -> None:
    await store.put("a", bytes(101), PNG, size_limit_bytes=LIMIT)
    with pytest.raises(TooLarge):
        await store.read("a", 100)
    assert len(await store.read("a", 101)) == 101


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_reading_goes_on_with_the_object_it_began_with(
    store: ObjectStore, replaced: bool
) -> None:
    data = noise(4_000_000)
    await store.put("a", data, PNG, size_limit_bytes=LIMIT)
    async with store.get("a") as reading:
        chunks = aiter(reading.chunks)
        got = await anext(chunks)
        if replaced:
            await store.put("a", bytes(4_000_000), PNG, size_limit_bytes=LIMIT)
        else:
            await store.delete("a")
        got += b"".join([chunk async for chunk in chunks])
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()


async def test_a_reader_may_leave_early(store: ObjectStore) -> None:
    await store.put("a", noise(2_000_000), PNG, size_limit_bytes=LIMIT)
    async with store.get("a") as reading:
        async for chunk in reading.chunks:
            assert chunk
            break
    assert (await store.stat("a")).size_bytes == 2_000_000


async def test_deleting_takes_the_object_away_and_deleting_nothing_is_fine(
    store: ObjectStore,
) -> None:
    await store.put("a/b/c", b"x", PNG, size_limit_bytes=LIMIT)
    await store.delete("a/b/c")
    await store.delete("a/b/c")
    await store.delete("never/there")
    assert await keys_of(store) == []
    with pytest.raises(NotFound):
        await store.stat("a/b/c")


async def test_of_many_writers_of_one_key_one_wins_whole(store: ObjectStore) -> None:
    async def write(number: int) -> None:
        data = bytes([number]) * 400_000
        await store.put("a", pieces(data, 90_000), f"a/{number}", size_limit_bytes=LIMIT)

    async def watch() -> None:
        for _ in range(10):
            async with store.get("a") as reading:
                data = b"".join([chunk async for chunk in reading.chunks])
                assert data == data[:1] * 400_000
                assert reading.info.content_type == f"a/{data[0]}"

    await write(0)
    await asyncio.gather(*(write(number) for number in range(1, 9)), watch(), watch())
    last = await store.read("a", LIMIT)
    assert (await store.stat("a")).content_type == f"a/{last[0]}"


async def test_puts_and_deletes_in_one_folder_do_not_disturb_each_other(
    store: ObjectStore,
) -> None:
    async def come_and_go(number: int) -> None:
        for _ in range(5):
            await store.put(f"f/g/{number}", b"x", PNG, size_limit_bytes=LIMIT)
            assert await store.read(f"f/g/{number}", LIMIT) == b"x"
            await store.delete(f"f/g/{number}")

    await asyncio.gather(*(come_and_go(number) for number in range(8)))
    assert await keys_of(store) == []


async def test_a_crash_before_the_object_is_visible_leaves_the_former(store: ObjectStore) -> None:
    await store.put("a", b"former", PNG, size_limit_bytes=LIMIT)
    for key in ("a", "b"):
        failpoints.arm("objects.put:raise")
        with pytest.raises(FailpointReached):
            await store.put(key, noise(600_000), PNG, size_limit_bytes=LIMIT)
    failpoints.arm(None)
    assert await keys_of(store) == ["a"]
    assert await store.read("a", LIMIT) == b"former"


async def test_a_put_whose_answer_was_lost_is_there_and_can_be_repeated(
    store: ObjectStore,
) -> None:
    failpoints.arm("objects.put:execute-then-raise")
    with pytest.raises(FailpointReached):
        await store.put("a", b"x", PNG, size_limit_bytes=LIMIT)
    assert await store.read("a", LIMIT) == b"x"
    await store.put("a", b"x", PNG, size_limit_bytes=LIMIT)
    assert await keys_of(store) == ["a"]


async def test_a_delete_fails_before_or_after_its_effect(store: ObjectStore) -> None:
    await store.put("a", b"x", PNG, size_limit_bytes=LIMIT)
    failpoints.arm("objects.delete:raise")
    with pytest.raises(FailpointReached):
        await store.delete("a")
    assert await keys_of(store) == ["a"]
    failpoints.arm("objects.delete:execute-then-raise")
    with pytest.raises(FailpointReached):
        await store.delete("a")
    assert await keys_of(store) == []


async def test_a_store_that_works_says_so_and_closes_twice(store: ObjectStore) -> None:
    await store.check()
    assert await keys_of(store) == []
    await store.aclose()
    await store.aclose()


def test_the_suite_runs_over_an_engine_that_needs_nothing() -> None:
    assert any(not cast("Engine[Any]", engine).real for engine in OBJECT_STORES)

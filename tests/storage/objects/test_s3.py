"""What the store in a bucket adds to the contract: parts, memory, sweeps, lost servers, names."""

import asyncio
import gc
import hashlib
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiobotocore.session import AioSession
from yarl import URL

from limner.core import failpoints
from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable, FailpointReached, TooLarge
from limner.core.objects import SweepsTemporary
from limner.storage.objects.s3 import S3Objects, s3_objects
from limner.storage.objects.s3_upload import IN_FLIGHT, PART_BYTES
from tests.contracts.engines import require
from tests.contracts.objects import LIMIT, PNG, keys_of, noise, pieces
from tests.engines import missing, s3, shared
from tests.engines.s3 import S3Server

pytestmark = pytest.mark.real

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def _needed() -> None:
    require("s3", missing.no_moto())


@pytest.fixture
async def bucket() -> str:
    return await asyncio.to_thread(shared.s3().fresh_bucket)


@pytest.fixture
async def store(bucket: str) -> AsyncIterator[S3Objects]:
    opened = s3_objects(shared.s3().url(bucket), s3.ACCESS_KEY, s3.SECRET_KEY)
    yield opened
    await opened.aclose()


@pytest.fixture
async def beside() -> AsyncIterator[Any]:
    """Give the bare driver on the same server."""
    async with AioSession().create_client(
        "s3",
        region_name=s3.REGION,
        endpoint_url=shared.s3().endpoint,
        aws_access_key_id=s3.ACCESS_KEY,
        aws_secret_access_key=s3.SECRET_KEY,
    ) as client:
        yield client


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    """Give a server of this test's own, which it may kill."""
    with S3Server(tmp_path / "s3") as private:
        yield private


async def uploads(beside: Any, bucket: str) -> list[str]:
    answer = await beside.list_multipart_uploads(Bucket=bucket)
    return [upload["Key"] for upload in answer.get("Uploads", ())]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("size_bytes", "parts"),
    [
        (PART_BYTES - 1, None),
        (PART_BYTES, None),
        (PART_BYTES + 1, 2),
        (2 * PART_BYTES, 2),
        (2 * PART_BYTES + 1, 3),
    ],
)
async def test_an_object_goes_up_in_as_many_parts_as_it_needs(
    store: S3Objects, bucket: str, beside: Any, size_bytes: int, parts: int | None, streamed: bool
) -> None:
    data = noise(size_bytes)
    source = pieces(data, 1_000_003) if streamed else data
    info = await store.put("a", source, PNG, size_limit_bytes=size_bytes)
    assert (info.size_bytes, info.sha256) == (size_bytes, hashlib.sha256(data).hexdigest())
    assert await store.read("a", size_bytes) == data
    etag = (await beside.head_object(Bucket=bucket, Key="a"))["ETag"].strip('"')
    assert etag.partition("-")[2] == (str(parts) if parts else "")
    found = await store.stat("a")
    assert (found.size_bytes, found.content_type) == (size_bytes, PNG)
    assert found.sha256 == (None if parts else info.sha256)
    assert await uploads(beside, bucket) == []


async def test_one_chunk_of_several_parts_is_cut(store: S3Objects) -> None:
    data = noise(2 * PART_BYTES + 5)
    await store.put("a", pieces(data, len(data)), PNG, size_limit_bytes=len(data))
    assert await store.read("a", len(data)) == data


class Left(Exception):
    """The source went away."""


async def going_away(parts: float) -> AsyncIterator[bytes]:
    for _ in range(int(parts * PART_BYTES) // MIB):
        yield bytes(MIB)
    raise Left


@pytest.mark.parametrize("parts", [0.5, 1.5, 2.5, 5.5])
async def test_a_source_that_fails_leaves_no_upload(
    store: S3Objects, bucket: str, beside: Any, parts: float
) -> None:
    await store.put("a", b"former", PNG, size_limit_bytes=LIMIT)
    with pytest.raises(Left):
        await store.put("a", going_away(parts), PNG, size_limit_bytes=10 * LIMIT)
    assert await uploads(beside, bucket) == []
    assert await store.read("a", LIMIT) == b"former"


async def test_an_object_that_grows_over_the_limit_leaves_no_upload(
    store: S3Objects, bucket: str, beside: Any
) -> None:
    for size_bytes in (2 * PART_BYTES, 3 * PART_BYTES):
        with pytest.raises(TooLarge):
            await store.put("a", going_away(4), PNG, size_limit_bytes=size_bytes)
    with pytest.raises(TooLarge):
        await store.put("a", bytes(2 * PART_BYTES + 1), PNG, size_limit_bytes=2 * PART_BYTES)
    assert await uploads(beside, bucket) == []
    assert await keys_of(store) == []


async def test_a_cancelled_put_leaves_no_upload(store: S3Objects, bucket: str, beside: Any) -> None:
    waiting = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        for _ in range(25):
            yield bytes(MIB)
        waiting.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.put("a", stalled(), PNG, size_limit_bytes=10 * LIMIT))
    await asyncio.wait_for(waiting.wait(), 20)
    assert await uploads(beside, bucket) == ["a"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await uploads(beside, bucket) == []
    assert await keys_of(store) == []


async def test_an_upload_in_parts_can_be_failed_by_name(
    store: S3Objects, bucket: str, beside: Any
) -> None:
    data = bytes(PART_BYTES + 1)
    failpoints.arm("objects.put:raise")
    with pytest.raises(FailpointReached):
        await store.put("a", data, PNG, size_limit_bytes=LIMIT)
    assert await keys_of(store) == []
    failpoints.arm("objects.put:execute-then-raise")
    with pytest.raises(FailpointReached):
        await store.put("a", data, PNG, size_limit_bytes=LIMIT)
    assert await keys_of(store) == ["a"]
    assert await uploads(beside, bucket) == []


async def test_a_long_upload_takes_the_memory_of_a_few_parts(store: S3Objects) -> None:
    size_bytes = 64 * MIB

    async def fresh() -> AsyncIterator[bytes]:
        for number in range(size_bytes // (256 * 1024)):
            yield bytes([number % 256]) * (256 * 1024)

    await store.check()
    gc.collect()
    tracemalloc.start()
    try:
        info = await store.put("a", fresh(), PNG, size_limit_bytes=size_bytes)
        _, up_bytes = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        got = hashlib.sha256()
        async with store.get("a") as reading:
            async for chunk in reading.chunks:
                got.update(chunk)
        _, down_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert got.hexdigest() == info.sha256
    # A part grows by an eighth too much while it is filled.
    assert up_bytes < (IN_FLIGHT + 1) * PART_BYTES * 9 // 8 + 4 * MIB
    assert down_bytes < 4 * MIB


async def begin(beside: Any, bucket: str, key: str) -> str:
    answer = await beside.create_multipart_upload(Bucket=bucket, Key=key)
    return str(answer["UploadId"])


async def test_uploads_that_nobody_went_on_with_are_swept(bucket: str, beside: Any) -> None:
    clock = HeldClock(datetime.now(UTC))
    store = s3_objects(shared.s3().url(bucket), s3.ACCESS_KEY, s3.SECRET_KEY, clock)
    assert isinstance(store, SweepsTemporary)
    for key in ("a", "b"):
        await begin(beside, bucket, key)
    clock.advance(3_700)
    assert await store.sweep_temporary(3_600) == 2
    assert await uploads(beside, bucket) == []
    assert await store.sweep_temporary(3_600) == 0
    await store.aclose()


async def test_a_sweep_spares_an_upload_that_goes_on(bucket: str, beside: Any) -> None:
    upload_id = await begin(beside, bucket, "a")
    begun = datetime.now(UTC)
    clock = HeldClock(begun + timedelta(seconds=3_600))
    store = s3_objects(shared.s3().url(bucket), s3.ACCESS_KEY, s3.SECRET_KEY, clock)
    await beside.upload_part(
        Bucket=bucket, Key="a", UploadId=upload_id, PartNumber=1, Body=b"going on"
    )
    parts = await beside.list_parts(Bucket=bucket, Key="a", UploadId=upload_id)
    clock.advance((parts["Parts"][0]["LastModified"] - begun).total_seconds())
    assert await store.sweep_temporary(3_600) == 0
    assert await uploads(beside, bucket) == ["a"]
    clock.advance(1)
    assert await store.sweep_temporary(3_600) == 1
    await store.aclose()


async def test_a_check_leaves_nothing(store: S3Objects, bucket: str, beside: Any) -> None:
    await store.check()
    assert await uploads(beside, bucket) == []
    assert await keys_of(store) == []


async def test_a_check_writes_only_now_and_then(
    store: S3Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    call = store._connection.call

    async def counted(operation: str, **given: Any) -> Any:
        calls.append(operation)
        return await call(operation, **given)

    monkeypatch.setattr(store._connection, "call", counted)
    for _ in range(3):
        await store.check()
    assert calls.count("create_multipart_upload") == 1
    assert calls.count("head_bucket") == 3


ODD_KEYS = ["...", "a..b", ".hidden", "-", "_", "a./.b", "-_.", "A" * 200, "0/0"]


async def test_odd_but_allowed_keys_are_kept_listed_and_linked(store: S3Objects) -> None:
    for key in ODD_KEYS:
        await store.put(key, key.encode(), PNG, size_limit_bytes=LIMIT)
    assert await keys_of(store) == sorted(ODD_KEYS)
    async with aiohttp.ClientSession() as client:
        for key in ODD_KEYS:
            assert await store.read(key, LIMIT) == key.encode()
            url = await store.presign("GET", key, 60)
            async with client.get(URL(url, encoded=True)) as response:
                assert await response.read() == key.encode()


@pytest.mark.parametrize("end", [1, 1000])
async def test_a_range_of_an_empty_object_is_empty(store: S3Objects, end: int) -> None:
    await store.put("a", b"", PNG, size_limit_bytes=LIMIT)
    async with store.get("a", start=0, end=end) as reading:
        assert (reading.start, reading.end) == (0, 0)
        assert [chunk async for chunk in reading.chunks] == []


async def test_a_missing_bucket_is_not_a_missing_object() -> None:
    store = s3_objects(shared.s3().url("nobody-made-this"), s3.ACCESS_KEY, s3.SECRET_KEY)
    for call in (
        store.check(),
        store.stat("a"),
        store.read("a", LIMIT),
        store.delete("a"),
        store.list(),
        store.put("a", b"x", PNG, size_limit_bytes=LIMIT),
        store.put("a", bytes(PART_BYTES + 1), PNG, size_limit_bytes=LIMIT),
        store.sweep_temporary(0),
    ):
        with pytest.raises(EngineUnavailable, match="no such bucket"):
            await call
    await store.aclose()


async def test_a_server_that_goes_away_while_it_is_read_is_told(server: S3Server) -> None:
    bucket = await asyncio.to_thread(server.fresh_bucket)
    store = s3_objects(server.url(bucket), s3.ACCESS_KEY, s3.SECRET_KEY)
    data = noise(7 * MIB)
    await store.put("a", data, PNG, size_limit_bytes=LIMIT)
    async with store.get("a") as reading:
        chunks = aiter(reading.chunks)
        got = len(await anext(chunks))
        await asyncio.to_thread(server.kill)

        async def go_on() -> None:
            nonlocal got
            async for chunk in chunks:
                got += len(chunk)

        with pytest.raises(EngineUnavailable):
            await go_on()
    assert got < len(data)
    with pytest.raises(EngineUnavailable, match="out of reach") as caught:
        await store.stat("a")
    assert "127.0.0.1" not in str(caught.value)
    await store.aclose()


async def test_a_server_that_goes_away_while_it_is_written_to_is_told_and_then_used_on(
    server: S3Server,
) -> None:
    bucket = await asyncio.to_thread(server.fresh_bucket)
    store = s3_objects(server.url(bucket), s3.ACCESS_KEY, s3.SECRET_KEY)

    async def fatal() -> AsyncIterator[bytes]:
        for number in range(40):
            if number == 20:
                await asyncio.to_thread(server.kill)
            yield bytes(MIB)

    with pytest.raises(EngineUnavailable):
        await store.put("a", fatal(), PNG, size_limit_bytes=10 * LIMIT)
    await asyncio.to_thread(server.start)
    async with aiohttp.ClientSession() as client:
        await (await client.put(f"{server.endpoint}/{bucket}")).release()
    await store.put("a", b"x", PNG, size_limit_bytes=LIMIT)
    assert await store.read("a", LIMIT) == b"x"
    await store.aclose()


async def test_many_at_once_share_the_connections(store: S3Objects) -> None:
    async def round_trip(number: int) -> bytes:
        await store.put(f"{number}", f"{number}".encode(), PNG, size_limit_bytes=LIMIT)
        return await store.read(f"{number}", LIMIT)

    answers = await asyncio.gather(*(round_trip(number) for number in range(80)))
    assert answers == [f"{number}".encode() for number in range(80)]


async def test_a_closed_store_refuses(store: S3Objects) -> None:
    await store.check()
    await store.aclose()
    with pytest.raises(EngineUnavailable, match="closed"):
        await store.stat("a")


async def test_readers_who_leave_early_hold_no_connection(store: S3Objects) -> None:
    await store.put("a", noise(4 * MIB), PNG, size_limit_bytes=LIMIT)
    for _ in range(70):
        async with AsyncExitStack() as stack:
            reading = await stack.enter_async_context(store.get("a"))
            await anext(aiter(reading.chunks))
    assert (await store.stat("a")).size_bytes == 4 * MIB

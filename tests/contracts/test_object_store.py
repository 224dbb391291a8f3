"""What every object store keeps to; run over each engine in ``engines.OBJECT_STORES``."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from yarl import URL

from limner.core import failpoints
from limner.core.errors import FailpointReached, Invalid, NotFound, TooLarge
from limner.core.objects import GET_MAX_S, PUT_MAX_S, Method, ObjectStore
from tests.contracts.engines import (
    OBJECT_STORES,
    Engine,
    StoreUnderTest,
    each,
    eventually,
    prepare,
)

LIMIT = 16 * 1024 * 1024
PNG = "image/png"


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


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def noise(size_bytes: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size_bytes)  # noqa: S311 - test data


async def pieces(data: bytes, length: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), length):
        yield data[start : start + length]


async def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return [entry.key for entry in await store.list(prefix)]


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
    assert await keys(store) == ["a"]
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
    assert await keys(store) == []
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
    assert await keys(store) == []


async def test_the_longest_content_type_is_kept(store: ObjectStore) -> None:
    content_type = 'a/b; c="' + '"' * 247
    await store.put("a", b"x", content_type, size_limit_bytes=LIMIT)
    assert (await store.stat("a")).content_type == content_type


async def test_a_key_and_the_keys_below_it_are_different_objects(store: ObjectStore) -> None:
    for key in ("a/b/c", "a", "a/b"):
        await store.put(key, key.encode(), PNG, size_limit_bytes=LIMIT)
    assert await keys(store) == ["a", "a/b", "a/b/c"]
    await store.delete("a/b")
    assert await keys(store) == ["a", "a/b/c"]
    assert await store.read("a/b/c", LIMIT) == b"a/b/c"


async def test_the_longest_key_is_kept(store: ObjectStore) -> None:
    key = "/".join(["x" * 200, "y" * 200, "z" * 110])
    assert len(key) == 512
    await store.put(key, b"deep", PNG, size_limit_bytes=LIMIT)
    assert await store.read(key, LIMIT) == b"deep"
    assert await keys(store) == [key]


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
    assert await keys(store) == []
    with pytest.raises(NotFound):
        await store.stat("a/b/c")


LISTED = ["B", "a", "a-b", "a.b", "a/b", "a/b-c", "a/b/c", "a/b0", "a0", "a_b", "b/z", "b/z.png"]


async def test_a_listing_ascends_in_byte_order(store: ObjectStore) -> None:
    for key in reversed(LISTED):
        await store.put(key, key.encode(), PNG, size_limit_bytes=LIMIT)
    entries = await store.list()
    assert sorted(LISTED) == LISTED
    assert [entry.key for entry in entries] == LISTED
    assert [entry.size_bytes for entry in entries] == [len(key) for key in LISTED]
    stats = [await store.stat(key) for key in LISTED]
    for entry, info in zip(entries, stats, strict=True):
        assert abs((entry.modified_at - info.modified_at).total_seconds()) <= 1


@pytest.mark.parametrize("limit", [1, 2, 5, 12])
async def test_pages_joined_are_the_whole_listing(store: ObjectStore, limit: int) -> None:
    for key in LISTED:
        await store.put(key, b"", PNG, size_limit_bytes=LIMIT)
    found: list[str] = []
    while True:
        page = await store.list(after=found[-1] if found else None, limit=limit)
        found += [entry.key for entry in page]
        if len(page) < limit:
            break
    assert found == LISTED


@pytest.mark.parametrize(
    "prefix", ["", "a", "a/", "a/b", "a/b/", "b", "c", "a.", "b/z.png", "/", "a//"]
)
@pytest.mark.parametrize("after", [None, "a", "a/", "a/b", "a/a", "a/zz", "b", "zz"])
async def test_a_listing_keeps_to_prefix_and_start(
    store: ObjectStore, prefix: str, after: str | None
) -> None:
    for key in LISTED:
        await store.put(key, b"", PNG, size_limit_bytes=LIMIT)
    wanted = [key for key in LISTED if key.startswith(prefix) and (after is None or key > after)]
    assert [entry.key for entry in await store.list(prefix, after=after)] == wanted


@pytest.mark.parametrize(
    "arguments", [{"prefix": "ü"}, {"after": "a b"}, {"limit": 0}, {"limit": 1_001}]
)
async def test_a_listing_that_makes_no_sense_is_refused(
    store: ObjectStore, arguments: dict[str, Any]
) -> None:
    with pytest.raises(Invalid):
        await store.list(**arguments)


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
    assert await keys(store) == []


async def test_a_crash_before_the_object_is_visible_leaves_the_former(store: ObjectStore) -> None:
    await store.put("a", b"former", PNG, size_limit_bytes=LIMIT)
    for key in ("a", "b"):
        failpoints.arm("objects.put:raise")
        with pytest.raises(FailpointReached):
            await store.put(key, noise(600_000), PNG, size_limit_bytes=LIMIT)
    failpoints.arm(None)
    assert await keys(store) == ["a"]
    assert await store.read("a", LIMIT) == b"former"


async def test_a_put_whose_answer_was_lost_is_there_and_can_be_repeated(
    store: ObjectStore,
) -> None:
    failpoints.arm("objects.put:execute-then-raise")
    with pytest.raises(FailpointReached):
        await store.put("a", b"x", PNG, size_limit_bytes=LIMIT)
    assert await store.read("a", LIMIT) == b"x"
    await store.put("a", b"x", PNG, size_limit_bytes=LIMIT)
    assert await keys(store) == ["a"]


async def test_a_delete_fails_before_or_after_its_effect(store: ObjectStore) -> None:
    await store.put("a", b"x", PNG, size_limit_bytes=LIMIT)
    failpoints.arm("objects.delete:raise")
    with pytest.raises(FailpointReached):
        await store.delete("a")
    assert await keys(store) == ["a"]
    failpoints.arm("objects.delete:execute-then-raise")
    with pytest.raises(FailpointReached):
        await store.delete("a")
    assert await keys(store) == []


async def test_a_store_that_works_says_so_and_closes_twice(store: ObjectStore) -> None:
    await store.check()
    assert await keys(store) == []
    await store.aclose()
    await store.aclose()


@pytest.mark.parametrize(
    ("method", "expires_s", "rest"),
    [
        ("GET", 0, {}),
        ("GET", GET_MAX_S + 1, {}),
        ("GET", 60, {"size_bytes": 5}),
        ("GET", 60, {"filename": ""}),
        ("GET", 60, {"content_type": "a/b\r\nX: y"}),
        ("PUT", PUT_MAX_S + 1, {"content_type": PNG, "size_bytes": 5}),
        ("PUT", 60, {"content_type": PNG}),
        ("PUT", 60, {"size_bytes": 5}),
        ("PUT", 60, {"content_type": PNG, "size_bytes": -1}),
        ("PUT", 60, {"content_type": PNG, "size_bytes": 6 * 1024**3}),
        ("PUT", 60, {"content_type": PNG, "size_bytes": 5, "filename": "a"}),
    ],
)
async def test_a_link_that_allows_too_much_is_not_signed(
    store: ObjectStore, method: Method, expires_s: int, rest: dict[str, Any]
) -> None:
    with pytest.raises(Invalid):
        await store.presign(method, "a", expires_s, **rest)


async def request(
    client: aiohttp.ClientSession,
    method: str,
    url: str,
    body: bytes | AsyncIterator[bytes] | None = None,
    content_type: str = PNG,
) -> tuple[int, bytes]:
    headers = {} if body is None else {"Content-Type": content_type}
    sent = client.request(method, URL(url, encoded=True), data=body, headers=headers)
    async with sent as response:
        return response.status, await response.read()


async def test_a_signed_link_reads_without_a_login(
    store: ObjectStore, client: aiohttp.ClientSession
) -> None:
    await store.put("a/b.png", b"picture", PNG, size_limit_bytes=LIMIT)
    url = await store.presign("GET", "a/b.png", GET_MAX_S)
    for _ in range(2):
        async with client.get(URL(url, encoded=True)) as response:
            assert (response.status, await response.read()) == (200, b"picture")
            assert response.headers["Content-Type"] == PNG


async def test_a_signed_link_names_the_file_and_its_type(
    store: ObjectStore, client: aiohttp.ClientSession
) -> None:
    await store.put("a", b"text", "application/octet-stream", size_limit_bytes=LIMIT)
    url = await store.presign(
        "GET", "a", 60, content_type="text/csv", filename="表 & 1;2.csv", inline=False
    )
    async with client.get(URL(url, encoded=True)) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/csv"
        disposition = response.headers["Content-Disposition"]
        assert disposition.startswith("attachment;")
        assert "filename*=UTF-8''%E8%A1%A8%20%26%201%3B2.csv" in disposition


async def test_a_link_to_what_is_not_there_yet_works_once_it_is(
    store: ObjectStore, client: aiohttp.ClientSession
) -> None:
    url = await store.presign("GET", "later", 60)
    assert (await request(client, "GET", url))[0] == 404
    await store.put("later", b"now", PNG, size_limit_bytes=LIMIT)
    assert await request(client, "GET", url) == (200, b"now")


async def test_a_signed_upload_stores_exactly_what_was_sent(
    store: ObjectStore, client: aiohttp.ClientSession
) -> None:
    data = noise(700_000)
    url = await store.presign("PUT", "up/1", PUT_MAX_S, content_type=PNG, size_bytes=len(data))
    assert (await request(client, "PUT", url, data))[0] == 200
    assert await store.read("up/1", LIMIT) == data
    info = await store.stat("up/1")
    assert info.content_type == PNG
    assert info.sha256 in {None, hashlib.sha256(data).hexdigest()}


def other_character(url: str) -> str:
    """Change one character of the signature."""
    at = url.lower().index("signature=") + len("signature=") + 5
    return url[:at] + ("a" if url[at] != "a" else "b") + url[at + 1 :]


REFUSALS: dict[str, Callable[[str], tuple[str, str, bytes | None, str]]] = {
    "other key": lambda url: ("PUT", url.replace("up/1", "up/2"), b"12345", PNG),
    "key beside": lambda url: ("PUT", url.replace("up/1?", "up/1.x?"), b"12345", PNG),
    "other content type": lambda url: ("PUT", url, b"12345", "text/html"),
    "parameter added to the type": lambda url: ("PUT", url, b"12345", PNG + "; q=1"),
    "larger length": lambda url: ("PUT", url, b"123456", PNG),
    "smaller length": lambda url: ("PUT", url, b"1234", PNG),
    "GET instead of PUT": lambda url: ("GET", url, None, PNG),
    "HEAD instead of PUT": lambda url: ("HEAD", url, None, PNG),
    "DELETE instead of PUT": lambda url: ("DELETE", url, None, PNG),
    "changed signature": lambda url: ("PUT", other_character(url), b"12345", PNG),
    "no signature": lambda url: ("PUT", url.split("?")[0], b"12345", PNG),
    "one parameter more": lambda url: ("PUT", url + "&filename=a", b"12345", PNG),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_a_signed_upload_allows_nothing_else(
    store: ObjectStore, client: aiohttp.ClientSession, case: str
) -> None:
    url = await store.presign("PUT", "up/1", 60, content_type=PNG, size_bytes=5)
    method, changed, body, content_type = REFUSALS[case](url)
    status, _ = await request(client, method, changed, body, content_type)
    assert status == 403
    assert await keys(store) == []
    assert (await request(client, "PUT", url, b"12345"))[0] == 200


async def test_a_signed_upload_without_a_length_is_refused(
    store: ObjectStore, client: aiohttp.ClientSession
) -> None:
    url = await store.presign("PUT", "up/1", 60, content_type=PNG, size_bytes=5)
    status, _ = await request(client, "PUT", url, pieces(b"12345", 1))
    assert 400 <= status < 500
    assert await keys(store) == []


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
async def test_a_link_for_reading_does_not_write(
    store: ObjectStore, client: aiohttp.ClientSession, method: str
) -> None:
    await store.put("a", b"former", PNG, size_limit_bytes=LIMIT)
    url = await store.presign("GET", "a", 60)
    assert (await request(client, method, url, b"12345"))[0] == 403
    assert await store.read("a", LIMIT) == b"former"


async def test_a_link_for_reading_opens_no_other_object(
    store: ObjectStore, client: aiohttp.ClientSession
) -> None:
    for key in ("a", "b"):
        await store.put(key, b"x", PNG, size_limit_bytes=LIMIT)
    url = await store.presign("GET", "a", 60)
    assert (await request(client, "GET", url.replace("/a?", "/b?")))[0] == 403
    assert (await request(client, "GET", other_character(url)))[0] == 403
    assert (await request(client, "GET", url))[0] == 200


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_an_expired_link_is_refused(
    under_test: StoreUnderTest, client: aiohttp.ClientSession, method: Method
) -> None:
    store = under_test.store
    rest: dict[str, Any] = {"content_type": PNG, "size_bytes": 5} if method == "PUT" else {}
    body = b"12345" if method == "PUT" else None
    key = f"expiring/{method}"
    if method == "GET":
        await store.put(key, b"x", PNG, size_limit_bytes=LIMIT)
    url = await store.presign(method, key, 1, **rest)
    await under_test.pass_time(1)

    async def refused() -> bool:
        status, _ = await request(client, method, url, body)
        return status == 403

    await eventually(refused)


async def test_a_used_upload_link_is_used_up(
    store: ObjectStore, client: aiohttp.ClientSession
) -> None:
    url = await store.presign("PUT", "up/1", 60, content_type=PNG, size_bytes=5)
    assert (await request(client, "PUT", url, b"first"))[0] == 200
    assert (await request(client, "PUT", url, b"again"))[0] == 403
    assert await store.read("up/1", LIMIT) == b"first"
    await store.delete("up/1")
    assert (await request(client, "PUT", url, b"again"))[0] == 403
    assert await keys(store) == []


async def test_of_many_uploads_by_one_link_one_is_stored(
    store: ObjectStore, client: aiohttp.ClientSession
) -> None:
    url = await store.presign("PUT", "up/1", 60, content_type=PNG, size_bytes=5)
    bodies = [f"body{number}".encode() for number in range(8)]
    answers = await asyncio.gather(*(request(client, "PUT", url, body) for body in bodies))
    statuses = [status for status, _ in answers]
    assert sorted(statuses) == [200] + [403] * 7
    assert await store.read("up/1", LIMIT) == bodies[statuses.index(200)]


def test_the_suite_runs_over_an_engine_that_needs_nothing() -> None:
    assert any(not cast("Engine[Any]", engine).real for engine in OBJECT_STORES)

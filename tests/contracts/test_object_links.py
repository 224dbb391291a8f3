"""What every object store's links allow; run over each engine in ``engines.OBJECT_STORES``."""

import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from limner.core.errors import Invalid
from limner.core.objects import GET_MAX_S, PUT_MAX_S, Method, ObjectStore
from tests.contracts.engines import (
    OBJECT_STORES,
    Engine,
    StoreUnderTest,
    each,
    eventually,
    prepare,
)
from tests.contracts.objects import LIMIT, PNG, keys_of, noise, pieces, request


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


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


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
    assert await keys_of(store) == []
    assert (await request(client, "PUT", url, b"12345"))[0] == 200


async def test_a_signed_upload_without_a_length_is_refused(
    store: ObjectStore, client: aiohttp.ClientSession
) -> None:
    url = await store.presign("PUT", "up/1", 60, content_type=PNG, size_bytes=5)
    status, _ = await request(client, "PUT", url, pieces(b"12345", 1))
    assert 400 <= status < 500
    assert await keys_of(store) == []


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

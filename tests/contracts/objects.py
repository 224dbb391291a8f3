"""What the suites of the object stores share: bytes to keep, and requests by link."""

import random
from collections.abc import AsyncIterator

import aiohttp
from yarl import URL

from limner.core.objects import ObjectStore

LIMIT = 16 * 1024 * 1024
PNG = "image/png"


def noise(size_bytes: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size_bytes)  # noqa: S311 - test data


async def pieces(data: bytes, length: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), length):
        yield data[start : start + length]


async def keys_of(store: ObjectStore, prefix: str = "") -> list[str]:
    return [entry.key for entry in await store.list(prefix)]


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

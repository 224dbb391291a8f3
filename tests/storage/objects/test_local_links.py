"""What the links of the store in a folder are beyond the contract: an upload is done once."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from limner.core.objects import ObjectStore
from tests.contracts.engines import local_store
from tests.contracts.objects import LIMIT, PNG, keys_of, request


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ObjectStore]:
    async with local_store(tmp_path) as opened:
        yield opened.store


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_a_used_upload_link_is_used_up(
    store: ObjectStore, client: aiohttp.ClientSession
) -> None:
    url = await store.presign("PUT", "up/1", 60, content_type=PNG, size_bytes=5)
    assert (await request(client, "PUT", url, b"first"))[0] == 200
    assert (await request(client, "PUT", url, b"again"))[0] == 403
    assert await store.read("up/1", LIMIT) == b"first"
    await store.delete("up/1")
    assert (await request(client, "PUT", url, b"again"))[0] == 403
    assert await keys_of(store) == []


async def test_of_many_uploads_by_one_link_one_is_stored(
    store: ObjectStore, client: aiohttp.ClientSession
) -> None:
    url = await store.presign("PUT", "up/1", 60, content_type=PNG, size_bytes=5)
    bodies = [f"body{number}".encode() for number in range(8)]
    answers = await asyncio.gather(*(request(client, "PUT", url, body) for body in bodies))
    statuses = [status for status, _ in answers]
    assert sorted(statuses) == [200] + [403] * 7
    assert await store.read("up/1", LIMIT) == bodies[statuses.index(200)]

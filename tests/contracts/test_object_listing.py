"""How every object store lists; run over each engine in ``engines.OBJECT_STORES``."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from limner.core.errors import Invalid
from limner.core.objects import ObjectStore
from tests.contracts.engines import OBJECT_STORES, Engine, StoreUnderTest, each, prepare
from tests.contracts.objects import LIMIT, PNG


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


STARTS = [None, "a", "a/", "a/b", "a/a", "a/zz", "b", "zz"]


@pytest.mark.parametrize(
    "prefix", ["", "a", "a/", "a/b", "a/b/", "b", "c", "a.", "b/z.png", "/", "a//"]
)
async def test_a_listing_keeps_to_prefix_and_start(store: ObjectStore, prefix: str) -> None:
    for key in LISTED:
        await store.put(key, b"", PNG, size_limit_bytes=LIMIT)
    within = [key for key in LISTED if key.startswith(prefix)]
    for after in STARTS:
        found = [entry.key for entry in await store.list(prefix, after=after)]
        assert found == [key for key in within if after is None or key > after], after


@pytest.mark.parametrize(
    "arguments", [{"prefix": "ü"}, {"after": "a b"}, {"limit": 0}, {"limit": 1_001}]
)
async def test_a_listing_that_makes_no_sense_is_refused(
    store: ObjectStore, arguments: dict[str, Any]
) -> None:
    with pytest.raises(Invalid):
        await store.list(**arguments)

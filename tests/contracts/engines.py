"""What the suites of stores and caches run over: one line per adapter, embedded or real."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest
from aiohttp import web
from redis.asyncio import Redis

from limner.core.cache import Cache
from limner.core.clock import HeldClock
from limner.core.errors import LimnerError
from limner.core.objects import ObjectStore, content_disposition
from limner.core.signing import SignedAccess, Signer
from limner.storage.cache.memory import MemoryCache
from limner.storage.cache.redis import BUCKETS, RedisCache
from limner.storage.objects.local import LocalObjects
from limner.storage.objects.s3 import s3_objects
from tests.contracts.signatures import SignatureDoor
from tests.engines import missing, s3, shared

T = TypeVar("T")
PassTime = Callable[[float], Awaitable[None]]
START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Engine(Generic[T]):
    """An adapter, ready to be opened for one test.

    ``missing`` says why a real engine cannot be used here; ``gaps`` maps the name of a test that
    the engine is known to fail to the reason.
    """

    name: str
    open: Callable[[Path], AbstractAsyncContextManager[T]]
    real: bool = False
    missing: Callable[[], str | None] = lambda: None
    gaps: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StoreUnderTest:
    """An object store whose signed links can be requested, and a way to let its time pass."""

    store: ObjectStore
    pass_time: PassTime


@dataclass(frozen=True)
class CacheUnderTest:
    """A cache, and a way to let its time pass."""

    cache: Cache
    pass_time: PassTime


def each(engines: Sequence[Engine[Any]]) -> list[Any]:
    """Give the parameters of a suite's fixture; real engines carry the marker ``real``."""
    return [
        pytest.param(engine, id=engine.name, marks=[pytest.mark.real] if engine.real else [])
        for engine in engines
    ]


def prepare(engine: Engine[Any], request: pytest.FixtureRequest) -> None:
    """Skip a test whose engine is not here (in CI: fail), and mark a known gap."""
    require(engine.name, engine.missing())
    name = getattr(request.node, "originalname", request.node.name)
    if name in engine.gaps:
        request.node.add_marker(pytest.mark.xfail(reason=engine.gaps[name], strict=True))


def require(name: str, reason: str | None) -> None:
    """Skip a test (in CI: fail it) if there is a reason why its engine cannot be used."""
    if reason is not None and os.environ.get("CI"):
        pytest.fail(f"{name}: {reason}")
    if reason is not None:
        pytest.skip(f"{name}: {reason}")


async def eventually(condition: Callable[[], Awaitable[bool]], limit_s: float = 10.0) -> None:
    """Wait until ``condition`` holds.

    Raises:
        TimeoutError: it did not within the limit.
    """
    async with asyncio.timeout(limit_s):
        while not await condition():  # noqa: ASYNC110 - an engine rings no event of ours
            await asyncio.sleep(0.01)


def held(clock: HeldClock) -> PassTime:
    """Let time pass by moving a held clock."""

    async def pass_time(seconds: float) -> None:
        clock.advance(seconds)

    return pass_time


@asynccontextmanager
async def local_store(folder: Path) -> AsyncIterator[StoreUnderTest]:
    """Open a store in a folder, with a front that serves its links on loopback."""
    clock = HeldClock(START)
    app = web.Application()
    runner = web.AppRunner(app)
    door = Door(clock)
    app.router.add_route("*", "/o/{key:.+}", door.answer)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    signer = Signer([b"a secret of the contract suite.."])
    store = LocalObjects(folder, signer, f"http://{host}:{port}", clock, min_free_bytes=0)
    door.store = door.access = store
    try:
        yield StoreUnderTest(store, held(clock))
    finally:
        await store.aclose()
        await runner.cleanup()


class Door:
    """The least front that can serve the links of a store in a folder."""

    store: ObjectStore
    access: SignedAccess

    def __init__(self, clock: HeldClock) -> None:
        self._clock = clock

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Serve one signed request."""
        try:
            grant = self.access.verify_request(
                request.method,
                request.match_info["key"],
                request.query,
                request.headers.get("Content-Type"),
                request.content_length,
                self._clock.now(),
            )
            if grant.method == "PUT":
                await self.access.receive(grant, request.content.iter_any())
                return web.Response()
            info = await self.store.stat(grant.key)
            body = await self.store.read(grant.key, info.size_bytes)
        except LimnerError as error:
            return web.Response(status=error.status, text=error.code)
        headers = {
            "Content-Type": grant.content_type or info.content_type,
            "Content-Disposition": content_disposition(grant.filename, inline=grant.inline),
        }
        return web.Response(body=body, headers=headers)


@asynccontextmanager
async def memory_cache(_: Path) -> AsyncIterator[CacheUnderTest]:
    """Open a cache in memory."""
    clock = HeldClock(START)
    cache = MemoryCache(clock)
    yield CacheUnderTest(cache, held(clock))
    await cache.aclose()


@asynccontextmanager
async def s3_store(_: Path) -> AsyncIterator[StoreUnderTest]:
    """Open a store in a fresh bucket, whose links lead through a door that verifies signatures.

    The server behind it takes any signature; the door refuses what S3 would, by a clock that
    can be moved.
    """
    server = await asyncio.to_thread(shared.s3)
    bucket = await asyncio.to_thread(server.fresh_bucket)
    door = SignatureDoor(server.endpoint, s3.ACCESS_KEY, s3.SECRET_KEY)
    async with door.opened() as public_endpoint:
        url = f"{server.url(bucket)}&public_endpoint={public_endpoint}"
        store = s3_objects(url, s3.ACCESS_KEY, s3.SECRET_KEY)
        yield StoreUnderTest(store, door.pass_time)
        await store.aclose()


@asynccontextmanager
async def redis_cache(_: Path) -> AsyncIterator[CacheUnderTest]:
    """Open a cache in an empty database; time passes by making all that is kept older."""
    server = await asyncio.to_thread(shared.redis)
    url = await asyncio.to_thread(server.fresh_database)
    cache = RedisCache(url)
    async with Redis.from_url(url) as beside:
        yield CacheUnderTest(cache, lambda seconds: age(beside, seconds))
    await cache.aclose()


async def age(server: Redis, seconds: float) -> None:
    """Let everything in a database end so much earlier, and every bucket be full so much earlier.

    To whoever asks the cache that is the same as if the time had passed.
    """
    passed_ms = round(seconds * 1000)
    async for key in server.scan_iter(b"limner:*"):
        left_ms = await server.pttl(key)
        if left_ms <= passed_ms:
            await server.delete(key)
        elif key.startswith(BUCKETS):
            kept = await server.get(key)
            assert isinstance(kept, bytes)
            full_at_s = Decimal(kept.decode()) - Decimal(str(seconds))
            await server.set(key, f"{full_at_s:f}", px=left_ms - passed_ms)
        else:
            await server.pexpire(key, left_ms - passed_ms)


OBJECT_STORES: list[Engine[StoreUnderTest]] = [
    Engine("local", local_store),
    Engine("s3", s3_store, real=True, missing=missing.no_moto),
]
CACHES: list[Engine[CacheUnderTest]] = [
    Engine("memory", memory_cache),
    Engine("redis", redis_cache, real=True, missing=missing.no_redis),
]

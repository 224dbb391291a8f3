"""How a Redis is named and reached: URLs, and TLS that verifies."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from limner.core.errors import EngineUnavailable, NotConfigured
from limner.storage.cache.redis import RedisCache
from limner.storage.cache.redis_connections import Address, read_address
from tests.contracts.engines import eventually, require
from tests.engines import missing, shared
from tests.engines.redis import RedisServer
from tests.fakes.certificates import self_signed
from tests.fakes.proxy import Proxy


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://cache", Address("cache", 6379, 0, None, None, False, None)),
        ("redis://cache:7000/3", Address("cache", 7000, 3, None, None, False, None)),
        ("redis://[::1]:7000/", Address("::1", 7000, 0, None, None, False, None)),
        ("redis://:p%40ss@h/1", Address("h", 6379, 1, None, "p@ss", False, None)),
        ("rediss://n%3A:p@h", Address("h", 6379, 0, "n:", "p", True, None)),
        ("rediss://h?ca_file=/etc/ca.pem", Address("h", 6379, 0, None, None, True, "/etc/ca.pem")),
    ],
)
def test_a_url_names_a_redis(url: str, address: Address) -> None:
    assert read_address(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "redis:",
        "redis://",
        "redis:///0",
        "redis://:s3cr3t@/0",
        "redis://:s3cr3t@h:port/0",
        "redis://:s3cr3t@h:99999/0",
        "redis://:s3cr3t@h/zero",
        "redis://:s3cr3t@h/-1",
        "redis://:s3cr3t@h/0/1",
        "redis://:s3cr3t@h/0?timeout=5",
        "redis://:s3cr3t@h/0?ca_file=/etc/ca.pem",
        "redis://:s3cr3t@h/0#x",
        "redis://:s3cr3t@[::1/0",
        "memcached://h",
        "unix:///run/redis.sock",
    ],
)
def test_what_is_no_url_of_a_redis_is_told_with_its_mend_but_not_its_password(url: str) -> None:
    with pytest.raises(NotConfigured, match=r"LIMNER_CACHE_URL.*redis://") as caught:
        RedisCache(url)
    assert "s3cr3t" not in str(caught.value)


def test_an_address_shows_no_password() -> None:
    assert "s3cr3t" not in repr(read_address("redis://somebody:s3cr3t@h/0"))


class TlsRedisServer(RedisServer):
    """redis-server whose port speaks TLS; clients need no certificate."""

    def command(self) -> list[str]:
        plain = super().command()
        plain[plain.index("--port")] = "--tls-port"
        return [
            *plain,
            *("--port", "0", "--tls-auth-clients", "no"),
            *("--tls-cert-file", str(self.folder / "certificate.pem")),
            *("--tls-key-file", str(self.folder / "key.pem")),
            *("--tls-ca-cert-file", str(self.folder / "certificate.pem")),
        ]

    def prepare(self) -> None:
        certificate, key = self_signed()
        (self.folder / "certificate.pem").write_bytes(certificate)
        (self.folder / "key.pem").write_bytes(key)

    def ready(self) -> bool:
        return "Ready to accept connections" in self.log_tail()


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[TlsRedisServer]:
    require("redis", missing.no_redis())
    with TlsRedisServer(tmp_path / "redis") as server:
        yield server


@pytest.mark.real
async def test_tls_verifies_whom_it_talks_to(tls_server: TlsRedisServer) -> None:
    ca_file = tls_server.folder / "certificate.pem"
    address = f"127.0.0.1:{tls_server.port}/0"
    known = RedisCache(f"rediss://{address}?ca_file={ca_file}")
    await known.set("a", b"x", 60)
    assert await asyncio.gather(*(known.get("a") for _ in range(5))) == [b"x"] * 5
    await known.aclose()
    for url in (
        f"rediss://{address}",
        f"rediss://localhost:{tls_server.port}/0?ca_file={ca_file}",
        f"redis://{address}",
    ):
        stranger = RedisCache(url)
        with pytest.raises(EngineUnavailable, match="out of reach"):
            await stranger.check()
        await stranger.aclose()


async def test_a_ca_file_that_is_none_is_told(tmp_path: Path) -> None:
    for name in ("missing.pem", "empty.pem"):
        (tmp_path / "empty.pem").touch()
        cache = RedisCache(f"rediss://127.0.0.1:1/0?ca_file={tmp_path / name}")
        with pytest.raises(NotConfigured, match="ca_file"):
            await cache.check()
        await cache.aclose()


async def test_nobody_who_listens_is_an_engine_out_of_reach() -> None:
    cache = RedisCache("redis://somebody:s3cr3t@127.0.0.1:1/0")
    with pytest.raises(EngineUnavailable, match="out of reach") as caught:
        await cache.check()
    assert "127.0.0.1" not in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    await cache.aclose()


Scene = Callable[[RedisCache, Proxy], Awaitable[None]]

LINES = 5


def played(scene: Scene, *, uvloop: bool) -> None:
    """Play a scene with a cache behind a proxy, on the loop that servers run on if so wanted."""
    require("redis", missing.no_redis())
    loop_factory = pytest.importorskip("uvloop").new_event_loop if uvloop else None

    async def play() -> None:
        server = shared.redis()
        url = await asyncio.to_thread(server.fresh_database)
        async with Proxy(server.port) as proxy:
            cache = RedisCache(url.replace(f":{server.port}", f":{proxy.port}"), call_s=5.0)
            try:
                await scene(cache, proxy)
            finally:
                await cache.aclose()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(play())


@pytest.mark.real
@pytest.mark.parametrize("uvloop", [False, True], ids=["asyncio", "uvloop"])
def test_idle_lines_that_were_reset_cost_no_command_each(uvloop: bool) -> None:
    async def scene(cache: RedisCache, proxy: Proxy) -> None:
        await asyncio.gather(*(cache.set(f"k{n}", b"x", 60) for n in range(LINES)))
        idle = [connection._reader for connection in cache._connections._idle]
        assert len(idle) == LINES
        proxy.reset()

        async def noticed() -> bool:
            return all(line is not None and line.exception() for line in idle)

        await eventually(noticed)
        assert [await cache.get(f"k{n}") for n in range(LINES)] == [b"x"] * LINES

    played(scene, uvloop=uvloop)


@pytest.mark.real
@pytest.mark.parametrize("uvloop", [False, True], ids=["asyncio", "uvloop"])
def test_a_line_that_breaks_just_before_a_command_is_an_engine_out_of_reach(uvloop: bool) -> None:
    async def scene(cache: RedisCache, _: Proxy) -> None:
        await cache.set("a", b"x", 60)
        (connection,) = cache._connections._idle
        look = connection.can_read

        async def look_and_break() -> bool:
            found = await look()
            assert connection._writer is not None
            connection._writer.transport.abort()
            # One turn later uvloop's handle is closed, and a write raises a RuntimeError.
            await asyncio.sleep(0)
            return found

        connection.can_read = look_and_break  # type: ignore[method-assign]
        with pytest.raises(EngineUnavailable, match="out of reach") as caught:
            await cache.get("a")
        assert isinstance(caught.value.__cause__, RuntimeError) is uvloop
        assert not connection.is_connected
        assert cache._connections._idle == []
        assert await cache.get("a") == b"x"

    played(scene, uvloop=uvloop)


@pytest.mark.real
def test_an_error_of_ours_is_not_taken_for_a_lost_server() -> None:
    async def scene(cache: RedisCache, _: Proxy) -> None:
        await cache.set("a", b"x", 60)
        (connection,) = cache._connections._idle

        async def fail() -> bool:
            raise RuntimeError("two readers of one stream")

        connection.can_read = fail  # type: ignore[method-assign]
        with pytest.raises(RuntimeError, match="two readers"):
            await cache.get("a")

    played(scene, uvloop=False)

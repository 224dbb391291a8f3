"""The proxy's faults, each seen from the client and from the server."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from tests.fakes.proxy import Proxy
from tests.journeys.process import until

LIMIT_S = 5.0
SHORT_S = 0.2


@dataclass
class Shouter:
    """A server that gives each line back in capitals, and keeps it."""

    port: int = 0
    heard: list[bytes] = field(default_factory=list)
    lost: int = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                self.heard.append(line)
                writer.write(line.upper())
                await writer.drain()
        except ConnectionError:
            self.lost += 1
        finally:
            writer.close()


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, line: bytes) -> bytes:
        """Say a line and give the answer; empty at the end of the line."""
        self.writer.write(line)
        async with asyncio.timeout(LIMIT_S):
            return await self.reader.readline()


@pytest.fixture
async def shouter() -> AsyncIterator[Shouter]:
    shouter = Shouter()
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(shouter.answer(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    shouter.port = server.sockets[0].getsockname()[1]
    yield shouter
    server.close()
    if tasks:
        await asyncio.wait(tasks, timeout=LIMIT_S)


@pytest.fixture
async def proxy(shouter: Shouter) -> AsyncIterator[Proxy]:
    async with Proxy(shouter.port) as proxy:
        yield proxy


@asynccontextmanager
async def client(proxy: Proxy) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


async def test_what_is_said_comes_through_both_ways_and_the_end_too(
    shouter: Shouter, proxy: Proxy
) -> None:
    async with client(proxy) as one, client(proxy) as other:
        assert await one.say(b"hello\n") == b"HELLO\n"
        assert await other.say(b"x" * 60_000 + b"\n") == b"X" * 60_000 + b"\n"
        one.writer.write_eof()
        assert await one.reader.read() == b""
    assert proxy.connections == 2
    assert [len(line) for line in shouter.heard] == [6, 60_001]


async def test_a_refusing_proxy_breaks_its_lines_and_takes_no_new_ones_until_it_is_healed(
    shouter: Shouter, proxy: Proxy
) -> None:
    async with client(proxy) as one:
        assert await one.say(b"a\n") == b"A\n"
        await proxy.refuse()
        with pytest.raises(ConnectionResetError):
            await one.say(b"b\n")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
    await proxy.heal()
    async with client(proxy) as again:
        assert await again.say(b"c\n") == b"C\n"
    assert shouter.heard == [b"a\n", b"c\n"]


async def test_a_black_hole_takes_connections_and_says_nothing_until_it_is_healed(
    shouter: Shouter, proxy: Proxy
) -> None:
    async with client(proxy) as one:
        assert await one.say(b"a\n") == b"A\n"
        proxy.black_hole()
        async with client(proxy) as late:
            for waiting, said in ((one, b"b\n"), (late, b"c\n")):
                waiting.writer.write(said)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(SHORT_S):
                        await waiting.reader.readline()
            assert shouter.heard == [b"a\n"]
            await proxy.heal()
            assert await one.say(b"") == b"B\n"
            assert await late.say(b"") == b"C\n"


async def test_a_reset_is_seen_on_both_sides_and_the_next_line_goes_well(
    shouter: Shouter, proxy: Proxy
) -> None:
    async with client(proxy) as one:
        assert await one.say(b"a\n") == b"A\n"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await one.say(b"")
        await until(lambda: shouter.lost == 1, LIMIT_S, "the server's half to break")
    async with client(proxy) as again:
        assert await again.say(b"b\n") == b"B\n"


async def test_latency_delays_each_direction(proxy: Proxy) -> None:
    async with client(proxy) as one:
        await one.say(b"a\n")
        proxy.latency_s = SHORT_S
        began = time.monotonic()
        assert await one.say(b"b\n") == b"B\n"
        assert time.monotonic() - began >= 2 * SHORT_S


async def test_a_line_is_cut_when_its_pattern_was_said_and_the_server_has_done_the_work(
    shouter: Shouter, proxy: Proxy
) -> None:
    async with client(proxy) as one, client(proxy) as other:
        assert await one.say(b"begin\n") == b"BEGIN\n"
        cut, before = proxy.cut_after(b"COMMIT"), proxy.passed_bytes + 14
        assert await other.say(b"select\n") == b"SELECT\n"
        one.writer.write(b"COM")
        await one.writer.drain()
        await until(lambda: proxy.passed_bytes == before + 3, LIMIT_S, "a half")
        with pytest.raises(ConnectionResetError):
            await one.say(b"MIT\n")
        assert shouter.heard[-1] == b"COMMIT\n", "it was done, and nobody was told"
        assert cut.done.is_set()
        assert await other.say(b"COMMIT\n") == b"COMMIT\n", "one line is cut, and once"


async def test_an_answer_can_be_what_cuts(shouter: Shouter, proxy: Proxy) -> None:
    async with client(proxy) as one:
        cut = proxy.cut_after(b"READY", side="server")
        assert await one.say(b"ready\n") == b"READY\n"
        with pytest.raises(ConnectionResetError):
            await one.say(b"go\n")
        assert cut.done.is_set()
        assert shouter.heard == [b"ready\n"]


async def test_a_server_that_is_gone_is_a_reset_for_the_client(shouter: Shouter) -> None:
    async with Proxy(1) as proxy, client(proxy) as one:
        with pytest.raises(ConnectionResetError):
            await one.say(b"a\n")
    assert shouter.heard == []

"""The pool of connections by itself, over connections that only say whether they stand."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from limner.core.errors import EngineUnavailable
from limner.storage.sql.pool import RECYCLE_S, ConnectionPool


class Line:
    """A connection that stands until it is closed or hung up on."""

    def __init__(self) -> None:
        self.closed = False
        self.hung_up = False
        self.in_transaction = False
        self.farewell: Exception | None = None
        self._reader = self
        self.last_usage = asyncio.get_running_loop().time()

    def at_eof(self) -> bool:
        return self.hung_up

    eof_received = False

    def exception(self) -> None:
        return None

    def get_transaction_status(self) -> bool:
        return self.in_transaction

    def close(self) -> None:
        self.closed = True

    async def ensure_closed(self) -> None:
        if self.farewell:
            raise self.farewell
        self.closed = True


class Exchange:
    """Opens lines, unless there is trouble, and remembers them."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.trouble: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def connect(self) -> Any:
        if self.gate is not None:
            await self.gate.wait()
        if self.trouble is not None:
            raise self.trouble
        self.lines.append(Line())
        return self.lines[-1]


@pytest.fixture
async def exchange() -> Exchange:
    return Exchange()


async def test_the_connection_that_was_used_last_is_lent_first(exchange: Exchange) -> None:
    pool = ConnectionPool(exchange.connect, 4)
    one, two = await pool.acquire(), await pool.acquire()
    pool.release(one)
    pool.release(two)
    assert await pool.acquire() is two
    assert len(exchange.lines) == 2


def hang_up(line: Line) -> None:
    line.hung_up = True


def leave_a_transaction(line: Line) -> None:
    line.in_transaction = True


def grow_old(line: Line) -> None:
    line.last_usage -= RECYCLE_S


@pytest.mark.parametrize(
    ("moment", "what"),
    [("lent", leave_a_transaction), ("lent", hang_up), ("free", hang_up), ("free", grow_old)],
)
async def test_what_is_not_fit_to_be_lent_again_is_closed(
    exchange: Exchange, moment: str, what: Callable[[Line], None]
) -> None:
    pool = ConnectionPool(exchange.connect, 2)
    line = await pool.acquire()
    if moment == "lent":
        what(line)
    pool.release(line)
    if moment == "free":
        what(line)
    assert await pool.acquire() is not line
    assert line.closed


async def test_a_connection_that_could_not_be_opened_gives_its_turn_back(
    exchange: Exchange,
) -> None:
    pool = ConnectionPool(exchange.connect, 2, wait_s=0.05)
    exchange.trouble = EngineUnavailable("nobody is there")
    for _ in range(5):
        with pytest.raises(EngineUnavailable, match="nobody"):
            await pool.acquire(writing=True)
    exchange.trouble = None
    async with pool.lend() as line:
        assert line is exchange.lines[0]


async def test_connections_are_opened_beside_each_other(exchange: Exchange) -> None:
    pool = ConnectionPool(exchange.connect, 4)
    exchange.gate = asyncio.Event()
    waiting = [asyncio.create_task(pool.acquire()) for _ in range(4)]
    await asyncio.sleep(0)
    exchange.gate.set()
    assert len(set(await asyncio.gather(*waiting))) == 4


async def test_who_is_cancelled_while_waiting_takes_nothing_along(exchange: Exchange) -> None:
    pool = ConnectionPool(exchange.connect, 2)
    writer = await pool.acquire(writing=True)
    waiting = asyncio.create_task(pool.acquire(writing=True))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    pool.release(writer)
    assert await asyncio.wait_for(pool.acquire(writing=True), 1) is writer


@pytest.mark.parametrize(("size", "writers"), [(1, 1), (2, 1), (4, 3), (20, 15)])
async def test_a_quarter_is_left_to_readers(exchange: Exchange, size: int, writers: int) -> None:
    pool = ConnectionPool(exchange.connect, size, wait_s=0.01)
    for _ in range(writers):
        await pool.acquire(writing=True)
    with pytest.raises(EngineUnavailable, match="are busy"):
        await pool.acquire(writing=True)
    for _ in range(pool.size - writers):
        await pool.acquire()
    with pytest.raises(EngineUnavailable, match="LIMNER_DATABASE_POOL"):
        await pool.acquire()


async def test_closing_closes_what_is_free_and_what_is_lent(exchange: Exchange) -> None:
    pool = ConnectionPool(exchange.connect, 4)
    lent, free, rude = [await pool.acquire() for _ in range(3)]
    rude.farewell = ConnectionResetError()
    pool.release(free)
    pool.release(rude)
    await pool.close()
    assert all(line.closed for line in exchange.lines)
    pool.release(lent)
    with pytest.raises(EngineUnavailable, match="closed"):
        await pool.acquire()

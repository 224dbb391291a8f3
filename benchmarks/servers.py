"""A RabbitMQ and a MariaDB for one benchmark, private and durable, and what they use.

MariaDB syncs each commit to disk, as a real one does; its buffers are larger than in the tests.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psutil

from tests.engines import missing
from tests.engines.mariadb import MariaDbServer
from tests.engines.rabbitmq import RabbitServer
from tests.engines.server import Server

RABBITMQ, MARIADB = "RabbitMQ", "MariaDB"


class EnginesMissing(RuntimeError):
    """What is to be measured is not installed; the message says how to get it."""


class DurableMariaDb(MariaDbServer):
    """mariadbd that writes each commit to disk, with room for what a benchmark stores."""

    durable = True

    def command(self) -> list[str]:
        # Of options given twice the last one counts.
        return [
            *super().command(),
            *("--innodb-buffer-pool-size=256M", "--innodb-log-file-size=128M"),
        ]


@dataclass(frozen=True)
class Place:
    """Where a worker finds its messages and its rows."""

    broker_url: str
    database_url: str


class Servers:
    """Both servers, running; each measurement gets a fresh place on them."""

    def __init__(self, rabbit: RabbitServer, mariadb: MariaDbServer) -> None:
        self._rabbit = rabbit
        self._mariadb = mariadb

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Place]:
        """Make a virtual host and a database for the time of a block."""
        broker_url = await asyncio.to_thread(self._rabbit.fresh_vhost)
        database_url = await asyncio.to_thread(self._mariadb.fresh_database)
        try:
            yield Place(broker_url, database_url)
        finally:
            await asyncio.to_thread(self._rabbit.drop_vhost, broker_url)
            await asyncio.to_thread(self._mariadb.drop_database, database_url)

    def usage(self) -> dict[str, float]:
        """Give the processor seconds that each server has used since its start."""
        return {RABBITMQ: _cpu_s(self._rabbit), MARIADB: _cpu_s(self._mariadb)}


def _cpu_s(server: Server) -> float:
    first = psutil.Process(server.process_id)
    used = [one.cpu_times() for one in (first, *first.children(recursive=True))]
    return float(sum(one.user + one.system for one in used))


@asynccontextmanager
async def running() -> AsyncIterator[Servers]:
    """Start both for the time of a block.

    Raises:
        EnginesMissing: one of them is not installed.
    """
    _demand(missing.no_rabbitmq())
    async with mariadb_running() as mariadb:
        rabbit = RabbitServer()
        try:
            await asyncio.to_thread(rabbit.start)
            yield Servers(rabbit, mariadb)
        finally:
            await asyncio.to_thread(rabbit.close)


@asynccontextmanager
async def mariadb_running() -> AsyncIterator[MariaDbServer]:
    """Start the database alone.

    Raises:
        EnginesMissing: it is not installed.
    """
    _demand(missing.no_mariadb())
    mariadb = DurableMariaDb()
    try:
        await asyncio.to_thread(mariadb.start)
        yield mariadb
    finally:
        await asyncio.to_thread(mariadb.close)


def _demand(reason: str | None) -> None:
    if reason is not None:
        raise EnginesMissing(reason)

"""What most tests need: a clock that stands still, a migrated database, a broker, and order.

After each test nothing may be left behind: no task, no thread of a database connection, no armed
failpoint, no error that only the event loop heard of.
"""

import asyncio
import inspect
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import settings

from limner.core import failpoints
from limner.core.brokers.embedded import EmbeddedBroker
from limner.core.clock import HeldClock, SystemClock
from limner.core.metrics import Metrics
from limner.storage.sql.database import Database
from limner.storage.sql.outbox import Outbox
from limner.storage.sql.schema import migrate
from limner.storage.sql.unit import SqlUnits
from tests.contracts.engines import Engine, each, prepare
from tests.contracts.units import DATABASES, Sql, World, durable_process, embedded_process
from tests.fakes import databases

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SETTLE_S = 2.0
DATABASE_THREAD = "_connection_worker_thread"

settings.register_profile("limner", deadline=None, max_examples=25)
settings.load_profile("limner")

# A bug that a test provokes is logged with a plain traceback: drawing a fine one takes long.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(
            colors=False, exception_formatter=structlog.dev.plain_traceback
        ),
    ]
)


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Surround each test with the leak checks; it is set up first and torn down last."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("_no_task_left")
    yield
    failpoints.arm(None)
    structlog.contextvars.clear_contextvars()
    threads = [thread for thread in threading.enumerate() if DATABASE_THREAD in thread.name]
    for thread in threads:
        thread.join(SETTLE_S)
    left = [thread.name for thread in threads if thread.is_alive()]
    assert not left, f"database connections were left open: {left}"


@pytest.fixture
async def _no_task_left() -> AsyncIterator[None]:
    """Fail a test that leaves a task running, or an error that nobody asked for."""
    loop = asyncio.get_running_loop()
    before = asyncio.all_tasks()
    unheard: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unheard.append(context))
    yield
    left = asyncio.all_tasks() - before
    left.discard(asyncio.current_task())
    if left:
        _, left = await asyncio.wait(left, timeout=SETTLE_S)
    assert not left, f"tasks were left running: {left}"
    assert not unheard, f"the event loop heard of: {unheard}"


@pytest.fixture
def clock() -> HeldClock:
    """Give a clock that moves when told to."""
    return HeldClock(NOW)


@pytest.fixture
def metrics() -> Metrics:
    """Give a registry of its own."""
    return Metrics("test")


@pytest.fixture
async def broker(clock: HeldClock) -> AsyncIterator[EmbeddedBroker]:
    """Give the embedded broker; tests start the queues they need."""
    embedded = EmbeddedBroker(clock)
    yield embedded
    await embedded.aclose()


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a SQLite file with the newest schema, made once; copy it, never open it."""
    path = tmp_path_factory.mktemp("schema") / "migrated.db"

    async def make() -> None:
        database = Database(f"sqlite://{path}", SystemClock())
        await database.open()
        try:
            await migrate(database)
        finally:
            await database.close()

    asyncio.run(make())
    return path


@pytest.fixture
async def database(
    migrated_file: Path, tmp_path: Path, clock: HeldClock
) -> AsyncIterator[Database]:
    """Give an open database with the newest schema and no rows."""
    async with databases.opened(migrated_file, tmp_path / "limner.db", clock) as opened:
        yield opened


@pytest.fixture
async def outbox(
    database: Database, broker: EmbeddedBroker, clock: HeldClock, metrics: Metrics
) -> AsyncIterator[Outbox]:
    """Give the outbox between ``database`` and ``broker``."""
    relaying = Outbox(database, broker, clock, metrics)
    yield relaying
    await relaying.drain()


@pytest.fixture
def units(database: Database, broker: EmbeddedBroker, clock: HeldClock, outbox: Outbox) -> SqlUnits:
    """Give units of work that offer their messages to ``broker``."""
    return SqlUnits(database, broker, clock, outbox.offer)


@pytest.fixture(params=each(DATABASES))
async def sql(
    request: pytest.FixtureRequest, tmp_path: Path, migrated_file: Path
) -> AsyncIterator[Sql]:
    """Give each database with the newest schema and no rows."""
    engine: Engine[Sql] = request.param
    prepare(engine, request)
    shutil.copyfile(migrated_file, tmp_path / "limner.db")
    async with engine.open(tmp_path) as opened:
        yield opened


@pytest.fixture
async def world(sql: Sql) -> AsyncIterator[World]:
    """Give a process with the embedded broker."""
    opened = embedded_process(sql)
    await opened.broker.start(["echo"])
    yield opened
    await opened.settle()


@pytest.fixture(params=[embedded_process, durable_process], ids=["embedded", "durable"])
async def any_world(sql: Sql, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Give a process with either kind of broker."""
    make: Callable[[Sql], World] = request.param
    opened = make(sql)
    await opened.broker.start(["echo"])
    yield opened
    await opened.settle()

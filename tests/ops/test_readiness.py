"""Readiness of a whole process: it follows the database, and no other engine."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import ClientSession

from limner.actors.ports import Ports
from limner.app import Service, open_engines
from limner.core.errors import EngineUnavailable
from limner.core.settings import HttpSettings, Settings
from limner.ops import migration
from tests.fakes.front import until
from tests.journeys.process import free_port

WATCH_S = 0.01
OTHERS = ("broker", "cache", "objects")


class Check:
    """An engine's own check, which can be told that the engine is away."""

    def __init__(self, own: Callable[[], Awaitable[None]]) -> None:
        self._own = own
        self.is_away = False

    async def __call__(self) -> None:
        if self.is_away:
            raise EngineUnavailable("away")
        await self._own()


@dataclass
class Process:
    """A service with a front and without actors, whose engines are looked at all the time."""

    service: Service
    ports: Ports
    session: ClientSession
    checks: dict[str, Check]

    def up(self, name: str) -> float | None:
        """Give the engine's gauge."""
        return self.ports.metrics.registry.get_sample_value("limner_engine_up", {"engine": name})

    async def ready(self) -> int:
        """Ask as a load balancer would."""
        async with self.session.get(f"{self.service.url}/readyz") as answer:
            return answer.status


@pytest.fixture
async def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Process]:
    settings = Settings(home=tmp_path, http=HttpSettings(host="127.0.0.1", port=free_port()))
    async with open_engines(settings, check_schema=False) as engines, ClientSession() as session:
        ports = engines.ports
        await migration.migrate(ports.database, ports.units)
        checks = {name: Check(getattr(ports, name).check) for name in OTHERS}
        for name, check in checks.items():
            monkeypatch.setattr(getattr(ports, name), "check", check)
        service = Service(engines, (), {}, watch_interval_s=WATCH_S)
        try:
            await service.start(http=True)
            yield Process(service, ports, session, checks)
        finally:
            await service.stop()


async def test_a_process_whose_database_is_away_is_not_ready_until_it_is_back(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    await until(lambda: process.up("database") == 1.0)
    assert await process.ready() == 200

    async def away(*_: object) -> None:
        raise EngineUnavailable("away")

    with monkeypatch.context() as outage:
        outage.setattr(process.ports.database.read().client, "execute_query_dict", away)
        await until(lambda: process.up("database") == 0.0)
        assert await process.ready() == 503
    await until(lambda: process.up("database") == 1.0)
    assert await process.ready() == 200


@pytest.mark.parametrize("name", OTHERS)
async def test_a_process_may_serve_while_another_engine_is_away(
    process: Process, name: str
) -> None:
    await until(lambda: process.up(name) == 1.0)
    process.checks[name].is_away = True
    await until(lambda: process.up(name) == 0.0)
    assert await process.ready() == 200
    lines = {line.name: line for line in await process.service.checks()}
    assert (lines[name].status, lines["database"].status) == ("fail", "pass")
    assert lines["loop engine-watch"].status == "pass"
    process.checks[name].is_away = False
    await until(lambda: process.up(name) == 1.0)

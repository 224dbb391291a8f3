"""The report and the watch: all engines are looked at at once, and none can hold up the others."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from limner.core.errors import EngineUnavailable
from limner.core.health import Check
from limner.core.metrics import Metrics
from limner.ops import health
from limner.ops.health import EngineWatch, Probe, answers, report
from limner.storage.sql.database import Database
from tests.fakes.front import until

NAMES = ("broker", "database", "cache", "objects")
BRIEF_S = 0.05
LIMIT_S = 5.0


class Switch:
    """A probe that can be told how its engine is: it answers, refuses, or is silent."""

    def __init__(self) -> None:
        self.how: Callable[[], Awaitable[object]] | None = None
        self.asked = 0
        self.given_up = 0

    async def __call__(self) -> None:
        self.asked += 1
        try:
            if self.how is not None:
                await self.how()
        except asyncio.CancelledError:
            self.given_up += 1
            raise

    def answer(self) -> None:
        """Answer from now on."""
        self.how = None

    def refuse(self) -> None:
        """Refuse from now on."""

        async def refuse() -> None:
            raise EngineUnavailable("connection refused")

        self.how = refuse

    def fall_silent(self) -> None:
        """Never answer again."""
        self.how = asyncio.Event().wait


@pytest.fixture
def engines() -> dict[str, Switch]:
    return {name: Switch() for name in NAMES}


def probes(engines: dict[str, Switch]) -> dict[str, Probe]:
    return dict(engines)


def gauge(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value("limner_engine_up", {"engine": name})


async def test_a_report_has_a_line_for_each_engine_and_what_else_there_is(
    engines: dict[str, Switch], database: Database, tmp_path: Path
) -> None:
    lines = await report(probes(engines), tmp_path)
    assert [line.name for line in lines] == [*NAMES, "disk", "outbox", "dead letters"]
    assert {line.status for line in lines[:4]} == {"pass"}


async def test_the_real_probes_go_by_the_names_of_reports_and_metrics() -> None:
    assert set(health.MENDS) == set(NAMES)


async def test_all_engines_are_looked_at_at_once(database: Database, tmp_path: Path) -> None:
    together = asyncio.Barrier(len(NAMES))

    async def meet() -> None:
        await together.wait()

    lines = await report(dict.fromkeys(NAMES, meet), tmp_path, limit_s=LIMIT_S)
    assert {line.status for line in lines[:4]} == {"pass"}


async def test_silent_engines_are_told_with_the_limit_and_are_given_up(
    engines: dict[str, Switch], database: Database, tmp_path: Path
) -> None:
    engines["cache"].fall_silent()
    engines["objects"].fall_silent()
    lines = {line.name: line for line in await report(probes(engines), tmp_path, BRIEF_S)}
    assert lines["cache"] == Check("cache", "fail", "no answer in 0.05 s", "see LIMNER_CACHE_URL")
    assert lines["objects"].status == "fail"
    assert (lines["broker"].status, lines["database"].status) == ("pass", "pass")
    assert [engines[name].given_up for name in NAMES] == [0, 0, 1, 1]


async def test_a_report_without_a_database_says_so_and_leaves_out_what_it_would_know(
    engines: dict[str, Switch],
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engines["database"].refuse()
    away = Switch()
    monkeypatch.setattr(health, "backlog", away)
    for lose in (away.refuse, away.fall_silent):
        lose()
        lines = await report(probes(engines), tmp_path, BRIEF_S)
        assert [line.name for line in lines] == [*NAMES, "disk"]
        assert lines[1] == Check(
            "database", "fail", "connection refused", "see LIMNER_DATABASE_URL"
        )


async def test_a_probe_with_a_bug_is_a_line_that_fails_and_a_trace_in_the_log() -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    with capture_logs() as lines:
        line = await answers("broker", broken)
    assert (line.status, line.detail) == ("fail", "the check itself failed: ZeroDivisionError")
    assert [(one["log_level"], one["check"]) for one in lines] == [("error", "broker")]


@asynccontextmanager
async def watching(
    engines: dict[str, Switch], metrics: Metrics, limit_s: float = LIMIT_S
) -> AsyncIterator[EngineWatch]:
    """Have a watch that looks without a pause to speak of."""
    watch = EngineWatch(probes(engines), metrics, interval_s=0.005, limit_s=limit_s)
    stop = asyncio.Event()
    running = asyncio.create_task(watch.run(stop))
    try:
        yield watch
    finally:
        stop.set()
        async with asyncio.timeout(LIMIT_S):
            await running


async def test_the_watch_keeps_a_gauge_of_each_engine(
    engines: dict[str, Switch], metrics: Metrics
) -> None:
    async with watching(engines, metrics, BRIEF_S) as watch:
        assert watch.is_up("database"), "nobody has looked yet"
        await until(lambda: all(gauge(metrics, name) == 1.0 for name in NAMES))
        for lose in (engines["broker"].refuse, engines["broker"].fall_silent):
            lose()
            await until(lambda: gauge(metrics, "broker") == 0.0)
            assert not watch.is_up("broker")
            assert [gauge(metrics, name) for name in NAMES] == [0.0, 1.0, 1.0, 1.0]
            engines["broker"].answer()
            await until(lambda: gauge(metrics, "broker") == 1.0)
            assert watch.is_up("broker")


async def test_a_loss_and_a_return_are_logged_once_each(
    engines: dict[str, Switch], metrics: Metrics
) -> None:
    cache = engines["cache"]
    with capture_logs() as lines:
        async with watching(engines, metrics) as watch:
            cache.refuse()
            await until(lambda: not watch.is_up("cache"))
            looked = cache.asked
            await until(lambda: cache.asked > looked + 3)
            cache.answer()
            await until(lambda: watch.is_up("cache"))
            looked = cache.asked
            await until(lambda: cache.asked > looked + 3)
    assert lines == [
        {
            "event": "engine lost",
            "log_level": "warning",
            "engine": "cache",
            "reason": "connection refused",
        },
        {"event": "engine back", "log_level": "info", "engine": "cache"},
    ]


async def test_a_silent_engine_delays_no_look_at_the_others(
    engines: dict[str, Switch], metrics: Metrics
) -> None:
    engines["objects"].fall_silent()
    async with watching(engines, metrics, limit_s=60.0) as watch:
        await until(lambda: engines["database"].asked > 3)
        engines["database"].refuse()
        await until(lambda: not watch.is_up("database"))
        assert engines["objects"].asked == 1


async def test_a_watch_that_is_told_to_end_gives_up_the_look_it_is_at(
    engines: dict[str, Switch], metrics: Metrics
) -> None:
    for engine in engines.values():
        engine.fall_silent()
    async with watching(engines, metrics, limit_s=60.0):
        await until(lambda: all(engine.asked for engine in engines.values()))
    assert [engine.given_up for engine in engines.values()] == [1] * 4

"""The supervisor: one for one, not too often, and in the end it lets go in order."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import structlog

from limner.core.actor import Loop
from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable
from limner.core.metrics import Metrics
from limner.core.supervisor import (
    DELAY_CAP_S,
    ENGINE_PAUSE_S,
    GIVE_UP_S,
    INTENSITY,
    PERIOD_S,
    LoopStatus,
    Supervisor,
)
from tests.contracts.engines import eventually

LIMIT_S = 10.0
Run = Callable[[asyncio.Event], Awaitable[None]]


class Paused(Supervisor):
    """Waits by moving its clock, and remembers how long."""

    def __init__(self, clock: HeldClock, metrics: Metrics, drain_s: float = 5.0) -> None:
        super().__init__(clock, metrics, drain_s)
        self._held = clock
        self.pauses_s: list[float] = []

    async def _pause(self, seconds: float) -> None:
        self.pauses_s.append(seconds)
        self._held.advance(seconds)
        await asyncio.sleep(0)


@pytest.fixture
async def supervisor(clock: HeldClock, metrics: Metrics) -> AsyncIterator[Paused]:
    made = Paused(clock, metrics)
    yield made
    await asyncio.wait_for(made.stop(), LIMIT_S)


def until_stopped() -> Run:
    async def run(stop: asyncio.Event) -> None:
        await stop.wait()

    return run


def failing(times: int, error: Exception | None = None) -> tuple[Run, list[int], asyncio.Event]:
    """Give a loop that ends so often, then runs; its starts; and an event for when it runs."""
    starts: list[int] = []
    settled = asyncio.Event()

    async def run(stop: asyncio.Event) -> None:
        starts.append(1)
        if len(starts) <= times:
            if error is not None:
                raise error
            return
        settled.set()
        await stop.wait()

    return run, starts, settled


def restarts(metrics: Metrics, name: str) -> float:
    labels = {"actor": name}
    return metrics.registry.get_sample_value("limner_actor_restarts_total", labels) or 0.0


async def test_loops_run_side_by_side_until_told_to_stop(supervisor: Paused) -> None:
    supervisor.start([Loop("a", until_stopped()), Loop("b", until_stopped())])
    await asyncio.sleep(0)
    assert [status.state for status in supervisor.statuses.values()] == ["running"] * 2
    assert supervisor.ready
    assert not supervisor.stopping
    await supervisor.stop()
    assert [status.state for status in supervisor.statuses.values()] == ["stopped"] * 2
    assert supervisor.stopping
    assert not supervisor.ready


async def test_a_process_without_loops_is_ready_and_stops(supervisor: Paused) -> None:
    assert supervisor.ready
    await supervisor.stop()
    assert not supervisor.ready


@pytest.mark.parametrize("error", [None, ZeroDivisionError("a bug")])
async def test_a_loop_that_ends_is_started_again_and_the_others_run_on(
    supervisor: Paused, metrics: Metrics, error: Exception | None
) -> None:
    run, starts, settled = failing(2, error)
    other, others, _ = failing(0)
    supervisor.start([Loop("frail", run), Loop("steady", other)])
    await asyncio.wait_for(settled.wait(), LIMIT_S)
    assert (len(starts), len(others)) == (3, 1)
    status = supervisor.statuses["frail"]
    assert (status.state, status.restarts) == ("running", 2)
    assert status.last_error == ("a bug" if error else "ended by itself")
    assert supervisor.pauses_s == []
    assert supervisor.ready
    assert (restarts(metrics, "frail"), restarts(metrics, "steady")) == (2.0, 0.0)


async def test_a_loop_that_failed_is_logged_with_its_traceback(supervisor: Paused) -> None:
    run, _, settled = failing(1, ZeroDivisionError("a bug"))
    with structlog.testing.capture_logs() as logs:
        supervisor.start([Loop("frail", run)])
        await asyncio.wait_for(settled.wait(), LIMIT_S)
    assert [(line["event"], line["loop"], line["exc_info"]) for line in logs] == [
        ("loop failed", "frail", True)
    ]


async def test_restarts_that_are_few_in_a_period_never_wait(
    supervisor: Paused, clock: HeldClock
) -> None:
    ends, done = 0, asyncio.Event()

    async def run(stop: asyncio.Event) -> None:
        nonlocal ends
        if ends == 20:
            done.set()
            await stop.wait()
            return
        ends += 1
        clock.advance(PERIOD_S / INTENSITY)

    supervisor.start([Loop("frail", run)])
    await asyncio.wait_for(done.wait(), LIMIT_S)
    assert supervisor.pauses_s == []
    assert supervisor.statuses["frail"].restarts == 20


async def test_too_many_restarts_wait_longer_and_longer_and_the_process_is_not_ready(
    supervisor: Paused,
) -> None:
    ready: list[bool] = []
    run, _, settled = failing(INTENSITY + 7)

    async def look(stop: asyncio.Event) -> None:
        ready.append(supervisor.ready)
        await run(stop)

    supervisor.start([Loop("frail", look)])
    await asyncio.wait_for(settled.wait(), LIMIT_S)
    assert supervisor.pauses_s == [1, 2, 4, 8, 16, DELAY_CAP_S, DELAY_CAP_S]
    assert ready == [True] * (INTENSITY + 1) + [False] * 7
    assert not supervisor.gave_up.is_set()


async def test_a_loop_that_has_run_for_a_whole_period_is_trusted_again(
    supervisor: Paused, clock: HeldClock
) -> None:
    starts, settled, go = 0, asyncio.Event(), asyncio.Event()

    async def run(stop: asyncio.Event) -> None:
        nonlocal starts
        starts += 1
        if starts == INTENSITY + 3:
            settled.set()
            await go.wait()
        elif starts > INTENSITY + 3:
            await stop.wait()

    supervisor.start([Loop("frail", run)])
    await asyncio.wait_for(settled.wait(), LIMIT_S)
    assert not supervisor.ready
    clock.advance(PERIOD_S - 0.001)
    assert not supervisor.ready
    clock.advance(0.001)
    assert supervisor.ready
    go.set()
    await eventually(lambda: _is(lambda: starts == INTENSITY + 4))
    assert supervisor.pauses_s == [1, 2]
    assert supervisor.statuses["frail"].failing_since is None
    assert supervisor.ready


async def _is(condition: Callable[[], bool]) -> bool:
    return condition()


async def test_after_five_minutes_of_delayed_restarts_it_gives_up(
    supervisor: Paused, clock: HeldClock
) -> None:
    async def run(_: asyncio.Event) -> None:
        if supervisor.gave_up.is_set():
            await asyncio.Event().wait()
        raise ZeroDivisionError

    supervisor._drain_s = 0.01
    supervisor.start([Loop("broken", run)])
    await asyncio.wait_for(supervisor.gave_up.wait(), LIMIT_S)
    assert sum(supervisor.pauses_s[:-2]) < GIVE_UP_S <= sum(supervisor.pauses_s[:-1])
    assert clock.monotonic() <= GIVE_UP_S + 2 * DELAY_CAP_S


@pytest.mark.parametrize(
    "error",
    [
        EngineUnavailable("broker: connection refused"),
        ExceptionGroup("g", [ExceptionGroup("g", [EngineUnavailable("broker: gone")])]),
    ],
)
async def test_engines_out_of_reach_are_waited_for_and_not_counted(
    supervisor: Paused, metrics: Metrics, error: Exception
) -> None:
    seen: list[str] = []
    run, _, settled = failing(1000, error)

    async def look(stop: asyncio.Event) -> None:
        seen.append(supervisor.statuses["actor"].last_error)
        await run(stop)

    supervisor.start([Loop("actor", look)])
    await asyncio.wait_for(settled.wait(), LIMIT_S)
    assert set(supervisor.pauses_s) == {ENGINE_PAUSE_S}
    assert not supervisor.gave_up.is_set()
    assert supervisor.statuses["actor"].restarts == 0
    assert restarts(metrics, "actor") == 0
    assert seen[-1].startswith("broker: ")
    assert supervisor.ready


async def test_while_it_waits_for_an_engine_the_process_is_not_ready(
    clock: HeldClock, metrics: Metrics
) -> None:
    waiting = Supervisor(clock, metrics)
    run, starts, _ = failing(1000, EngineUnavailable("database: gone"))
    waiting.start([Loop("actor", run)])
    await eventually(lambda: _is(lambda: waiting.statuses["actor"].state == "waiting"))
    assert not waiting.ready
    await asyncio.wait_for(waiting.stop(), ENGINE_PAUSE_S)
    assert len(starts) == 1


async def test_an_engine_and_a_bug_together_are_a_bug(supervisor: Paused) -> None:
    both = ExceptionGroup("g", [ZeroDivisionError(), EngineUnavailable("gone")])
    run, _, settled = failing(1, both)
    supervisor.start([Loop("actor", run)])
    await asyncio.wait_for(settled.wait(), LIMIT_S)
    status = supervisor.statuses["actor"]
    assert (status.restarts, status.last_error) == (1, "ZeroDivisionError")


async def test_a_pause_ends_when_its_time_is_over_or_when_told_to_stop(
    clock: HeldClock, metrics: Metrics
) -> None:
    plain = Supervisor(clock, metrics)
    await asyncio.wait_for(plain._pause(0.01), LIMIT_S)
    pausing = asyncio.create_task(plain._pause(3600))
    await asyncio.sleep(0)
    await plain.stop()
    await asyncio.wait_for(pausing, LIMIT_S)


async def test_stopping_lets_a_loop_finish_what_it_has_in_hand(
    clock: HeldClock, metrics: Metrics
) -> None:
    finished: list[str] = []

    async def run(stop: asyncio.Event) -> None:
        await stop.wait()
        await asyncio.sleep(0.02)
        finished.append("drained")

    patient = Supervisor(clock, metrics, drain_s=LIMIT_S)
    patient.start([Loop("actor", run)])
    await asyncio.sleep(0)
    await patient.stop()
    assert finished == ["drained"]


async def test_a_loop_that_does_not_end_in_time_is_cancelled(
    clock: HeldClock, metrics: Metrics
) -> None:
    cancelled: list[str] = []

    async def deaf(_: asyncio.Event) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append("deaf")
            raise

    short = Supervisor(clock, metrics, drain_s=0.02)
    short.start([Loop("deaf", deaf), Loop("good", until_stopped())])
    await asyncio.sleep(0)
    with structlog.testing.capture_logs() as logs:
        await asyncio.wait_for(short.stop(), LIMIT_S)
    assert cancelled == ["deaf"]
    assert short.statuses["deaf"].state == "stopped"
    assert [line["loop"] for line in logs] == ["deaf"]
    await short.stop()


async def test_a_loop_that_fails_while_stopping_is_not_started_again(
    clock: HeldClock, metrics: Metrics
) -> None:
    starts: list[int] = []

    async def run(stop: asyncio.Event) -> None:
        starts.append(1)
        await stop.wait()
        raise ZeroDivisionError

    stopping = Supervisor(clock, metrics)
    stopping.start([Loop("frail", run)])
    await asyncio.sleep(0)
    await stopping.stop()
    assert len(starts) == 1


async def test_started_and_stopped_again_and_again_it_leaves_nothing_behind(
    clock: HeldClock, metrics: Metrics
) -> None:
    running = 0

    async def run(stop: asyncio.Event) -> None:
        nonlocal running
        running += 1
        try:
            await stop.wait()
        finally:
            running -= 1

    for turns in range(60):
        one = Supervisor(clock, metrics, drain_s=1.0)
        one.start([Loop(f"loop {n}", run) for n in range(20)])
        for _ in range(turns % 4):
            await asyncio.sleep(0)
        await asyncio.gather(one.stop(), one.stop())
        assert running == 0
        assert {status.state for status in one.statuses.values()} == {"stopped"}


def test_a_loop_is_stopped_before_it_was_started() -> None:
    status = LoopStatus("actor")
    assert (status.state, status.restarts, status.last_error) == ("stopped", 0, "")

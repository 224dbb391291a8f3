"""The supervisor: keeps loops running, one for one, and ends them in order.

A loop that ends is started again. More than ``INTENSITY`` restarts in ``PERIOD_S`` seconds mean
waiting 1, 2, 4 … 30 s between them while the process says it is not ready; ``GIVE_UP_S`` seconds
of that end the process. (Erlang/OTP's supervisor with the delayed restart of RabbitMQ's.) Engines
out of reach are nobody's fault here: their failures are not counted.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from limner.core.actor import Loop
from limner.core.clock import Clock
from limner.core.errors import EngineUnavailable
from limner.core.logs import get_logger
from limner.core.metrics import Metrics

log = get_logger("supervisor")

INTENSITY = 5
PERIOD_S = 60.0
DELAY_CAP_S = 30.0
GIVE_UP_S = 300.0
ENGINE_PAUSE_S = 1.0
DRAIN_S = 25.0

LoopState = Literal["running", "restarting", "waiting", "stopped"]


@dataclass
class LoopStatus:
    """What an operator sees of one loop."""

    name: str
    state: LoopState = "stopped"
    restarts: int = 0
    last_error: str = ""
    ends: deque[float] = field(default_factory=lambda: deque(maxlen=INTENSITY + 1))
    started_at: float = 0.0
    failing_since: float | None = None
    delays: int = 0


class Supervisor:
    """Runs loops until ``stop``; ``gave_up`` is set when one could not be kept alive."""

    def __init__(self, clock: Clock, metrics: Metrics, drain_s: float = DRAIN_S) -> None:
        self._clock = clock
        self._metrics = metrics
        self._drain_s = drain_s
        self._stop = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.statuses: dict[str, LoopStatus] = {}
        self.gave_up = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether every loop runs and nothing is being stopped."""
        return not self._stop.is_set() and all(
            status.state == "running" and not self._failing(status)
            for status in self.statuses.values()
        )

    def _failing(self, status: LoopStatus) -> bool:
        """Whether the loop has been ending too often and has not yet run for a whole period."""
        settled = self._clock.monotonic() - status.started_at >= PERIOD_S
        return status.failing_since is not None and not settled

    @property
    def stopping(self) -> bool:
        """Whether the loops have been told to end."""
        return self._stop.is_set()

    def start(self, loops: Sequence[Loop]) -> None:
        """Start each loop in a task of its own, in order."""
        for loop in loops:
            status = self.statuses[loop.name] = LoopStatus(loop.name)
            self._tasks[loop.name] = asyncio.create_task(self._keep(loop, status), name=loop.name)

    async def stop(self) -> None:
        """Tell all loops to end, wait ``drain_s`` seconds, cancel what is left. Never raises."""
        self._stop.set()
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks.values(), timeout=self._drain_s)
        for task in late:
            log.warning("cancelled after the drain", loop=task.get_name())
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _keep(self, loop: Loop, status: LoopStatus) -> None:
        while not self._stop.is_set():
            status.state = "running"
            status.started_at = self._clock.monotonic()
            pause_s = 0.0
            try:
                await loop.run(self._stop)
                if self._stop.is_set():
                    break
                pause_s = self._count(status, "ended by itself")
            except asyncio.CancelledError:
                status.state = "stopped"
                raise
            except Exception as error:
                if _only_engines(error):
                    status.state, status.last_error = "waiting", _sentence(error)
                    pause_s = ENGINE_PAUSE_S
                else:
                    log.exception("loop failed", loop=loop.name)
                    pause_s = self._count(status, _sentence(error))
            if pause_s:
                await self._pause(pause_s)
        status.state = "stopped"

    def _count(self, status: LoopStatus, error: str) -> float:
        """Count one end and give the seconds to wait before the next start."""
        now = self._clock.monotonic()
        if now - status.started_at >= PERIOD_S:
            status.ends.clear()
            status.failing_since, status.delays = None, 0
        status.restarts += 1
        status.last_error = error
        status.ends.append(now)
        self._metrics.actor_restarts.labels(status.name).inc()
        recent = [at for at in status.ends if at > now - PERIOD_S]
        if status.failing_since is None and len(recent) <= INTENSITY:
            return 0.0
        status.state = "restarting"
        if status.failing_since is None:
            status.failing_since = now
        elif now - status.failing_since >= GIVE_UP_S:
            log.error("giving up", loop=status.name, error=error)
            self.gave_up.set()
        status.delays += 1
        return float(min(DELAY_CAP_S, 2.0 ** (min(status.delays, 10) - 1)))

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return


def _only_engines(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_only_engines(one) for one in error.exceptions)
    return isinstance(error, EngineUnavailable)


def _sentence(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__

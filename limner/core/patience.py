"""Patience: work that waits while an engine is out of reach, for a limited time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from limner.core.clock import Clock
from limner.core.errors import EngineUnavailable
from limner.core.logs import get_logger

ENGINE_HOLD_S = 60.0
ENGINE_PAUSE_S = 1.0
FIRST_PAUSE_S = 0.05

T = TypeVar("T")

log = get_logger("patience")


async def patiently(work: Callable[[], Awaitable[T]], clock: Clock) -> T:
    """Repeat ``work`` while an engine is out of reach, for at most ``ENGINE_HOLD_S``.

    The pauses grow from ``FIRST_PAUSE_S`` to ``ENGINE_PAUSE_S``: most outages are a restart.

    Raises:
        EngineUnavailable: it stayed away.
    """
    until = clock.monotonic() + ENGINE_HOLD_S
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return await work()
        except EngineUnavailable as error:
            if clock.monotonic() >= until:
                raise
            log.warning("engine unavailable", error=error.detail)
            await asyncio.sleep(min(pause_s, ENGINE_PAUSE_S))
            pause_s *= 2

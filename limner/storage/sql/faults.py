"""What a database server may do to a transaction, as errors that say what can be done about it."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from limner.core.errors import EngineUnavailable, Transient

T = TypeVar("T")

REPEATS = 8
PAUSE_S = 0.02
PAUSE_LIMIT_S = 0.5


class Deadlocked(Transient):
    """The database undid a transaction for another one's sake: nothing of it is stored."""


class ConnectionLost(EngineUnavailable):
    """The connection ended under a statement; a transaction that was open is undone."""


class CommitUnsure(EngineUnavailable):
    """The answer to COMMIT was lost: the transaction is stored, whole, or it is not."""


async def repeated(work: Callable[[], Awaitable[T]]) -> T:
    """Run a whole transaction, and again if it was undone by the database: ``REPEATS`` times.

    The pauses between grow and are drawn at random, so that two which met do not meet again
    (full jitter, M. Brooker, "Exponential Backoff And Jitter", AWS 2015).

    Raises:
        Deadlocked: it was undone every time.
        ConnectionLost: the connection was lost every time.
    """
    for done in range(REPEATS):
        try:
            return await work()
        except (Deadlocked, ConnectionLost):
            pause_s = min(PAUSE_LIMIT_S, PAUSE_S * 2**done)
            await asyncio.sleep(random.uniform(0, pause_s))  # noqa: S311 - no secret
    return await work()

"""PORT: the cache, for what may be forgotten: values with an end, rate limits, advisory locks.

Adapters live in ``limner/storage/cache``: ``memory`` (``memory:``) and ``redis`` (``redis://``);
both pass ``tests/contracts/test_cache.py``. A cache may lose anything at any time (a restart, a
full memory), so nothing that must hold depends on it: what is true is in the database, and a
fencing token comes from a row, never from a lock in here.
"""

import math
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from limner.core.errors import Invalid, TooLarge

NAME_MAX_CHARACTERS = 512
VALUE_MAX_BYTES = 1024 * 1024
TTL_MIN_S = 0.001
TTL_MAX_S = 30 * 24 * 3600
RATE_MIN_PER_S = 1e-6
RATE_MAX_PER_S = 1e6
BURST_MAX = 1_000_000
# Sums of many small floats: half a millionth of a unit is no unit.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Allowance:
    """A rate limit's answer.

    ``remaining`` is how many units could be taken at once now; ``retry_after_s`` is 0 if this was
    allowed, else the wait until the same cost would be; ``reset_s`` is the wait until the bucket
    is full again.
    """

    allowed: bool
    remaining: int
    retry_after_s: float
    reset_s: float


class Lock(Protocol):
    """A lock that is held, as far as a cache can know."""

    @property
    def token(self) -> str:
        """Give what marks this holding among all others of the name."""
        ...

    async def extend(self, ttl_s: float | None = None) -> None:
        """Let the lock end ``ttl_s`` from now; by default what it was taken with.

        Raises:
            LeaseLost: it ended before, whether someone else holds it now or not.
        """
        ...


class Cache(Protocol):
    """Values, token buckets and locks, each with names of its own kind.

    Every call raises ``EngineUnavailable`` when the cache cannot be reached, and ``Invalid`` when
    an argument is out of the bounds of this module. Each call is atomic: of many at the same time,
    from any number of processes, the outcome is as if they came one after the other.
    """

    async def get(self, key: str) -> bytes | None:
        """Give the value, or ``None`` if it was never set, has ended or was forgotten."""
        ...

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep ``value`` for ``ttl_s`` at most, in place of what was there.

        Raises:
            TooLarge: the value is over 1 MiB.
        """
        ...

    async def add(self, key: str, value: bytes, ttl_s: float) -> bool:
        """Keep ``value`` as ``set`` does if there is none, and say whether there was none.

        Raises:
            TooLarge: the value is over 1 MiB.
        """
        ...

    async def delete(self, key: str) -> None:
        """Forget a value; that there is none is fine."""
        ...

    async def take(self, bucket: str, rate_per_s: float, burst: int, cost: int = 1) -> Allowance:
        """Take ``cost`` units from a token bucket, all or none; see ``gcra``.

        A bucket that was never used is full: ``burst`` units. It fills by ``rate_per_s``. A
        refusal takes nothing. Rate and burst may change from call to call.
        """
        ...

    def lock(self, name: str, ttl_s: float) -> AbstractAsyncContextManager[Lock]:
        """Hold ``name`` for the length of the block, but ``ttl_s`` at most unless extended.

        Advisory: after the time, someone else may hold it while the block still runs. Leaving the
        block frees only what this holding has.

        Raises:
            Busy: someone else holds it; ``retry_after_s`` says for how long at most. Nobody waits
                in here.
        """
        ...

    async def check(self) -> None:
        """Find out whether the cache answers.

        Raises:
            EngineUnavailable: it does not.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections; closing twice is fine."""
        ...


def validate_name(name: str) -> str:
    """Give ``name`` back if it can name a value, a bucket or a lock: 1 to 512 characters.

    Raises:
        Invalid: it cannot.
    """
    if not 1 <= len(name) <= NAME_MAX_CHARACTERS:
        raise Invalid(f"A name in the cache has 1 to {NAME_MAX_CHARACTERS} characters")
    return name


def validate_ttl(ttl_s: float) -> float:
    """Give ``ttl_s`` back if it is between a millisecond and 30 days.

    Raises:
        Invalid: it is not.
    """
    if not TTL_MIN_S <= ttl_s <= TTL_MAX_S:
        raise Invalid(f"What is cached lives {TTL_MIN_S} to {TTL_MAX_S} seconds")
    return ttl_s


def validate_value(value: bytes) -> bytes:
    """Give ``value`` back if it has at most 1 MiB.

    Raises:
        TooLarge: it has more.
    """
    if len(value) > VALUE_MAX_BYTES:
        raise TooLarge(f"A cached value has at most {VALUE_MAX_BYTES} bytes")
    return value


def validate_bucket(bucket: str, rate_per_s: float, burst: int, cost: int) -> None:
    """Check the arguments of ``Cache.take``.

    Raises:
        Invalid: a rate or burst out of bounds, or a cost that no full bucket could pay.
    """
    validate_name(bucket)
    if not RATE_MIN_PER_S <= rate_per_s <= RATE_MAX_PER_S:
        raise Invalid(f"A bucket fills by {RATE_MIN_PER_S} to {RATE_MAX_PER_S:.0f} units a second")
    if not 1 <= burst <= BURST_MAX or not 1 <= cost <= burst:
        raise Invalid(f"A bucket holds 1 to {BURST_MAX} units, and a cost is 1 to all of them")


def gcra(
    full_at_s: float, now_s: float, rate_per_s: float, burst: int, cost: int
) -> tuple[float, Allowance]:
    """Decide by the generic cell rate algorithm (ITU-T I.371), the token bucket in one number.

    The number is the time at which the bucket will be full again (there: theoretical arrival
    time); a bucket whose time has passed is full and need not be remembered.

    Args:
        full_at_s: the bucket's number, in seconds; anything up to ``now_s`` if it is full.
        now_s: the time on the same scale.
        rate_per_s: units a second.
        burst: units in a full bucket.
        cost: units to take.

    Returns:
        The bucket's new number and the answer.
    """
    full_at_s = max(full_at_s, now_s)
    after_s = full_at_s + cost / rate_per_s
    capacity_s = burst / rate_per_s
    wait_s = after_s - capacity_s - now_s
    allowed = wait_s * rate_per_s <= _ROUNDING
    if allowed:
        full_at_s = after_s
    left = (capacity_s - (full_at_s - now_s)) * rate_per_s
    return full_at_s, Allowance(
        allowed=allowed,
        remaining=max(0, math.floor(left + _ROUNDING)),
        retry_after_s=0.0 if allowed else wait_s,
        reset_s=full_at_s - now_s,
    )

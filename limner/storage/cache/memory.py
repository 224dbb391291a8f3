"""The cache in this process's memory (``memory:``): for one process, nothing to install.

All calls run on the loop without waiting, which is what makes each of them atomic.
"""

import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from limner.core.cache import (
    Allowance,
    gcra,
    validate_bucket,
    validate_name,
    validate_ttl,
    validate_value,
)
from limner.core.clock import Clock
from limner.core.errors import Busy, LeaseLost
from limner.storage.cache.deadlines import Deadlines

MAX_ENTRIES = 100_000
MAX_BYTES = 64 * 1024 * 1024
TOKEN_BYTES = 16


class MemoryCache:
    """Values, buckets and locks in dictionaries, each bounded.

    When there is no room: of values, those that ended go, then the ones longest unused; of
    buckets, the one that would be full soonest, so that many fresh names cannot wash out the one
    that is being limited; locks are never dropped, one more is refused as busy.

    Args:
        clock: gives the time; only ``monotonic`` is asked.
        max_entries: how many values, how many buckets and how many locks.
        max_bytes: how much all values together may hold.
    """

    def __init__(
        self, clock: Clock, *, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES
    ) -> None:
        self._clock = clock
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._values: OrderedDict[str, bytes] = OrderedDict()
        self._values_bytes = 0
        self._value_ends = Deadlines()
        self._buckets = Deadlines()
        self._holders: dict[str, str] = {}
        self._lock_ends = Deadlines()

    async def get(self, key: str) -> bytes | None:
        """Give the value."""
        return self._live(validate_name(key))

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep the value."""
        self._keep(validate_name(key), validate_value(value), validate_ttl(ttl_s))

    async def add(self, key: str, value: bytes, ttl_s: float) -> bool:
        """Keep the value if there is none."""
        validate_value(value)
        validate_ttl(ttl_s)
        if self._live(validate_name(key)) is not None:
            return False
        self._keep(key, value, ttl_s)
        return True

    async def delete(self, key: str) -> None:
        """Forget the value."""
        self._value_ends.drop(validate_name(key))
        self._forget(key)

    async def take(self, bucket: str, rate_per_s: float, burst: int, cost: int = 1) -> Allowance:
        """Take from the bucket."""
        validate_bucket(bucket, rate_per_s, burst, cost)
        now_s = self._clock.monotonic()
        for _ in self._buckets.pop_ended(now_s):
            pass
        if bucket not in self._buckets and len(self._buckets) >= self._max_entries:
            self._buckets.pop_first()
        full_at_s, allowance = gcra(
            self._buckets.get(bucket, now_s), now_s, rate_per_s, burst, cost
        )
        self._buckets.set(bucket, full_at_s)
        return allowance

    @asynccontextmanager
    async def lock(self, name: str, ttl_s: float) -> AsyncIterator["MemoryLock"]:
        """Hold the name."""
        validate_ttl(ttl_s)
        now_s = self._end_locks()
        if validate_name(name) in self._holders:
            raise Busy(f"{name} is locked", retry_after_s=self._lock_ends.get(name, now_s) - now_s)
        if len(self._holders) >= self._max_entries:
            raise Busy("Too many locks are held")
        held = MemoryLock(self, name, ttl_s)
        self._holders[name] = held.token
        self._lock_ends.set(name, now_s + ttl_s)
        try:
            yield held
        finally:
            if self._holders.get(name) == held.token:
                del self._holders[name]
                self._lock_ends.drop(name)

    def extend(self, name: str, token: str, ttl_s: float) -> None:
        """Let a lock end ``ttl_s`` from now; called by the lock.

        Raises:
            LeaseLost: it is not held by ``token``.
        """
        now_s = self._end_locks()
        if self._holders.get(name) != token:
            raise LeaseLost(f"The lock {name} has ended")
        self._lock_ends.set(name, now_s + ttl_s)

    async def check(self) -> None:
        """Memory always answers."""

    async def aclose(self) -> None:
        """Nothing is connected."""

    def _live(self, key: str) -> bytes | None:
        """Give a value that has not ended, and note that it was used."""
        self._end_values()
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def _keep(self, key: str, value: bytes, ttl_s: float) -> None:
        """Store a value, then make room by the rule of the class."""
        now_s = self._end_values()
        self._forget(key)
        self._values[key] = value
        self._values_bytes += len(value)
        self._value_ends.set(key, now_s + ttl_s)
        while len(self._values) > self._max_entries or self._values_bytes > self._max_bytes:
            oldest = next(iter(self._values))
            self._value_ends.drop(oldest)
            self._forget(oldest)

    def _forget(self, key: str) -> None:
        self._values_bytes -= len(self._values.pop(key, b""))

    def _end_values(self) -> float:
        """Forget the values that have ended and give the time."""
        now_s = self._clock.monotonic()
        for key in self._value_ends.pop_ended(now_s):
            self._forget(key)
        return now_s

    def _end_locks(self) -> float:
        """Free the locks that have ended and give the time."""
        now_s = self._clock.monotonic()
        for name in self._lock_ends.pop_ended(now_s):
            del self._holders[name]
        return now_s


class MemoryLock:
    """One holding of a lock."""

    def __init__(self, cache: MemoryCache, name: str, ttl_s: float) -> None:
        self._cache = cache
        self._name = name
        self._ttl_s = ttl_s
        self._token = secrets.token_hex(TOKEN_BYTES)

    @property
    def token(self) -> str:
        """Give what marks this holding."""
        return self._token

    async def extend(self, ttl_s: float | None = None) -> None:
        """Let the lock end later."""
        self._cache.extend(
            self._name, self._token, self._ttl_s if ttl_s is None else validate_ttl(ttl_s)
        )

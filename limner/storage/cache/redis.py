"""The cache in Redis (``redis://``, ``rediss://``): one for all processes.

Needs Redis 5 or newer, or what speaks its protocol. Every call is one command or one script, which
is what makes it atomic. Values, buckets and locks are told apart by the beginnings of their keys.
"""

import asyncio
import hashlib
import math
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis import exceptions

from limner.core import logs
from limner.core.cache import (
    Allowance,
    gcra,
    validate_bucket,
    validate_name,
    validate_ttl,
    validate_value,
)
from limner.core.errors import Busy, EngineUnavailable, LeaseLost
from limner.storage.cache.redis_connections import Connections, read_address

log = logs.get_logger("cache")

CALL_S = 2.0
"""How long a call may take: to wait for a connection, to open one, to be answered."""
CONNECTIONS = 20
TOKEN_BYTES = 16
ROUNDING = 1e-6
"""What gcra takes for no unit."""
VALUES = b"limner:v:"
BUCKETS = b"limner:b:"
LOCKS = b"limner:l:"
PROBE = b"limner:c:probe"
PROBE_MS = 1000


class Script:
    """A Lua script, known to the server by its SHA-1 once it has run."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha1 = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


# The bucket's number, the time at which it is full, is a decimal text with 17 places: a double
# that holds seconds since 1970 is 0.2 microseconds coarse, half a unit at a million units a second.
# So the script reckons with what is left until then, as gcra does at the time 0, and answers it;
# the same double arithmetic on both sides comes to the same decision.
TAKE = Script("""
local time = redis.call('TIME')
local seconds, fraction = tonumber(time[1]), tonumber(time[2]) / 1e6
local rate, burst, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local ahead = 0
local whole, part = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+)(%.%d+)$')
if whole then
  ahead = math.max(0, (tonumber(whole) - seconds) + (tonumber('0' .. part) - fraction))
end
local after = ahead + cost / rate
if (after - burst / rate) * rate <= tonumber(ARGV[4]) then
  local carry = math.floor(fraction + after)
  local number = string.format('%.0f', seconds + carry)
    .. string.sub(string.format('%.17f', fraction + after - carry), 2)
  redis.call('SET', KEYS[1], number, 'PX', string.format('%.0f', math.ceil(after * 1000)))
end
return string.format('%.17g', ahead)
""")
EXTEND = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
""")
RELEASE = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
""")


class RedisCache:
    """Values, buckets and locks in a Redis.

    A value and a lock end by the server's clock, and buckets fill by it, so that processes on
    several machines agree. A lock whose taking was not answered may stay until its time is over.

    Args:
        url: see ``read_address``.
        connections: how many at most; a call that finds none free waits.
        call_s: how long a call may take in all.

    Raises:
        NotConfigured: the URL is none of a Redis.
    """

    def __init__(self, url: str, *, connections: int = CONNECTIONS, call_s: float = CALL_S) -> None:
        self._connections = Connections(read_address(url), connections, call_s)

    async def get(self, key: str) -> bytes | None:
        """Give the value."""
        value: bytes | None = await self._connections.call("GET", _key(VALUES, key))
        return value

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep the value."""
        name = _key(VALUES, key)
        validate_value(value)
        await self._connections.call("SET", name, value, "PX", _milliseconds(ttl_s))

    async def add(self, key: str, value: bytes, ttl_s: float) -> bool:
        """Keep the value if there is none."""
        name = _key(VALUES, key)
        validate_value(value)
        answer = await self._connections.call("SET", name, value, "NX", "PX", _milliseconds(ttl_s))
        return answer is not None

    async def delete(self, key: str) -> None:
        """Forget the value."""
        await self._connections.call("DEL", _key(VALUES, key))

    async def take(self, bucket: str, rate_per_s: float, burst: int, cost: int = 1) -> Allowance:
        """Take from the bucket."""
        validate_bucket(bucket, rate_per_s, burst, cost)
        arguments = (repr(float(rate_per_s)), burst, cost, repr(ROUNDING))
        ahead_s = float(await self._run(TAKE, _key(BUCKETS, bucket), *arguments))
        return gcra(ahead_s, 0.0, rate_per_s, burst, cost)[1]

    @asynccontextmanager
    async def lock(self, name: str, ttl_s: float) -> AsyncIterator["RedisLock"]:
        """Hold the name."""
        held = RedisLock(self, _key(LOCKS, name), validate_ttl(ttl_s))
        try:
            await self._hold(held, name)
        except asyncio.CancelledError:
            await self._let_go(held)
            raise
        try:
            yield held
        finally:
            await self._let_go(held)

    async def extend(self, key: bytes, token: str, ttl_s: float) -> None:
        """Let a lock end ``ttl_s`` from now; called by the lock.

        Raises:
            LeaseLost: it is not held by ``token``.
        """
        if not await self._run(EXTEND, key, token, _milliseconds(ttl_s)):
            raise LeaseLost("The lock has ended")

    async def check(self) -> None:
        """Write a key that ends by itself: a replica or a full server would refuse."""
        await self._connections.call("SET", PROBE, b"", "PX", PROBE_MS)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._connections.aclose()

    async def _hold(self, held: "RedisLock", name: str) -> None:
        pledge = (held.key, held.token, "NX", "PX", _milliseconds(held.ttl_s))
        if await self._connections.call("SET", *pledge) is None:
            left_ms = await self._connections.call("PTTL", held.key)
            raise Busy(f"{name} is locked", retry_after_s=max(1, left_ms) / 1000)

    async def _let_go(self, held: "RedisLock") -> None:
        """Free a lock if it is still ours; what cannot be freed now ends by its time."""
        try:
            await self._run(RELEASE, held.key, held.token)
        except EngineUnavailable as error:
            log.warning("lock_not_freed", ttl_s=held.ttl_s, reason=error.detail)

    async def _run(self, script: Script, key: bytes, *arguments: str | int) -> Any:
        """Run a script on one key; a server that was started anew or flushed is told it again."""
        try:
            return await self._connections.call("EVALSHA", script.sha1, 1, key, *arguments)
        except exceptions.NoScriptError:
            return await self._connections.call("EVAL", script.text, 1, key, *arguments)


class RedisLock:
    """One holding of a lock."""

    def __init__(self, cache: RedisCache, key: bytes, ttl_s: float) -> None:
        self._cache = cache
        self._token = secrets.token_hex(TOKEN_BYTES)
        self.key = key
        self.ttl_s = ttl_s

    @property
    def token(self) -> str:
        """Give what marks this holding."""
        return self._token

    async def extend(self, ttl_s: float | None = None) -> None:
        """Let the lock end later."""
        await self._cache.extend(self.key, self._token, self.ttl_s if ttl_s is None else ttl_s)


def _key(kind: bytes, name: str) -> bytes:
    return kind + validate_name(name).encode("utf-8", "surrogatepass")


def _milliseconds(ttl_s: float) -> int:
    """Give a time to live as Redis counts it, not longer than asked for."""
    return max(1, math.floor(validate_ttl(ttl_s) * 1000))

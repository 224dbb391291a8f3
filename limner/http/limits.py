"""Rate limits: a token bucket per account, and one per address for everybody else.

The buckets are in the cache, so all fronts that share one count together; an account's keys and
sessions share the account's. The answer's headers follow draft-ietf-httpapi-ratelimit-headers-10.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TypeVar

from aiohttp import web

from limner.core.cache import Allowance, Cache
from limner.core.clock import Clock
from limner.core.errors import EngineUnavailable, TooMany
from limner.core.logs import get_logger
from limner.core.tunables import Tunables
from limner.http.auth.callers import Caller
from limner.http.ports import Front

log = get_logger("http")

IPV6_SITE_BITS = 64
LOOK_AGAIN_S = 1.0
ALLOWANCE: web.RequestKey[dict[str, str]] = web.RequestKey("rate_limit", dict)

T = TypeVar("T")


@dataclass(frozen=True)
class Rate:
    """How many requests a second, and how many at once."""

    name: str
    per_s: float
    burst: int


@dataclass(frozen=True)
class Rates:
    """All rate limits of the front."""

    account: Rate
    anonymous: Rate

    @classmethod
    def of(cls, tunables: Tunables) -> "Rates":
        """Give the rates that are set."""
        return cls(
            Rate("account", tunables.rate_limit_account_per_s, tunables.rate_limit_account_burst),
            Rate(
                "anonymous",
                tunables.rate_limit_anonymous_per_s,
                tunables.rate_limit_anonymous_burst,
            ),
        )


class Buckets:
    """Token buckets in the cache, or in this process while the cache is away.

    Then each process limits by itself, which is less than all together and more than nothing.
    While it is away it is asked once in ``LOOK_AGAIN_S`` seconds only, since each call may wait
    long for its answer.

    Args:
        cache: shared by all fronts.
        spare: this process's own, which is always there.
        clock: its monotonic time counts.
    """

    def __init__(self, cache: Cache, spare: Cache, clock: Clock) -> None:
        self._cache = cache
        self._spare = spare
        self._clock = clock
        self._asked_again_at_s: float | None = None

    async def take(self, bucket: str, per_s: float, burst: int) -> Allowance:
        """Take one unit from a bucket that fills by ``per_s`` up to ``burst``."""
        allowance = await self.reached(lambda: self._cache.take(bucket, per_s, burst))
        if allowance is None:
            return await self._spare.take(bucket, per_s, burst)
        return allowance

    async def reached(self, ask: Callable[[], Awaitable[T]]) -> T | None:
        """Give what the cache answers, or None while it is away: ``ask`` is then seldom called."""
        now_s = self._clock.monotonic()
        if self._asked_again_at_s is not None and now_s < self._asked_again_at_s:
            return None
        was_away = self._asked_again_at_s is not None
        if was_away:
            # The others need not wait for this look.
            self._asked_again_at_s = now_s + LOOK_AGAIN_S
        try:
            answer = await ask()
        except EngineUnavailable as error:
            if self._asked_again_at_s is None:
                log.warning("each process limits rates by itself", error=error.detail)
            self._asked_again_at_s = self._clock.monotonic() + LOOK_AGAIN_S
            return None
        if was_away:
            log.info("rates are limited together again")
            self._asked_again_at_s = None
        return answer


RATES: web.AppKey[Rates] = web.AppKey("rates", Rates)
"""Rates that count instead of the settings'."""
BUCKETS: web.AppKey[Buckets] = web.AppKey("buckets", Buckets)


async def spend(request: web.Request, bucket: str, per_s: float, burst: int, refusal: str) -> None:
    """Take one unit of what may be done only so often.

    Counted over all processes; while the cache is away, by each process for itself.

    Raises:
        TooMany: saying ``refusal``, with the seconds to wait.
    """
    allowance = await request.app[BUCKETS].take(bucket, per_s, burst)
    if not allowance.allowed:
        raise TooMany(refusal, retry_after_s=allowance.retry_after_s)


async def take(front: Front, request: web.Request, caller: Caller) -> None:
    """Count one request.

    Raises:
        TooMany: with the seconds to wait.
    """
    rates = await _rates(front, request.app)
    rate = rates.account if caller.is_known else rates.anonymous
    whose = caller.id or client_address(front, request)
    bucket = f"http:{rate.name}:{whose}"
    allowance = await request.app[BUCKETS].take(bucket, rate.per_s, rate.burst)
    request[ALLOWANCE] = _headers(rate, allowance)
    if not allowance.allowed:
        raise TooMany("too many requests", retry_after_s=allowance.retry_after_s)


async def _rates(front: Front, application: web.Application) -> Rates:
    given = application.get(RATES)
    return given if given is not None else Rates.of(await front.tunables.recent())


def _headers(rate: Rate, allowance: Allowance) -> dict[str, str]:
    window_s = math.ceil(rate.burst / rate.per_s)
    return {
        "RateLimit-Policy": f'"{rate.name}";q={rate.burst};w={window_s}',
        "RateLimit": f'"{rate.name}";r={allowance.remaining};t={math.ceil(allowance.reset_s)}',
    }


async def tell(request: web.Request, response: web.StreamResponse) -> None:
    """Add what is left of the allowance to an answer's headers."""
    for name, value in request.get(ALLOWANCE, {}).items():
        response.headers.setdefault(name, value)


def client_address(front: Front, request: web.Request) -> str:
    """Give whom to count: the peer's address, or what a trusted proxy says of it.

    X-Forwarded-For is read from its end, over trusted proxies only; what a client wrote into it
    before them counts for nothing. An IPv6 site (/64) counts as one.
    """
    peer = request.remote or "unknown"
    trusted = front.settings.http.trusted_proxies
    if trusted and _is_within(peer, trusted):
        hops = ",".join(request.headers.getall("X-Forwarded-For", [])).split(",")
        for hop in reversed([hop.strip() for hop in hops if hop.strip()]):
            if _address(hop) is None:
                break
            peer = hop
            if not _is_within(hop, trusted):
                break
    return _site(peer)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _is_within(text: str, networks: Sequence[str]) -> bool:
    address = _address(text)
    return address is not None and any(
        address in ip_network(network, strict=False) for network in networks
    )


def _site(text: str) -> str:
    address = _address(text)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, IPV6_SITE_BITS), strict=False))
    return str(address) if address else text

"""Rate limits: a token bucket per account, and one per address for everybody else.

The buckets are in the cache, so all fronts that share one count together; an account's keys and
sessions share the account's. The answer's headers follow draft-ietf-httpapi-ratelimit-headers-10.

Who calls is known only after the database was asked, which whoever invents credentials could have
done at will. An address whose bucket was emptied by credentials that nobody has is therefore in
doubt for ``DOUBTED_S`` seconds from the last of them: what comes from there with a credential that
is new to this process takes its unit before it is looked up, and is refused without a look if there
is none. Those whose credential was good here within ``GOOD_S`` seconds are looked up all the same,
so that nobody can lock out who works behind the same address. A newcomer behind it shares the
address's units with the flood, as whoever comes without a credential does, and has one as soon as
the flood ends.
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
from limner.core.recent import Recent
from limner.core.tunables import Tunables
from limner.http.auth import cookies
from limner.http.auth.callers import Caller
from limner.http.ports import Front
from limner.storage.sql.accounts import digest

log = get_logger("http")

IPV6_SITE_BITS = 64
LOOK_AGAIN_S = 1.0
DOUBTED_S = 60.0
GOOD_S = 86_400.0
NOTED_LIMIT = 10_000
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
    long for its answer. ``doubted`` are addresses that have sent too many credentials of nobody's,
    ``good`` the digests of credentials that were somebody's; this process's own, both.

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
        self.doubted = Recent[bool](clock, DOUBTED_S, NOTED_LIMIT)
        self.good = Recent[bool](clock, GOOD_S, NOTED_LIMIT)

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


async def take_before(front: Front, request: web.Request) -> bool:
    """Count a request for its address, if its credential may be looked up for nothing; say if so.

    Raises:
        TooMany: with the seconds to wait.
    """
    buckets = request.app[BUCKETS]
    # Mostly no address is in doubt, and nothing has to be found out.
    if not buckets.doubted:
        return False
    credential, address = _credential(front, request), client_address(front, request)
    if not credential or credential in buckets.good or address not in buckets.doubted:
        return False
    await _take(request, (await _rates(front, request.app)).anonymous, address)
    return True


async def take(
    front: Front, request: web.Request, caller: Caller, *, is_counted: bool = False
) -> None:
    """Count one request; ``is_counted`` says that ``take_before`` has done so for its address.

    Raises:
        TooMany: with the seconds to wait.
    """
    buckets, credential = request.app[BUCKETS], _credential(front, request)
    rates = await _rates(front, request.app)
    if caller.is_known:
        buckets.good.note(credential, True)
        await _take(request, rates.account, caller.id)
        return
    buckets.good.forget(credential)
    address = client_address(front, request)
    if is_counted:
        buckets.doubted.note(address, True)
        return
    try:
        await _take(request, rates.anonymous, address)
    except TooMany:
        if caller.fault is not None:
            buckets.doubted.note(address, True)
        raise


async def _take(request: web.Request, rate: Rate, whose: str) -> None:
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


def _credential(front: Front, request: web.Request) -> str:
    """Give a digest of what says who calls, or an empty string; a header wins over a cookie."""
    headers = request.headers.getall("Authorization", [])
    if headers:
        return digest(f"header {headers}")
    cookie = cookies.read(front, request)
    return digest(f"cookie {cookie}") if cookie is not None else ""


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

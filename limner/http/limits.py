"""Rate limits: a token bucket per account, and one per address for everybody else.

The answer's headers follow draft-ietf-httpapi-ratelimit-headers-10.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from aiohttp import web

from limner.core.cache import Allowance
from limner.core.errors import EngineUnavailable, TooMany
from limner.core.logs import get_logger
from limner.http.auth.callers import Caller
from limner.http.ports import Front

log = get_logger("http")

IPV6_SITE_BITS = 64
ALLOWANCE: web.RequestKey[dict[str, str]] = web.RequestKey("rate_limit", dict)


@dataclass(frozen=True)
class Rate:
    """How many requests a second, and how many at once."""

    name: str
    per_s: float
    burst: int


@dataclass(frozen=True)
class Rates:
    """All rate limits of the front."""

    account: Rate = Rate("account", 50, 200)
    anonymous: Rate = Rate("anonymous", 10, 50)


RATES: web.AppKey[Rates] = web.AppKey("rates", Rates)


async def take(front: Front, request: web.Request, caller: Caller) -> None:
    """Count one request; a cache that is out of reach limits nobody.

    Raises:
        TooMany: with the seconds to wait.
    """
    rates = request.app[RATES]
    rate = rates.account if caller.is_known else rates.anonymous
    whose = caller.id or client_address(front, request)
    try:
        allowance = await front.cache.take(f"http:{rate.name}:{whose}", rate.per_s, rate.burst)
    except EngineUnavailable as error:
        log.warning("no rate limit: the cache is out of reach", error=error.detail)
        return
    request[ALLOWANCE] = _headers(rate, allowance)
    if not allowance.allowed:
        raise TooMany("too many requests", retry_after_s=allowance.retry_after_s)


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

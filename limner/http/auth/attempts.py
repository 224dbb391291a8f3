"""Attempts to sign in: slowed down per account and per address, without locking the owner out.

Three kinds of callers are counted apart (OWASP, "Slow Down Online Guessing Attacks with Device
Cookies"). A browser that signed in to the account before shows a cookie and is counted by itself,
alone. A program that signed in from the same address before is counted with that address. All
others share what the account allows a minute and, slower, an hour: who guesses uses that up, and
neither of the former. Whoever is locked out for so long has a link sent to set a new password,
which makes the browser known. A known caller's failures count, a success begins anew.

All is counted in the cache, for all processes together; names there are digests. An account that
does not exist is counted like any other.
"""

from dataclasses import dataclass
from datetime import timedelta

from aiohttp import web

from limner.core.cache import BURST_MAX
from limner.core.errors import Unauthenticated
from limner.core.ids import uuid7_hex
from limner.http.auth import cookies
from limner.http.call import FRONT, Call
from limner.http.limits import BUCKETS, client_address, spend
from limner.storage.sql.accounts import User, digest, new_secret

COOKIE = "limner_device"
PURPOSE = "device"
DEVICE_LIFE_S = 180 * 24 * 3600
NEAR_LIFE_S = 30 * 24 * 3600.0
MINUTE_S = 60.0
HOUR_S = 3600.0
PER_HOUR = 10
"""How many times a minute's attempts strangers have in an hour."""

REFUSAL = "too many attempts; wait, or have a link sent to set a new password"

KNOWN: web.RequestKey[str] = web.RequestKey("known_device", str)


@dataclass(frozen=True)
class Attempt:
    """One attempt: whose account and from where, as digests."""

    account: str
    address: str

    @property
    def near(self) -> str:
        """The name under which the cache knows that this address signed in to this account."""
        return f"login:near:{self.account}:{self.address}"


async def admit(call: Call, email: str, user: User | None) -> Attempt:
    """Count an attempt to sign in; ``email`` in its normal form, ``user`` if there is one.

    While the cache is out of reach each process counts by itself, and knows no address.

    Raises:
        TooMany: with the seconds to wait.
    """
    tunables = await call.front.tunables.current()
    per_minute = tunables.login_limit_per_account_per_min
    attempt = Attempt(digest(f"account {email}"), _address_of(call))
    device = _device(call, user)
    if device is not None:
        await _take(call, f"login:device:{digest(device)}", per_minute, MINUTE_S)
        return attempt
    per_address = tunables.login_limit_per_address_per_min
    await _take(call, f"login:address:{attempt.address}", per_address, MINUTE_S)
    near = await call.request.app[BUCKETS].reached(lambda: call.front.cache.get(attempt.near))
    if near is not None:
        await _take(call, f"{attempt.near}:{near.decode()}", per_minute, MINUTE_S)
        return attempt
    account = f"login:account:{attempt.account}"
    await _take(call, account, per_minute, MINUTE_S)
    await _take(call, f"{account}:hour", per_minute * PER_HOUR, HOUR_S)
    return attempt


async def admit_letter(call: Call) -> None:
    """Count a request that makes us write a mail, or hash a password for a visitor.

    Raises:
        TooMany: with the seconds to wait.
    """
    limit = (await call.front.tunables.current()).login_limit_per_address_per_min
    await _take(call, f"letters:{_address_of(call)}", limit, MINUTE_S)


async def succeeded(call: Call, user: User) -> None:
    """Know this browser and this address from now on; nothing it failed before counts any more."""
    attempt = Attempt(digest(f"account {user.email}"), _address_of(call))
    generation = uuid7_hex().encode()
    await call.request.app[BUCKETS].reached(
        lambda: call.front.cache.set(attempt.near, generation, NEAR_LIFE_S)
    )
    call.request[KNOWN] = user.id


async def tell(request: web.Request, response: web.StreamResponse) -> None:
    """Add the cookie of a browser that has just become known, before the answer is sent."""
    user_id = request.get(KNOWN)
    if user_id is None:
        return
    front = request.app[FRONT]
    ends = front.clock.now() + timedelta(seconds=DEVICE_LIFE_S)
    # A new number with each success: what failed under the old one is forgotten.
    payload = {"user": user_id, "device": new_secret()}
    token = front.signer.token(PURPOSE, payload, ends)
    cookies.put_late(front, response, token, life_s=DEVICE_LIFE_S, name=COOKIE)


def _device(call: Call, user: User | None) -> str | None:
    """Give the number of the browser, if its cookie says it has signed in to this account."""
    token = cookies.read(call.front, call.request, COOKIE)
    if token is None or user is None:
        return None
    try:
        payload = call.front.signer.open(PURPOSE, token, call.now)
    except Unauthenticated:
        return None
    return str(payload["device"]) if payload["user"] == user.id else None


def _address_of(call: Call) -> str:
    return digest(f"address {client_address(call.front, call.request)}")


async def _take(call: Call, bucket: str, limit: int, window_s: float) -> None:
    burst = min(limit, BURST_MAX)
    await spend(call.request, bucket, burst / window_s, burst, REFUSAL)

"""The second factor: codes of an authenticator (TOTP, RFC 6238) and recovery codes.

Codes have six digits and change every 30 seconds; one step before and after the present one
counts too, for clocks that differ (section 5.2), and no step counts twice (section 5.2, last
paragraph). The secret is stored encrypted and bound to its account.
"""

import asyncio
import hmac
import re
from dataclasses import dataclass
from datetime import datetime

import pyotp
import segno

from limner.core.sealing import Sealer
from limner.core.unit import UnitOfWork
from limner.http.call import Call
from limner.http.limits import spend
from limner.storage.sql.accounts import User
from limner.storage.sql.notifications import notify
from limner.storage.sql.recovery_codes import unused_code, use_code

STEP_S = 30
STEPS_AROUND = (0, -1, 1)
ISSUER = "Limner"
CODE_MAX_CHARACTERS = 64
TRIES_BURST = 10
TRIES_PER_S = 1 / 60
"""Ten tries at once, then one a minute: a guesser who knows the password finds one of the three
codes that count among a million with less than half a per cent of chance in a whole day."""

_DIGITS = re.compile(r"\d{6}", re.ASCII)


@dataclass(frozen=True)
class Enrolment:
    """A new secret, shown once: as text, as link for an authenticator, and as a picture of it."""

    secret: str
    otpauth_url: str
    qr_svg: str


async def check_code(call: Call, work: UnitOfWork, user: User, code: str) -> bool:
    """Whether ``code`` is one of the account's now: of its authenticator, or a recovery code.

    It is used up in ``work``: of two units that use the same one, the second is dropped as stale.
    An account without a second factor has no code.

    Raises:
        TooMany: too many codes were tried for this account lately.
    """
    if not user.totp_enabled:
        return False
    await take_try(call, user)
    step = matching_step(call.front.sealer, user, code, call.now)
    if step is not None:
        # The step that counted last is what was read: whoever uses another meanwhile, goes first.
        guard = {"totp_last_step": user.totp_last_step}
        work.change(user, guard=guard, totp_last_step=step)
        return True
    recovery = await unused_code(user.id, code[:CODE_MAX_CHARACTERS])
    if recovery is None:
        return False
    use_code(work, recovery)
    work.audit("user.recovery_code_used", subject=user.id)
    notify(work, user.id, "user.recovery_code_used")
    return True


async def take_try(call: Call, user: User) -> None:
    """Count one try.

    Raises:
        TooMany: with the seconds to wait.
    """
    await spend(
        call.request, f"totp:{user.id}", TRIES_PER_S, TRIES_BURST, "too many codes were tried"
    )


def matching_step(sealer: Sealer, user: User, code: str, now: datetime) -> int | None:
    """Give the step whose code this is, later than the last that counted, or None."""
    typed = re.sub(r"\s", "", code)
    if user.totp_sealed is None or not _DIGITS.fullmatch(typed):
        return None
    generator = pyotp.TOTP(sealer.open(sealed_name(user), user.totp_sealed).decode())
    present = int(now.timestamp()) // STEP_S
    for around in STEPS_AROUND:
        step = present + around
        is_it = hmac.compare_digest(generator.generate_otp(step), typed)
        if is_it and step > user.totp_last_step:
            return step
    return None


def sealed_name(user: User) -> str:
    """Give the name that an account's secret is sealed for."""
    return f"totp:{user.id}"


async def enrol(call: Call, work: UnitOfWork, user: User) -> Enrolment:
    """Store a new secret in ``work``, not in force before a code of it is confirmed, and give it.

    The link follows the Key URI Format of authenticators.
    """
    secret = pyotp.random_base32()
    sealed = call.front.sealer.seal(sealed_name(user), secret.encode())
    guard = {"state": "active", "totp_enabled_at": None}
    work.change(user, guard=guard, totp_sealed=sealed, totp_last_step=0)
    url = pyotp.TOTP(secret).provisioning_uri(name=user.email or user.name, issuer_name=ISSUER)
    return Enrolment(secret, url, await asyncio.to_thread(_qr_svg, url))


def _qr_svg(url: str) -> str:
    """Give a QR code (ISO/IEC 18004) as an SVG element without a size of its own."""
    return str(
        segno.make(url, error="m", micro=False).svg_inline(omitsize=True, svgclass="qr", title="QR")
    )

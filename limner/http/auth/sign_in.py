"""Signing in with a password: the same work and the same answer for whoever is not let in.

An unknown address costs a hash like a known one (ASVS 5.0 section 6.3.8); only who knows the
password learns that an account has a second factor. That an address waits to be confirmed is told
to nobody: whoever registers it would learn by signing in whether it had an account.
"""

from limner.core.emails import normal_email
from limner.core.errors import Invalid, Unauthenticated
from limner.core.logs import get_logger
from limner.core.unit import Commit
from limner.http.auth import attempts, passwords, second_factor
from limner.http.call import Call
from limner.storage.sql.accounts import User

log = get_logger("auth")


async def authenticate(call: Call, email: str, password: str, totp: str | None = None) -> User:
    """Give the account that these credentials open, which may sign in now.

    Commits what the second factor uses up and a hash that replaces an old one; the session is the
    caller's to begin.

    Raises:
        Unauthenticated: ``invalid_credentials`` for everything that is wrong with address,
            password or account; ``totp_required`` and ``totp_invalid`` after the right password.
        TooMany: too many attempts, with the seconds to wait.
        Busy: too many passwords are being checked.
    """
    return await second_step(call, await right_password(call, email, password), totp)


async def right_password(call: Call, email: str, password: str) -> User:
    """Give the account of this address and password; its second step is still to be taken.

    Raises:
        Unauthenticated: ``invalid_credentials``, whatever is wrong.
        TooMany: too many attempts, with the seconds to wait.
        Busy: too many passwords are being checked.
    """
    address = _normal(email)
    user = await User.get_or_none(email=address)
    await attempts.admit(call, address, user)
    usable = user if user is not None and user.state == "active" else None
    verdict = await passwords.verify(usable.password_hash if usable else None, password)
    if usable is None or not verdict.ok or not usable.is_verified:
        log.info("a sign-in was refused", reason="credentials", user_id=user.id if user else None)
        raise passwords.wrong_credentials()
    if verdict.rehash is not None:
        return await _with_new_hash(call, usable, password, verdict.rehash)
    return usable


async def second_step(call: Call, user: User, code: str | None = None) -> User:
    """Give the account back, whose password was right a moment ago, if the code is right too.

    An account without a second factor needs no code.

    Raises:
        Unauthenticated: ``totp_required``, ``totp_invalid``.
        TooMany: too many codes, with the seconds to wait.
    """
    await _check_second_factor(call, user, code)
    await attempts.succeeded(call, user)
    return user


def _normal(email: str) -> str:
    """Give the address to look for; what is none belongs to nobody, and costs the same."""
    try:
        return normal_email(email)
    except Invalid:
        return ""


async def _check_second_factor(call: Call, user: User, totp: str | None) -> None:
    if not user.totp_enabled:
        return
    if not totp:
        raise Unauthenticated("this account needs a second factor", code="totp_required")
    work = call.work()
    is_right = await second_factor.check_code(call, work, user, totp)
    # STALE: the same code was used at the same time, and only one of the two counts.
    if not is_right or await call.front.units.commit(work) is not Commit.DONE:
        log.info("a sign-in was refused", reason="second factor", user_id=user.id)
        raise Unauthenticated("the code is wrong or was used before", code="totp_invalid")


async def _with_new_hash(call: Call, user: User, password: str, rehash: str) -> User:
    """Store a hash by today's parameters, and give the account with the hash that is stored then.

    Raises:
        Unauthenticated: the password was changed meanwhile.
    """
    work = call.work()
    work.change(user, guard={"password_hash": user.password_hash}, password_hash=rehash)
    work.audit("user.password_rehashed", subject=user.id)
    if await call.front.units.commit(work) is Commit.DONE:
        user.password_hash = rehash
        return user
    # Another sign-in has replaced it at the same time, or the password is another one by now.
    stored = await User.get_or_none(id=user.id, state="active")
    verdict = await passwords.verify(stored.password_hash if stored else None, password)
    if stored is None or not verdict.ok:
        raise passwords.wrong_credentials()
    return stored

"""Showing again that an account is one's own, before something that cannot be taken back.

Whoever finds an open browser, or has an API key, shall not be able to take the account away
(OWASP ASVS 5.0, 7.5.1 and 7.5.3).
"""

from limner.core.errors import Forbidden, Invalid
from limner.http.auth import passwords
from limner.http.call import Call
from limner.http.limits import spend
from limner.storage.sql.accounts import User

RECENT_S = 15 * 60
TRIES_BURST = 10
TRIES_PER_S = 1 / 30


def signed_in_recently(call: Call) -> bool:
    """Whether the caller has a session that began within the last quarter of an hour."""
    session = call.caller.session
    return session is not None and (call.now - session.created_at).total_seconds() <= RECENT_S


async def confirm_identity(
    call: Call, user: User, password: str | None, pointer: str = "/password"
) -> None:
    """Return if the caller has given the account's password.

    An account without one is believed if it signed in within the last quarter of an hour.

    Raises:
        Invalid: there is a password, and none was given; ``pointer`` is its place.
        Forbidden: code ``password_wrong``, or ``sign_in_again``.
        TooMany: too many passwords were tried for this account lately.
    """
    if not user.has_password:
        if not signed_in_recently(call):
            raise Forbidden("sign in again first, then do this", code="sign_in_again")
        return
    if password is None:
        raise Invalid("the password is needed", faults=[(pointer, "the account has a password")])
    await spend(
        call.request,
        f"confirm:{user.id}",
        TRIES_PER_S,
        TRIES_BURST,
        "too many passwords were tried",
    )
    verdict = await passwords.verify(user.password_hash, password)
    if not verdict.ok:
        raise Forbidden("the password is not right", code="password_wrong")

"""Passwords and addresses: lost, changed, and confirmed by mail."""

from limner.http.api.registration import MAILED, Accepted, AddressIn, Token
from limner.http.auth import registration
from limner.http.auth.fields import Address, NewPassword, Password
from limner.http.body import Form
from limner.http.call import Call
from limner.http.routes import OPEN, Answer, Result, Route

LINK_FAULT = "The link is not valid, was used or has expired"
PASSWORD_FAULT = "The password is wrong, or there is none and the sign-in is long ago"  # noqa: S105 - a sentence
NO_PASSWORD = "The account has no password; a mailed link sets one"  # noqa: S105 - a sentence


class ResetIn(Form):
    """The token of a mail's link, and the new password."""

    token: Token
    password: NewPassword


class ChangeIn(Form):
    """The password that counts now, and the one that shall."""

    current_password: Password
    new_password: NewPassword


class AddressChangeIn(Form):
    """The new address; the password shows who asks, if the account has one."""

    email: Address
    password: Password | None = None


async def forgot(call: Call, body: AddressIn) -> Result:
    """Send a link that sets a new password."""
    await registration.forgot(call, body.email)
    return Answer(MAILED)


async def reset(call: Call, body: ResetIn) -> Result:
    """Set a new password by a mailed link; all sessions end."""
    await registration.reset(call, body.token, body.password)
    return None


async def change(call: Call, body: ChangeIn) -> Result:
    """Change the password; all other sessions end."""
    await registration.change_password(call, body.current_password, body.new_password)
    return None


async def change_email(call: Call, body: AddressChangeIn) -> Result:
    """Send a link to the new address, which counts when the link is used."""
    await registration.ask_email_change(call, body.email, body.password)
    return Answer(MAILED)


ROUTES: list[Route] = [
    Route(
        "POST",
        "/api/auth/password/forgot",
        forgot,
        "Have a link to set a new password sent",
        OPEN,
        answer=Accepted,
        status=202,
        body=AddressIn,
    ),
    Route(
        "POST",
        "/api/auth/password/reset",
        reset,
        "Set a new password by the link of a mail",
        OPEN,
        status=204,
        body=ResetIn,
        also={401: LINK_FAULT},
    ),
    Route(
        "POST",
        "/api/auth/password/change",
        change,
        "Change my password",
        "account:write",
        status=204,
        body=ChangeIn,
        also={403: PASSWORD_FAULT, 409: NO_PASSWORD},
    ),
    Route(
        "POST",
        "/api/auth/email/change",
        change_email,
        "Change my mail address",
        "account:write",
        answer=Accepted,
        status=202,
        body=AddressChangeIn,
        also={403: PASSWORD_FAULT},
    ),
]

"""Registering, and confirming that the address is one's own."""

from typing import Annotated

from pydantic import BaseModel, Field

from limner.http.auth import registration
from limner.http.auth.fields import Address, AnyName, Language, NewPassword
from limner.http.auth.registration import Registered
from limner.http.body import Form
from limner.http.call import Call
from limner.http.routes import OPEN, Answer, Result, Route

Token = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[A-Za-z0-9_-]+$")]


class RegistrationIn(Form):
    """A new account."""

    email: Address
    password: NewPassword
    name: AnyName = ""
    language: Language = "en"


class AddressIn(Form):
    """Whose mail is wanted."""

    email: Address


class TokenIn(Form):
    """What a mail's link carries after ``token=``."""

    token: Token


class Verified(BaseModel):
    """The address that was confirmed."""

    email: str
    verified: bool


class Accepted(BaseModel):
    """What everybody is told, whether there is such an account or not."""

    detail: str


MAILED = Accepted(detail="if there is an account for which this is of use, a mail is on its way")


async def register(call: Call, body: RegistrationIn) -> Result:
    """Make an account, or tell its owner by mail that somebody tried."""
    return await registration.register(call, body.email, body.password, body.name, body.language)


async def verify(call: Call, body: TokenIn) -> Result:
    """Use up the link of a mail."""
    confirmed = await registration.verify_email(call, body.token)
    return Verified(email=confirmed.email, verified=True)


async def resend(call: Call, body: AddressIn) -> Result:
    """Send the link again."""
    await registration.resend(call, body.email)
    return Answer(MAILED)


ROUTES: list[Route] = [
    Route(
        "POST",
        "/api/auth/register",
        register,
        "Make an account",
        OPEN,
        answer=Registered,
        status=201,
        body=RegistrationIn,
        creates=True,
        also={403: "Nobody can register here"},
    ),
    Route(
        "POST",
        "/api/auth/verify-email",
        verify,
        "Confirm a mail address by the link of a mail",
        OPEN,
        answer=Verified,
        body=TokenIn,
        also={401: "The link is not valid, was used or has expired"},
    ),
    Route(
        "POST",
        "/api/auth/verify-email/resend",
        resend,
        "Have the link to confirm an address sent again",
        OPEN,
        answer=Accepted,
        status=202,
        body=AddressIn,
    ),
]

"""Signing in with a password, for programs: what they get is access and refresh tokens."""

from typing import Annotated

from pydantic import Field

from limner.http.auth import sessions
from limner.http.auth.fields import AnyAddress, Password
from limner.http.auth.sessions import TokenPair
from limner.http.auth.sign_in import authenticate
from limner.http.body import Form
from limner.http.call import Call
from limner.http.routes import OPEN, Result, Route


class LoginIn(Form):
    """Who signs in; ``totp`` is a code of the second factor or a recovery code."""

    email: AnyAddress
    password: Password
    totp: Annotated[str, Field(max_length=64, examples=["123456"])] | None = None


async def login(call: Call, body: LoginIn) -> Result:
    """Begin a session of tokens."""
    user = await authenticate(call, body.email, body.password, body.totp)
    work = call.work()
    pair = await sessions.begin_token(call, work, user, by="password")
    await sessions.commit_sign_in(call, work)
    return pair


ROUTES: list[Route] = [
    Route(
        "POST",
        "/api/auth/login",
        login,
        "Sign in with address and password",
        OPEN,
        answer=TokenPair,
        body=LoginIn,
        also={
            401: "invalid_credentials, totp_required or totp_invalid",
            403: "The address is not confirmed",
        },
    ),
]

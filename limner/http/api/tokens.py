"""Access and refresh tokens, and the keys that verify them."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from limner.http.auth import tokens
from limner.http.auth.sessions import TokenPair
from limner.http.auth.signing_keys import key_ring
from limner.http.body import Form
from limner.http.call import Call
from limner.http.routes import OPEN, Answer, Result, Route

KEPT_S = 600
"""A key is published an hour before it signs, so that ten minutes in a cache do no harm."""


class RefreshIn(Form):
    """The refresh token that was given last."""

    refresh_token: Annotated[
        str,
        Field(
            min_length=1,
            max_length=200,
            examples=["limr_v2cXqk0F3o4rB1Hq8Jb6yTn5wZs7uKd9LpEaMgXiCfo"],
        ),
    ]


class KeySet(BaseModel):
    """The public keys of access tokens, as JWKs (RFC 7517)."""

    keys: list[dict[str, Any]]


async def refresh(call: Call, body: RefreshIn) -> Result:
    """Give the next pair; a token that was used before ends its session."""
    return await tokens.refresh(call, body.refresh_token)


async def key_set(call: Call) -> Result:
    """Show the keys that verify access tokens."""
    documents = (await key_ring(call.front)).documents
    # The first key is made with the first token; nobody shall remember that there was none.
    kept = f"public, max-age={KEPT_S}" if documents else "no-store"
    shown = KeySet(keys=[dict(document) for document in documents])
    return Answer(shown, headers={"Cache-Control": kept})


ROUTES: list[Route] = [
    Route(
        "POST",
        "/api/auth/refresh",
        refresh,
        "Change a refresh token for the next pair of tokens",
        OPEN,
        answer=TokenPair,
        body=RefreshIn,
        also={401: "The refresh token is not valid, or was used before: its session has ended"},
    ),
    Route(
        "GET",
        "/.well-known/jwks.json",
        key_set,
        "The keys that verify access tokens",
        OPEN,
        answer=KeySet,
    ),
]

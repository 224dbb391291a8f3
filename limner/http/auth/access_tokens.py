"""Access tokens: JWTs that name an account and its session, for 15 minutes (RFC 9068).

A token says who, never what they may do: scopes follow from the account's role when it is used.
Besides the signature everything in a token is checked here, in the one form that we write it.
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError

from limner.core.errors import Unauthenticated
from limner.core.ids import uuid7_hex
from limner.core.key_pairs import ALGORITHM
from limner.http.auth.signing_keys import signing_key, verifying_key
from limner.http.ports import Front
from limner.storage.sql.aggregate import ID_LENGTH

TYPE = "at+jwt"
CLIENT = "limner"
LIFE_S = 900
SKEW_S = 10
"""Two machines' clocks may differ by so much."""
MAX_CHARACTERS = 4096
MAX_TIME = 253_402_300_799
FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
HEADER_NAMES = frozenset({"alg", "typ", "kid"})
TEXTS = ("iss", "aud", "sub", "sid", "jti", "client_id")
TIMES = ("iat", "nbf", "exp")


@dataclass(frozen=True)
class Claims:
    """What a valid token says."""

    user_id: str
    session_id: str
    expires_at: datetime


def audience(front: Front) -> str:
    """Give whom tokens are for: the API."""
    return f"{front.settings.base_url}/api"


async def issue(front: Front, user_id: str, session_id: str) -> str:
    """Give a token for a session.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    signing = await signing_key(front)
    now = int(front.clock.now().timestamp())
    claims = {
        "iss": front.settings.base_url,
        "aud": audience(front),
        "sub": user_id,
        "sid": session_id,
        "client_id": CLIENT,
        "jti": uuid7_hex(),
        "iat": now,
        "nbf": now,
        "exp": now + LIFE_S,
    }
    header = {"alg": ALGORITHM, "typ": TYPE, "kid": signing.kid}
    return jws.serialize_compact(header, json.dumps(claims), signing.key, algorithms=[ALGORITHM])


async def read(front: Front, token: str) -> Claims:
    """Check a token and give what it says.

    Raises:
        Unauthenticated: it is not ours, not for us, not of this time, or not an access token; the
            answer never says which.
        EngineUnavailable: the database does not answer.
    """
    if len(token) > MAX_CHARACTERS or not FORM.fullmatch(token):
        raise refused()
    head, body, _ = token.split(".")
    header, claims = _object(head), _object(body)
    kid = header.get("kid")
    # Names of keys, of extensions (crit, b64) or of places to fetch a key from: none is ours.
    if set(header) != HEADER_NAMES or header["alg"] != ALGORITHM or header["typ"] != TYPE:
        raise refused()
    key = await verifying_key(front, kid) if isinstance(kid, str) else None
    if key is None:
        raise refused()
    try:
        jws.deserialize_compact(token, key, algorithms=[ALGORITHM])
    except (JoseError, ValueError):
        raise refused() from None
    return _checked(front, claims)


def _object(part: str) -> dict[str, Any]:
    """Read a part: canonical base64url of a JSON object in which no name occurs twice."""
    try:
        raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
        found = json.loads(raw, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise refused() from None
    if not isinstance(found, dict) or base64.urlsafe_b64encode(raw).rstrip(b"=") != part.encode():
        raise refused()
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _checked(front: Front, claims: Mapping[str, Any]) -> Claims:
    if not all(isinstance(claims.get(name), str) and claims[name] for name in TEXTS):
        raise refused()
    # A bool is an int to Python, and a text such as "9999999999" would compare as one elsewhere.
    if not all(type(claims.get(name)) is int and 0 < claims[name] < MAX_TIME for name in TIMES):
        raise refused()
    if max(len(claims["sub"]), len(claims["sid"])) > ID_LENGTH:
        raise refused()
    now = front.clock.now().timestamp()
    is_ours = claims["iss"] == front.settings.base_url and claims["aud"] == audience(front)
    is_now = max(claims["iat"], claims["nbf"]) <= now + SKEW_S and now < claims["exp"]
    if not is_ours or not is_now or claims["exp"] - claims["iat"] > LIFE_S:
        raise refused()
    return Claims(claims["sub"], claims["sid"], datetime.fromtimestamp(claims["exp"], UTC))


def refused() -> Unauthenticated:
    """Give the one answer to all tokens that are not valid."""
    return Unauthenticated("The access token is not valid or has expired", code="token_invalid")

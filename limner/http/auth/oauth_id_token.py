"""ID tokens: who signed in, signed by the provider for us and for this one sign-in.

The checks are those of OpenID Connect Core 1.0 section 3.1.3.7. Algorithms come from a list of
our own, never from the token: no ``none``, no HMAC (RFC 8725 section 3.1).
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from joserfc import jws, jwt
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwk import Key
from joserfc.jws import JWSRegistry
from joserfc.jwt import JWTClaimsRegistry

from limner.http.auth.oauth_calls import distrusted
from limner.http.auth.oauth_discovery import KINDS

LEEWAY_S = 60
AGE_MAX_S = 600
"""What is older was not made for a sign-in that takes ten minutes at most."""
SUBJECT_MAX_CHARACTERS = 255
TYPES = frozenset({None, "jwt"})


class _Believed(JWSRegistry):
    """Knows the algorithms of ``KINDS`` only; EdDSA is fine where its curve is checked."""

    def get_alg(self, name: str) -> Any:
        if name not in KINDS:
            raise UnsupportedAlgorithmError(f"the algorithm {name!r} is not believed")
        return self.algorithms[name]


_REGISTRY = _Believed(algorithms=list(KINDS), strict_check_header=False)
_UNREADABLE = (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Head:
    """What an ID token says about its signature, before it is checked."""

    alg: str
    kid: str | None


@dataclass(frozen=True)
class Expected:
    """What an ID token has to say."""

    issuer: str
    client_id: str
    nonce: str
    access_token: str
    now: datetime


def head_of(label: str, token: str) -> Head:
    """Read the header.

    Raises:
        Forbidden: it is none, or its algorithm or type is not believed.
    """
    try:
        header = jws.extract_compact(token.encode()).headers()
        alg, kid, typ = header.get("alg"), header.get("kid"), header.get("typ")
    except _UNREADABLE:
        raise distrusted(label, "its ID token is no JWT") from None
    if not isinstance(alg, str) or alg not in KINDS:
        raise distrusted(label, "its ID token has no signature that is believed")
    if not (kid is None or isinstance(kid, str)):
        raise distrusted(label, "its ID token names no key")
    if (typ.lower() if isinstance(typ, str) else typ) not in TYPES:
        raise distrusted(label, "it sent another token as ID token")
    return Head(alg, kid)


def claims_of(label: str, token: str, key: Key, expected: Expected) -> Mapping[str, Any]:
    """Check signature and claims and give the claims.

    Raises:
        Forbidden: anything about it is wrong.
    """
    try:
        read = jwt.decode(token, key, registry=_REGISTRY)
    except _UNREADABLE:
        raise distrusted(label, "the signature of its ID token is wrong") from None
    claims = read.claims
    registry = JWTClaimsRegistry(
        now=int(expected.now.timestamp()),
        leeway=LEEWAY_S,
        iss={"essential": True, "value": expected.issuer},
        sub={"essential": True},
        aud={"essential": True, "value": expected.client_id},
        exp={"essential": True},
        iat={"essential": True},
        nonce={"essential": True, "value": expected.nonce},
    )
    try:
        registry.validate(claims)
    except JoseError as error:
        raise distrusted(label, f"its ID token is not for this sign-in ({error.error})") from None
    _check_further(label, str(read.header["alg"]), claims, expected)
    return claims


def _check_further(label: str, alg: str, claims: Mapping[str, Any], expected: Expected) -> None:
    """Check what the registry does not know.

    Raises:
        Forbidden: something of it is wrong.
    """
    if len(claims["sub"]) > SUBJECT_MAX_CHARACTERS:
        raise distrusted(label, "its name for the account is too long")
    if not isinstance(claims["nonce"], str):
        raise distrusted(label, "its ID token is not for this sign-in (nonce)")
    if claims["iat"] < expected.now.timestamp() - AGE_MAX_S - LEEWAY_S:
        raise distrusted(label, "its ID token is old")
    party = claims.get("azp")
    others = isinstance(claims["aud"], list) and any(
        each != expected.client_id for each in claims["aud"]
    )
    if (party is not None or others) and party != expected.client_id:
        raise distrusted(label, "its ID token was made for another service")
    told = claims.get("at_hash")
    if told is not None and not (
        isinstance(told, str)
        and hmac.compare_digest(
            told.rstrip("=").encode(errors="replace"), half_hash(alg, expected.access_token)
        )
    ):
        raise distrusted(label, "its tokens do not belong together")


def half_hash(alg: str, token: str) -> bytes:
    """Give ``at_hash``: the left half of a token's hash in base64url (section 3.1.3.6).

    The hash is that of the algorithm: SHA-512 for Ed25519, SHA-256 for all others of ours.
    """
    hashed = hashlib.sha512 if alg in {"EdDSA", "Ed25519"} else hashlib.sha256
    whole = hashed(token.encode()).digest()
    return base64.urlsafe_b64encode(whole[: len(whole) // 2]).rstrip(b"=")

"""What an OpenID provider says of itself: its addresses and its keys, remembered for an hour.

OpenID Connect Discovery 1.0 section 4 and RFC 8414; keys by RFC 7517. A key that is not known is
looked for anew, but at most every ``REFRESH_EVERY_S`` seconds, so that tokens with invented key
ids cause no traffic.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, Key, OKPKey, RSAKey

from limner.core.clock import Clock
from limner.core.errors import Refused
from limner.core.outgoing import Outgoing
from limner.http.auth.oauth_calls import ask_object, distrusted, faulty, trusted_url
from limner.http.ports import Front
from limner.storage.sql.remembered import Remembered

WELL_KNOWN = "/.well-known/openid-configuration"
LIFE_S = 3600.0
REFRESH_EVERY_S = 30.0
PROVIDERS_LIMIT = 10
KEYS_LIMIT = 100
OK = 200
RSA_CHARACTERS = range(342, 2732)
"""Of a modulus in base64url: 2048 to 16,384 bits."""
CURVES = {"ES256": "P-256", "EdDSA": "Ed25519", "Ed25519": "Ed25519"}
KINDS: Mapping[str, type[Key]] = {
    "RS256": RSAKey,
    "PS256": RSAKey,
    "ES256": ECKey,
    "EdDSA": OKPKey,
    "Ed25519": OKPKey,
}
"""The algorithms that are believed, each with its kind of key; ``none`` and HMAC are not."""


@dataclass(frozen=True)
class Metadata:
    """A provider's addresses and habits."""

    issuer: str
    authorization_url: str
    token_url: str
    jwks_url: str
    userinfo_url: str
    token_auth: tuple[str, ...]
    tells_issuer: bool


class Discovery:
    """Metadata and keys of providers, kept by this process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._metadata: Remembered[Metadata] = Remembered(clock, LIFE_S, PROVIDERS_LIMIT)
        self._keys: Remembered[tuple[Key, ...]] = Remembered(clock, LIFE_S, PROVIDERS_LIMIT)
        self._keys_read_at: dict[str, float] = {}

    async def metadata(self, front: Front, label: str, issuer: str) -> Metadata:
        """Give what the provider says of itself.

        Raises:
            Transient: it does not answer.
            ProviderFault: it is not the issuer, or does not say what is needed.
        """

        async def load() -> tuple[Metadata, Iterable[str]]:
            return await read_metadata(front, label, issuer), [issuer]

        return await self._metadata.get(issuer, load)

    async def key(
        self, front: Front, label: str, metadata: Metadata, alg: str, kid: str | None
    ) -> Key:
        """Give the key that a signature names.

        Raises:
            Forbidden: there is none of this id for this algorithm.
            Transient, ProviderFault: as ``metadata``.
        """
        url = metadata.jwks_url

        async def load() -> tuple[tuple[Key, ...], Iterable[str]]:
            self._keys_read_at[url] = self._clock.monotonic()
            return await read_keys(front, label, url), [url]

        found = fitting(await self._keys.get(url, load), alg, kid)
        if found is None and self._clock.monotonic() - self._keys_read_at[url] >= REFRESH_EVERY_S:
            self._keys.forget(url)
            found = fitting(await self._keys.get(url, load), alg, kid)
        if found is None:
            raise distrusted(label, "no key of its own fits the signature")
        return found


_discoveries: WeakKeyDictionary[Outgoing, Discovery] = WeakKeyDictionary()
"""One for each client that the providers are asked with: one per process."""


def discovery_of(front: Front) -> Discovery:
    """Give what this process has found out."""
    found = _discoveries.get(front.outgoing)
    if found is None:
        found = _discoveries[front.outgoing] = Discovery(front.clock)
    return found


async def read_metadata(front: Front, label: str, issuer: str) -> Metadata:
    """Ask the provider for its configuration document.

    Raises:
        Transient: it does not answer.
        ProviderFault: the document is another issuer's, or an address in it is not acceptable.
    """
    try:
        trusted_url(issuer)
    except Refused as error:
        raise faulty(label, f"the issuer that is configured is {error.detail}") from None
    told = await ask_object(front, label, "GET", issuer.rstrip("/") + WELL_KNOWN)
    if told.status != OK:
        raise faulty(label, f"its configuration answers {told.status}; is the issuer right?")
    if told.text("issuer") != issuer:
        raise faulty(label, "it calls itself by another issuer than the one that is configured")
    content = told.content
    return Metadata(
        issuer=issuer,
        authorization_url=_address(label, content, "authorization_endpoint", issuer),
        token_url=_address(label, content, "token_endpoint", issuer),
        jwks_url=_address(label, content, "jwks_uri", issuer),
        userinfo_url=(
            _address(label, content, "userinfo_endpoint", issuer)
            if content.get("userinfo_endpoint") is not None
            else ""
        ),
        token_auth=_names(content, "token_endpoint_auth_methods_supported"),
        tells_issuer=content.get("authorization_response_iss_parameter_supported") is True,
    )


def _address(label: str, content: Mapping[str, Any], name: str, issuer: str) -> str:
    """Give an endpoint's address."""
    text = content.get(name)
    try:
        if not isinstance(text, str):
            raise Refused("missing")
        return str(trusted_url(text, issuer=issuer))
    except Refused as error:
        raise faulty(label, f"its {name} is {error.detail}") from None


def _names(content: Mapping[str, Any], name: str) -> tuple[str, ...]:
    found = content.get(name)
    return tuple(each for each in found if isinstance(each, str)) if isinstance(found, list) else ()


async def read_keys(front: Front, label: str, url: str) -> tuple[Key, ...]:
    """Ask the provider for its public keys; those that cannot be used are left out.

    Raises:
        Transient: it does not answer.
        ProviderFault: it has no list of keys.
    """
    told = await ask_object(front, label, "GET", url)
    listed = told.content.get("keys")
    if told.status != OK or not isinstance(listed, list):
        raise faulty(label, "it does not show its keys")
    return tuple(key for each in listed[:KEYS_LIMIT] if (key := _public_key(each)) is not None)


def _public_key(given: object) -> Key | None:
    """Give a key that can check signatures; None for symmetric, short, private or odd ones."""
    if not isinstance(given, dict) or given.get("kty") not in {"RSA", "EC", "OKP"} or "d" in given:
        return None
    if given["kty"] == "RSA" and len(str(given.get("n", ""))) not in RSA_CHARACTERS:
        return None
    try:
        return JWKRegistry.import_key(given)
    except (JoseError, ValueError, TypeError, KeyError):
        return None


def fitting(keys: Iterable[Key], alg: str, kid: str | None) -> Key | None:
    """Give the only key that a signature by ``alg`` with ``kid`` can be of.

    Without a ``kid`` a provider may have only one key for the algorithm (OpenID Connect Core 1.0
    section 10.1).
    """
    found = [key for key in keys if _fits(key, alg) and (kid is None or key.get("kid") == kid)]
    return found[0] if len(found) == 1 or (found and kid is not None) else None


def _fits(key: Key, alg: str) -> bool:
    curve = CURVES.get(alg)
    return (
        isinstance(key, KINDS[alg])
        and key.get("use") in {None, "sig"}
        and key.get("alg") in {None, alg}
        and (curve is None or key.get("crv") == curve)
    )

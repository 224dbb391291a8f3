"""Signed links and signed tokens: HMAC-SHA256 under keys derived from the secret key.

Each purpose has a key of its own (HKDF, RFC 5869), so that what was signed for one thing never
opens another. Every signature names the secret it was made under by a short id: several secrets
can be accepted while the operator rotates, the newest signs.
"""

import base64
import hashlib
import hmac
import json
import math
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol, cast
from urllib.parse import quote, urlencode

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from limner.core.errors import Forbidden, Invalid, Unauthenticated
from limner.core.objects import GET_MAX_S, PUT_MAX_S, Method, ObjectInfo, validate_key

SECRET_MIN_BYTES = 16
TOKEN_MAX_CHARACTERS = 4096

_VERSION: Final = b"\x01"
_KEY_ID_BYTES = 6
_HEAD_BYTES = len(_VERSION) + _KEY_ID_BYTES
_MAC_BYTES = 32
_PURPOSE = re.compile(r"[a-z][a-z0-9.-]{0,63}")
_TOKEN = re.compile(r"[A-Za-z0-9_-]+")
# What a link may live is rounded up to whole seconds when it is signed.
_ROUNDING_S = 1.0


@dataclass(frozen=True, slots=True)
class Grant:
    """What a signed link allows: one method on one key until it expires.

    ``id`` is the same for the same link only. For PUT, ``content_type`` and ``size_bytes`` are
    what the request must carry; for GET, ``content_type`` overrides the stored one if it is there.
    """

    id: str
    method: Method
    key: str
    expires_at: datetime
    content_type: str | None
    size_bytes: int | None
    filename: str | None
    inline: bool


class SignedAccess(Protocol):
    """An object store whose signed links lead to our own front, at ``/o/{key}``.

    The front asks ``verify_request`` first; then it answers a GET from ``ObjectStore.get``, and
    hands the body of a PUT to ``receive``.
    """

    def verify_request(
        self,
        method: str,
        path_key: str,
        query: Mapping[str, str],
        content_type: str | None,
        content_length: int | None,
        now: datetime,
    ) -> Grant:
        """Give what the link allows, if it allows this request.

        Args:
            method: the request's; HEAD counts as GET (RFC 9110 section 9.3.2).
            path_key: what follows ``/o/``, decoded.
            query: the query, decoded; a multidict is fine, and a repeated name is refused.
            content_type: the Content-Type header as it came, parameters included.
            content_length: the Content-Length header; ``None`` if the body is chunked.
            now: the time, with its zone.

        Raises:
            Forbidden: the signature does not cover this request, or (code ``link_expired``) its
                time has passed.
        """
        ...

    async def receive(self, grant: Grant, body: AsyncIterator[bytes]) -> ObjectInfo:
        """Store the body of a PUT, once: a link that has been used is used up.

        Raises:
            Forbidden: the grant is for GET, or its link has been used.
            Invalid: the body is shorter than the link says; nothing was stored.
            TooLarge: the body is longer than the link says; nothing was stored.
            EngineUnavailable: as ``ObjectStore.put``; the link can be tried again.
        """
        ...


def derive_key(secret: bytes, purpose: str, length_bytes: int = 32) -> bytes:
    """Derive a key for one purpose from the secret key (HKDF-SHA256, RFC 5869, no salt)."""
    info = b"limner/1/" + purpose.encode()
    return HKDF(algorithm=SHA256(), length=length_bytes, salt=None, info=info).derive(secret)


class Signer:
    """Signs links and tokens under the first secret, and accepts those of all.

    Args:
        secrets: newest first, each of at least 16 bytes.

    Raises:
        Invalid: no secret, a short one, or one given twice.
    """

    def __init__(self, secrets: Sequence[bytes]) -> None:
        if not secrets or any(len(secret) < SECRET_MIN_BYTES for secret in secrets):
            raise Invalid(f"A signing secret has at least {SECRET_MIN_BYTES} bytes")
        self._secrets = {
            _encode(derive_key(secret, "id", _KEY_ID_BYTES)): secret for secret in secrets
        }
        if len(self._secrets) != len(secrets):
            raise Invalid("The same signing secret is given twice")
        self._newest = next(iter(self._secrets))

    def sign_url(
        self,
        public_url: str,
        method: Method,
        key: str,
        *,
        expires_at: datetime,
        content_type: str | None = None,
        size_bytes: int | None = None,
        filename: str | None = None,
        inline: bool = True,
    ) -> str:
        """Give ``{public_url}/o/{key}?method=…&expires=…&…&signature=…``.

        ``expires_at`` is rounded up to whole seconds. The arguments are those of
        ``ObjectStore.presign`` and are checked there.
        """
        fields = _fields(
            method=method,
            expires=math.ceil(expires_at.timestamp()),
            content_type=content_type,
            size_bytes=size_bytes,
            filename=filename,
            inline=inline,
            key_id=self._newest,
        )
        signature = self._sign_fields(self._newest, key, fields)
        query = urlencode([*fields.items(), ("signature", signature)], quote_via=quote, safe="")
        return f"{public_url.rstrip('/')}/o/{validate_key(key)}?{query}"

    def verify_request(
        self,
        method: str,
        path_key: str,
        query: Mapping[str, str],
        content_type: str | None,
        content_length: int | None,
        now: datetime,
    ) -> Grant:
        """Give what a link allows, if it allows this request; see ``SignedAccess``.

        The signature is compared as text and in constant time, the query must be exactly what
        ``sign_url`` writes, in any order: no second form of a link is valid.

        Raises:
            Forbidden: see ``SignedAccess``.
        """
        grant = self._open_link(path_key, query.items())
        wanted = "GET" if method == "HEAD" else method
        if grant.method != wanted:
            raise _refused()
        left_s = (grant.expires_at - now).total_seconds()
        if left_s <= 0:
            raise Forbidden("This link has expired", code="link_expired")
        if left_s > (GET_MAX_S if wanted == "GET" else PUT_MAX_S) + _ROUNDING_S:
            raise _refused()
        if wanted == "PUT" and (content_type, content_length) != (
            grant.content_type,
            grant.size_bytes,
        ):
            raise _refused()
        return grant

    def token(
        self, purpose: str, payload: Mapping[str, Any], expires_at: datetime | None = None
    ) -> str:
        """Give ``payload`` (JSON) signed for ``purpose``, as ``[A-Za-z0-9_-]+``.

        Anyone can read it; nobody can change it. base64url of version, secret id, compact JSON
        and HMAC-SHA256 over all of these. ``expires_at`` is rounded up to whole seconds.

        Raises:
            Invalid: a purpose that is no short name, a payload that is no JSON, or a token of
                over 4096 characters.
        """
        expires = None if expires_at is None else math.ceil(expires_at.timestamp())
        try:
            text = json.dumps([expires, dict(payload)], separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise Invalid(f"A token's payload is JSON: {error}") from None
        sealed = _VERSION + _decode(self._newest) + text.encode()
        token = _encode(sealed + self._token_mac(self._newest, purpose, sealed))
        if len(token) > TOKEN_MAX_CHARACTERS:
            raise Invalid(f"A token has at most {TOKEN_MAX_CHARACTERS} characters")
        return token

    def open(self, purpose: str, token: str, now: datetime) -> dict[str, Any]:
        """Give the payload of a token that was signed for ``purpose``.

        Raises:
            Unauthenticated: code ``token_invalid``, if it is not ours, was changed, is for
                another purpose or not written canonically; ``token_expired`` if ``now`` is at or
                beyond its end.
        """
        if len(token) > TOKEN_MAX_CHARACTERS:
            raise _not_ours()
        raw = _decode(token)
        sealed, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        key_id = _encode(sealed[len(_VERSION) : _HEAD_BYTES])
        if not sealed.startswith(_VERSION) or key_id not in self._secrets:
            raise _not_ours()
        if not hmac.compare_digest(self._token_mac(key_id, purpose, sealed), mac):
            raise _not_ours()
        # Only what we signed comes this far, so that its form needs no further check.
        expires, payload = json.loads(sealed[_HEAD_BYTES:])
        if expires is not None and now.timestamp() >= expires:
            raise Unauthenticated("This link has expired", code="token_expired")
        return cast("dict[str, Any]", payload)

    def _open_link(self, path_key: str, pairs: Iterable[tuple[str, str]]) -> Grant:
        """Check form and signature of a link, whatever the request."""
        listed = list(pairs)
        given = dict(listed)
        signature = given.pop("signature", "")
        key_id = given.get("key_id", "")
        if len(listed) != len(given) + 1 or key_id not in self._secrets:
            raise _refused()
        if not hmac.compare_digest(
            self._sign_fields(key_id, path_key, given).encode(), signature.encode(errors="replace")
        ):
            raise _refused()
        # Only what sign_url wrote comes this far, so that its form needs no further check.
        size = given.get("size")
        return Grant(
            id=hashlib.sha256(signature.encode()).hexdigest(),
            method=cast("Method", given["method"]),
            key=path_key,
            expires_at=datetime.fromtimestamp(int(given["expires"]), UTC),
            content_type=given.get("content_type"),
            size_bytes=None if size is None else int(size),
            filename=given.get("filename"),
            inline="inline" not in given,
        )

    def _sign_fields(self, key_id: str, key: str, fields: Mapping[str, str]) -> str:
        # JSON keeps names and values apart whatever they contain; sorted, the order is free.
        message = json.dumps([key, sorted(fields.items())]).encode()
        mac_key = derive_key(self._secrets[key_id], "url")
        return _encode(hmac.digest(mac_key, message, "sha256"))

    def _token_mac(self, key_id: str, purpose: str, sealed: bytes) -> bytes:
        if not _PURPOSE.fullmatch(purpose):
            raise Invalid(f"{purpose!r} is no purpose of a token")
        mac_key = derive_key(self._secrets[key_id], f"token/{purpose}")
        return hmac.digest(mac_key, sealed, "sha256")


def _fields(
    *,
    method: Method,
    expires: int,
    content_type: str | None,
    size_bytes: int | None,
    filename: str | None,
    inline: bool,
    key_id: str,
) -> dict[str, str]:
    """Give the query of a link, but for the signature; what has its default is left out."""
    fields = {
        "method": method,
        "expires": str(expires),
        "content_type": content_type,
        "size": None if size_bytes is None else str(size_bytes),
        "filename": filename,
        "inline": None if inline else "0",
        "key_id": key_id,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(token: str) -> bytes:
    """Read base64url without padding, in its one canonical form.

    The last character can hold bits that no byte uses; with other bits there, another text would
    mean the same bytes, and whoever remembers used tokens by their text would be deceived.
    """
    if not _TOKEN.fullmatch(token) or len(token) % 4 == 1:
        raise _not_ours()
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    if _encode(raw) != token:
        raise _not_ours()
    return raw


def _refused() -> Forbidden:
    return Forbidden("The signature does not cover this request")


def _not_ours() -> Unauthenticated:
    return Unauthenticated("This link is not valid", code="token_invalid")

"""What signing in by an account elsewhere needs of a provider, and what it gives."""

import base64
import hashlib
from dataclasses import dataclass
from typing import Protocol

from limner.http.ports import Front

NAME_MAX_CHARACTERS = 200


@dataclass(frozen=True)
class Asked:
    """One sign-in under way: what was sent along and must come back.

    ``verifier`` never leaves us before the code is exchanged; its hash is the challenge
    (RFC 7636 section 4, method S256).
    """

    state: str
    verifier: str
    nonce: str
    redirect_uri: str

    @property
    def challenge(self) -> str:
        """Give the SHA-256 of the verifier in base64url."""
        hashed = hashlib.sha256(self.verifier.encode()).digest()
        return base64.urlsafe_b64encode(hashed).rstrip(b"=").decode()


@dataclass(frozen=True)
class Person:
    """Who signed in there: ``(issuer, subject)`` is the identity and never changes.

    ``email`` may change, and is theirs only if the provider says so by ``is_verified``.
    """

    issuer: str
    subject: str
    email: str = ""
    is_verified: bool = False
    name: str = ""


class Provider(Protocol):
    """Where people have accounts. ``name`` is the word in our URLs, ``label`` on the button."""

    @property
    def name(self) -> str:
        """google, github or oidc."""
        ...

    @property
    def label(self) -> str:
        """What people call it."""
        ...

    async def authorization_url(self, front: Front, asked: Asked) -> str:
        """Give the address there that the browser is sent to.

        Raises:
            Transient: code ``provider_away``.
            ProviderFault: it cannot be used as it is, or as it is configured.
        """
        ...

    async def check_issuer(self, front: Front, told: str | None) -> None:
        """Return if ``iss`` in an answer is this provider's (RFC 9207).

        Raises:
            Forbidden: it is another's, or missing although this provider always sends it.
            Transient, ProviderFault: as ``authorization_url``.
        """
        ...

    async def person(self, front: Front, code: str, asked: Asked) -> Person:
        """Exchange the code and give who signed in.

        Raises:
            BadRequest: code ``oauth_code``: it is not valid here and now.
            Forbidden: code ``oauth_refused``: what came back cannot be trusted.
            Transient, ProviderFault: as ``authorization_url``.
        """
        ...


def clean_name(name: object) -> str:
    """Give a person's name as one line of at most 200 characters, or nothing."""
    if not isinstance(name, str):
        return ""
    plain = "".join(each if each.isprintable() else " " for each in name)
    return " ".join(plain.split())[:NAME_MAX_CHARACTERS]

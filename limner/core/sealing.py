"""Sealing: what is stored encrypted, AES-256-GCM under a key derived from the secret key.

What a sealed value belongs to is bound as associated data, so that two of them cannot be
exchanged (NIST SP 800-38D; the nonce is 96 random bits).
"""

import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from limner.core.errors import NotConfigured

NONCE_BYTES = 12


class Sealer:
    """Seals, opens and compares bytes.

    Args:
        key: 16, 24 or 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        # A key for each use: the cipher's own must not sign anything (NIST SP 800-57, 5.2).
        self._digest_key = hmac.digest(key, b"digest", "sha256")

    def seal(self, name: str, plain: bytes) -> bytes:
        """Give ``plain`` sealed for ``name``, 28 bytes longer."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, name.encode())

    def digest(self, name: str, plain: bytes) -> str:
        """Give 64 hex digits that tell ``plain`` from all else for ``name`` (HMAC-SHA-256).

        Unlike a bare hash, they let nobody without the key try what ``plain`` may have been.
        """
        return hmac.digest(self._digest_key, name.encode() + b"\0" + plain, "sha256").hex()

    def open(self, name: str, sealed: bytes) -> bytes:
        """Give what was sealed for ``name``.

        Raises:
            NotConfigured: it was sealed under another key or for another name, or was changed.
        """
        raw = bytes(sealed)
        try:
            return self._cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], name.encode())
        except (InvalidTag, ValueError):
            raise NotConfigured(f"{name} was stored under another secret key") from None

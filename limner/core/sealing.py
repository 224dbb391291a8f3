"""Sealing: what is stored encrypted, AES-256-GCM under a key derived from the secret key.

What a sealed value belongs to is bound as associated data, so that two of them cannot be
exchanged (NIST SP 800-38D; the nonce is 96 random bits).
"""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from limner.core.errors import NotConfigured

NONCE_BYTES = 12


class Sealer:
    """Seals and opens bytes.

    Args:
        key: 16, 24 or 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, name: str, plain: bytes) -> bytes:
        """Give ``plain`` sealed for ``name``, 28 bytes longer."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, name.encode())

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

"""Key pairs that sign tokens: ES256, ECDSA over P-256 with SHA-256 (RFC 7518 section 3.4)."""

import json
from typing import Any

from joserfc.jwk import ECKey

ALGORITHM = "ES256"
CURVE = "P-256"


def make_key_pair() -> tuple[dict[str, Any], bytes]:
    """Give a new pair: the public half as a JWK (RFC 7517), the private half as bytes to seal.

    The key id is the thumbprint of the public half (RFC 7638), so that no two keys share one.
    """
    key = ECKey.generate_key(CURVE)
    public = {
        **key.as_dict(private=False),
        "kid": key.thumbprint(),
        "alg": ALGORITHM,
        "use": "sig",
    }
    return public, json.dumps(key.as_dict(private=True)).encode()

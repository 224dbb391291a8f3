"""Key pairs: a public half that tells nothing of the private one, and an id that is its own."""

import json

from joserfc import jws
from joserfc.jwk import ECKey

from limner.core.key_pairs import ALGORITHM, make_key_pair


def test_what_the_private_half_signs_the_public_half_verifies() -> None:
    public, private = make_key_pair()
    signer = ECKey.import_key(json.loads(private))
    token = jws.serialize_compact({"alg": ALGORITHM}, b"x", signer, algorithms=[ALGORITHM])
    verifier = ECKey.import_key({name: public[name] for name in ("kty", "crv", "x", "y")})
    assert jws.deserialize_compact(token, verifier, algorithms=[ALGORITHM]).payload == b"x"


def test_the_public_half_names_its_thumbprint_its_use_and_no_secret() -> None:
    public, private = make_key_pair()
    assert set(public) == {"kty", "crv", "x", "y", "kid", "alg", "use"}
    assert (public["kty"], public["crv"], public["alg"]) == ("EC", "P-256", "ES256")
    assert public["kid"] == ECKey.import_key(json.loads(private)).thumbprint()


def test_no_two_pairs_are_alike() -> None:
    assert len({make_key_pair()[0]["kid"] for _ in range(5)}) == 5

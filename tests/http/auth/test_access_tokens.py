"""Access tokens: what is in one, and every way to forge one that we know of (ASVS 5.0, 9.1, 9.2).

A forgery changes one thing of a good token, so that nothing else can be the reason it is refused.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from joserfc import jws
from joserfc.jwk import ECKey

from limner.core.clock import HeldClock
from limner.core.errors import Unauthenticated
from limner.http.auth import access_tokens
from limner.http.auth.signing_keys import key_ring, signing_key
from limner.storage.sql.remembered import LIFE_S as REMEMBERED_S
from limner.storage.sql.sessions import Session
from tests.fakes.front import Stage, problem, staged

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = ECKey.generate_key("P-256")


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


def b64(raw: bytes | str | dict[str, Any]) -> str:
    if isinstance(raw, dict):
        raw = json.dumps(raw)
    raw = raw.encode() if isinstance(raw, str) else raw
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64(part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


@dataclass
class Forge:
    """A good token in pieces, and our own key, to sign what it should never sign."""

    token: str
    refresh: str
    key: ECKey
    public: dict[str, Any]
    header: dict[str, Any] = field(init=False)
    claims: dict[str, Any] = field(init=False)
    signature: str = field(init=False)

    def __post_init__(self) -> None:
        head, body, self.signature = self.token.split(".")
        self.header, self.claims = unb64(head), unb64(body)

    def signed(
        self,
        header: dict[str, Any] | str | None = None,
        claims: dict[str, Any] | str | None = None,
        key: ECKey | None = None,
    ) -> str:
        """Sign anything at all by ES256, whatever the header says."""
        head = b64(self.header if header is None else header)
        body = b64(self.claims if claims is None else claims)
        private = (key or self.key).private_key
        assert private is not None
        der = private.sign(f"{head}.{body}".encode(), ec.ECDSA(hashes.SHA256()))
        r, s = decode_dss_signature(der)
        return f"{head}.{body}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def with_header(self, **changes: Any) -> str:
        return self.signed({**self.header, **changes})

    def with_claims(self, **changes: Any) -> str:
        return self.signed(claims={**self.claims, **changes})

    def without(self, name: str) -> str:
        return self.signed(claims={one: self.claims[one] for one in self.claims if one != name})

    def unsigned(self, alg: str, signature: str = "") -> str:
        return f"{b64({**self.header, 'alg': alg})}.{b64(self.claims)}.{signature}"

    def by_hmac(self, secret: bytes, **header: Any) -> str:
        start = f"{b64({**self.header, 'alg': 'HS256', **header})}.{b64(self.claims)}"
        return f"{start}.{b64(hmac.digest(secret, start.encode(), hashlib.sha256))}"

    def by_rsa(self) -> str:
        start = f"{b64({**self.header, 'alg': 'RS256'})}.{b64(self.claims)}"
        return f"{start}.{b64(RSA.sign(start.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    def pem(self) -> bytes:
        return self.key.as_pem(private=False)

    def raw(self, name: str, written: str) -> str:
        """Write a claim's value as JSON that no encoder would write."""
        text = json.dumps({**self.claims, name: "@"}).replace('"@"', written)
        return self.signed(claims=text)


@pytest.fixture
async def forge(stage: Stage) -> Forge:
    pair = await stage.tokens()
    signing = await signing_key(stage.front)
    (document,) = (await key_ring(stage.front)).documents
    return Forge(pair.access_token, pair.refresh_token, signing.key, dict(document))


Make = Callable[[Forge], str]

FORGED: dict[str, Make] = {
    "alg none": lambda f: f.unsigned("none"),
    "alg None": lambda f: f.unsigned("None"),
    "alg NONE": lambda f: f.unsigned("NONE"),
    "alg nOnE": lambda f: f.unsigned("nOnE"),
    "alg none with the good signature": lambda f: f.unsigned("none", f.signature),
    "no alg": lambda f: f.signed({one: f.header[one] for one in ("typ", "kid")}),
    "alg a list": lambda f: f.with_header(alg=["ES256"]),
    "alg null": lambda f: f.with_header(alg=None),
    "alg in small letters": lambda f: f.with_header(alg="es256"),
    "empty signature": lambda f: f.unsigned("ES256"),
    "signature of zeros": lambda f: f.unsigned("ES256", b64(b"\0" * 64)),
    "signature cut off": lambda f: f.token[:-8],
    "signature as DER": lambda f: f.unsigned("ES256", b64(b"0D" + b"\2 " + b"\1" * 64)),
    "signature of another token": lambda f: ".".join(
        [*f.with_claims(sub="user_other").split(".")[:2], f.signature]
    ),
    "signed by another key": lambda f: f.signed(key=OTHER),
    "HS256 by a blank key": lambda f: f.by_hmac(b""),
    "HS256 by the public key as PEM": lambda f: f.by_hmac(f.pem()),
    "HS256 by the public key as JWK": lambda f: f.by_hmac(json.dumps(f.public).encode()),
    "HS256 without kid": lambda f: f.by_hmac(f.pem(), kid=None),
    "RS256": lambda f: f.by_rsa(),
    "kid of nobody": lambda f: f.with_header(kid="none"),
    "kid a path": lambda f: f.with_header(kid="../../../../dev/null"),
    "kid a query": lambda f: f.with_header(kid="x' UNION SELECT 'a"),
    "kid a number": lambda f: f.with_header(kid=0),
    "kid null": lambda f: f.with_header(kid=None),
    "no kid": lambda f: f.signed({one: f.header[one] for one in ("typ", "alg")}),
    "jwk brings its own key": lambda f: f.signed(
        {**f.header, "jwk": OTHER.as_dict(private=False)}, key=OTHER
    ),
    "jku": lambda f: f.signed({**f.header, "jku": "https://evil.test/jwks.json"}, key=OTHER),
    "x5u": lambda f: f.with_header(x5u="https://evil.test/chain.pem"),
    "x5c": lambda f: f.with_header(x5c=["MIIB"]),
    "crit": lambda f: f.with_header(crit=["exp"], exp=1),
    "crit empty": lambda f: f.with_header(crit=[]),
    "b64 false": lambda f: f.with_header(b64=False, crit=["b64"]),
    "zip": lambda f: f.with_header(zip="DEF"),
    "cty": lambda f: f.with_header(cty="JWT"),
    "alg twice": lambda f: f.signed(
        f'{{"alg":"none","alg":"ES256","typ":"at+jwt","kid":"{f.header["kid"]}"}}'
    ),
    "typ JWT": lambda f: f.with_header(typ="JWT"),
    "typ of an id token": lambda f: f.with_header(typ="id+jwt"),
    "no typ": lambda f: f.signed({one: f.header[one] for one in ("alg", "kid")}),
    "a refresh token": lambda f: f.refresh,
    "exp as text": lambda f: f.with_claims(exp="9999999999"),
    "exp a bool": lambda f: f.with_claims(exp=True),
    "exp null": lambda f: f.with_claims(exp=None),
    "exp a list": lambda f: f.with_claims(exp=[9999999999]),
    "exp a fraction": lambda f: f.with_claims(exp=f.claims["exp"] + 0.5),
    "exp infinite": lambda f: f.raw("exp", "Infinity"),
    "exp no number": lambda f: f.raw("exp", "NaN"),
    "exp of 2000 digits": lambda f: f.raw("exp", "9" * 2000),
    "exp beyond all calendars": lambda f: f.with_claims(exp=10**15, iat=10**15 - 1),
    "exp far away": lambda f: f.with_claims(exp=f.claims["iat"] + 901),
    "exp over": lambda f: f.with_claims(iat=f.claims["iat"] - 900, exp=f.claims["iat"]),
    "exp negative": lambda f: f.with_claims(exp=-1),
    "exp twice": lambda f: f.signed(claims=json.dumps(f.claims)[:-1] + ', "exp": 9999999999}'),
    "nbf to come": lambda f: f.with_claims(nbf=f.claims["iat"] + 11),
    "nbf as text": lambda f: f.with_claims(nbf="1"),
    "iat to come": lambda f: f.with_claims(iat=f.claims["iat"] + 11),
    "iat as text": lambda f: f.with_claims(iat=str(f.claims["iat"])),
    "iss of another": lambda f: f.with_claims(iss="https://evil.test"),
    "iss with a slash more": lambda f: f.with_claims(iss=f.claims["iss"] + "/"),
    "aud of another": lambda f: f.with_claims(aud="https://evil.test/api"),
    "aud a list with ours": lambda f: f.with_claims(aud=[f.claims["aud"], "https://evil.test"]),
    "aud a list of lists": lambda f: f.with_claims(aud=[[f.claims["aud"]]]),
    "sub of another account": lambda f: f.with_claims(sub="user_other"),
    "sub a number": lambda f: f.with_claims(sub=1),
    "sub an object": lambda f: f.with_claims(sub={"$ne": ""}),
    "sid of nobody": lambda f: f.with_claims(sid="session_none"),
    "sid empty": lambda f: f.with_claims(sid=""),
    "sid longer than any": lambda f: f.with_claims(sid="s" * 500),
    "no iss": lambda f: f.without("iss"),
    "no aud": lambda f: f.without("aud"),
    "no sub": lambda f: f.without("sub"),
    "no sid": lambda f: f.without("sid"),
    "no jti": lambda f: f.without("jti"),
    "no exp": lambda f: f.without("exp"),
    "no iat": lambda f: f.without("iat"),
    "no nbf": lambda f: f.without("nbf"),
    "claims a list": lambda f: f.signed(claims="[]"),
    "claims no JSON": lambda f: f.signed(claims="{"),
    "claims nested too deep": lambda f: f.signed(claims="[" * 1500 + "]" * 1500),
    "header a list": lambda f: f.signed("[]"),
    "header no JSON": lambda f: f.signed("alg"),
    "header not UTF-8": lambda f: f"{b64(bytes([255, 254]))}.{b64(f.claims)}.{f.signature}",
    "padded": lambda f: f.token + "=",
    "padded header": lambda f: f.token.replace(".", "==.", 1),
    "a bit that no byte uses": lambda f: f.token.replace(".", "A.", 1),
    "two parts": lambda f: f.token.rpartition(".")[0],
    "four parts": lambda f: f.token + ".x",
    "five parts, as if encrypted": lambda f: f.token + ".x.y",
    "base64 of the other alphabet": lambda f: "+/" + f.token,
    "flattened JSON": lambda f: json.dumps({"payload": b64(f.claims), "signature": f.signature}),
    "7 kB": lambda f: f.with_claims(pad="x" * 4800),
    "nothing at all": lambda _: "..",
}


async def test_a_good_token_is_let_in_and_says_what_it_should(
    stage: Stage, forge: Forge, clock: HeldClock
) -> None:
    client = await stage.client(forge.token)
    assert (await client.get("/api/tasks")).status == 200
    base, now = stage.front.settings.base_url, int(clock.now().timestamp())
    session = await Session.get()
    jti = forge.claims.pop("jti")
    assert forge.claims == {
        "iss": base,
        "aud": f"{base}/api",
        "sub": stage.owner.id,
        "sid": session.id,
        "client_id": "limner",
        "iat": now,
        "nbf": now,
        "exp": now + 900,
    }
    assert len(jti) == 32
    assert forge.header == {"alg": "ES256", "typ": "at+jwt", "kid": forge.public["kid"]}
    assert len(forge.token) < 1000
    # What the forge signs itself is good too: so a forgery is refused for what it changes.
    honest = await stage.client(forge.with_claims(jti="another"))
    assert (await honest.get("/api/tasks")).status == 200


async def test_anybody_can_verify_a_token_by_the_published_keys(stage: Stage, forge: Forge) -> None:
    published = await (await (await stage.client()).get("/.well-known/jwks.json")).json()
    (document,) = published["keys"]
    assert (document["kid"], document["use"], document["alg"]) == (
        forge.header["kid"],
        "sig",
        "ES256",
    )
    key = ECKey.import_key({one: document[one] for one in ("kty", "crv", "x", "y")})
    found = jws.deserialize_compact(forge.token, key, algorithms=["ES256"])
    assert json.loads(found.payload)["sub"] == stage.owner.id


async def test_every_forged_token_is_refused_with_the_one_answer(
    stage: Stage, forge: Forge
) -> None:
    client = await stage.client()
    expected = await refusal(client, "a.b.c")
    assert (expected["status"], expected["code"]) == (401, "token_invalid")
    # One stage for all: the table is long, and a refusal leaves nothing behind.
    found = {name: await refusal(client, make(forge)) for name, make in FORGED.items()}
    assert {name: one for name, one in found.items() if one != expected} == {}
    assert (await (await stage.client(forge.token)).get("/api/tasks")).status == 200


async def refusal(client: Any, token: str) -> dict[str, Any]:
    """Give the problem that a token meets, without what differs between any two requests."""
    answer = await client.get("/api/tasks", headers={"Authorization": f"Bearer {token}"})
    if answer.status != 401:
        return {"status": answer.status}
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    found = await problem(answer)
    del found["request_id"]
    return found


async def test_a_token_of_a_megabyte_is_refused_before_anything_reads_it(
    stage: Stage, forge: Forge
) -> None:
    huge = forge.with_claims(pad="x" * (1 << 20))
    with pytest.raises(Unauthenticated):
        await access_tokens.read(stage.front, huge)
    client = await stage.client()
    answer = await client.get("/api/tasks", headers={"Authorization": f"Bearer {huge}"})
    assert answer.status == 431, "the server takes no such header"


async def test_a_token_ends_after_a_quarter_of_an_hour(stage: Stage, forge: Forge) -> None:
    client = await stage.client(forge.token)
    stage.clock.advance(899)
    assert (await client.get("/api/tasks")).status == 200
    stage.clock.advance(1)
    assert (await client.get("/api/tasks")).status == 401, "though it was remembered"


async def test_a_token_is_worth_no_more_than_its_session(stage: Stage, forge: Forge) -> None:
    await stage.settings(session_life_s=300)
    client = await stage.bearer()
    stage.clock.advance(299)
    assert (await client.get("/api/tasks")).status == 200
    stage.clock.advance(1)
    assert (await client.get("/api/tasks")).status == 401


async def test_the_session_of_a_browser_is_none_for_a_token(stage: Stage, forge: Forge) -> None:
    await stage.signed_in()
    session = await Session.get(kind=Session.WEB)
    client = await stage.client(forge.with_claims(sid=session.id))
    assert (await client.get("/api/tasks")).status == 401


async def test_a_token_for_another_service_of_the_same_database_is_refused(
    stage: Stage, forge: Forge
) -> None:
    base = forge.claims["iss"]
    for claims in ({"iss": base + "0"}, {"aud": base}, {"aud": base + "0/api"}):
        client = await stage.client(forge.with_claims(**claims))
        assert (await client.get("/api/tasks")).status == 401


async def test_two_authorization_headers_are_refused(stage: Stage, forge: Forge) -> None:
    client = await stage.client()
    sent = [("Authorization", f"Bearer {forge.token}"), ("Authorization", "Bearer x")]
    assert (await client.get("/api/tasks", headers=sent)).status == 401


async def test_a_header_wins_over_a_cookie_even_if_it_is_not_valid(
    stage: Stage, forge: Forge
) -> None:
    browser = await stage.signed_in()
    refused = await browser.get("/api/tasks", headers={"Authorization": "Bearer a.b.c"})
    assert refused.status == 401
    user = await stage.user()
    token = (await stage.tokens(user)).access_token
    headers = {"Authorization": f"Bearer {token}"}
    assert (await browser.get("/api/settings")).status == 200
    assert (await browser.get("/api/settings", headers=headers)).status == 403


async def test_what_was_remembered_of_a_token_is_read_anew_after_seconds(
    stage: Stage, forge: Forge
) -> None:
    client = await stage.client(forge.token)
    assert (await client.get("/api/tasks")).status == 200
    # As another process does it, of which this one hears nothing.
    await Session.all().update(revoked_at=stage.clock.now())
    stage.clock.advance(REMEMBERED_S)
    assert (await client.get("/api/tasks")).status == 401

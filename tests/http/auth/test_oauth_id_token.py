"""What a provider says of somebody: lies are not believed, and its faults are not ours."""

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from joserfc.jwk import ECKey, OKPKey, RSAKey

from limner.http.auth.oauth_id_token import half_hash
from limner.storage.sql.accounts import User
from tests.fakes import sign_ins
from tests.fakes.front import Stage, problem
from tests.fakes.issuer import CLIENT_ID, Issuer, encoded, key_pair
from tests.fakes.sign_ins import assert_nobody, browser, changed

issuer, stage = sign_ins.issuer, sign_ins.oauth_stage


def without_signature(token: str) -> str:
    head = encoded(b'{"alg":"none"}')
    return f"{head}.{token.split('.')[1]}."


def with_other_body(token: str) -> str:
    head, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    claims["sub"] = "somebody else"
    return f"{head}.{encoded(json.dumps(claims).encode())}.{signature}"


# What an issuer, or who stands between, may say of somebody in an ID token: none of it signs in.
LIES: list[tuple[str, dict[str, Any]]] = [
    ("wrong iss", {"claims": {"iss": "https://evil.example"}}),
    ("no iss", {"claims": {"iss": None}}),
    ("wrong aud", {"claims": {"aud": "somebody-else"}}),
    ("no aud", {"claims": {"aud": None}}),
    ("many aud without azp", {"claims": {"aud": [CLIENT_ID, "somebody-else"]}}),
    ("azp of another", {"claims": {"azp": "somebody-else"}}),
    ("wrong nonce", {"claims": {"nonce": "n" * 43}}),
    ("no nonce", {"claims": {"nonce": None}}),
    ("expired", {"claims": {"exp": 1_700_000_000}}),
    ("no exp", {"claims": {"exp": None}}),
    ("exp as a text", {"claims": {"exp": "9999999999"}}),
    ("issued long ago", {"claims": {"iat": 1_700_000_000}}),
    ("issued in the future", {"claims": {"iat": 4_000_000_000}}),
    ("no iat", {"claims": {"iat": None}}),
    ("no sub", {"claims": {"sub": None}}),
    ("empty sub", {"claims": {"sub": ""}}),
    ("sub as a number", {"claims": {"sub": 7}}),
    ("endless sub", {"claims": {"sub": "s" * 256}}),
    ("wrong at_hash", {"claims": {"at_hash": "x" * 22}}),
    ("at_hash as a number", {"claims": {"at_hash": 1}}),
    ("alg none", {"forge": without_signature}),
    ("changed body", {"forge": with_other_body}),
    ("no JWT", {"forge": lambda _: "three.odd.parts"}),
    ("four parts", {"forge": lambda token: token + ".x"}),
    ("endless", {"forge": lambda token: "a" * 200_000}),
    ("kid of no key", {"header": {"kid": "another"}}),
    ("kid as a number", {"header": {"kid": 5}}),
    ("an access token's type", {"header": {"typ": "at+jwt"}}),
    (
        "key in the token",
        {"header": {"kid": None, "jwk": {"kty": "oct", "k": "AAAA"}}, "shown": []},
    ),
    ("unknown crit", {"header": {"crit": ["exp"], "exp": 1}}),
    ("signed by another key", {"shown": [dict(key_pair().as_dict(private=False))]}),
]


async def test_an_id_token_that_is_not_for_this_sign_in_signs_nobody_in(
    stage: Stage, issuer: Issuer, subtests: pytest.Subtests
) -> None:
    lies = [*LIES, ("iss as a list", {"claims": {"iss": [issuer.url]}})]
    for name, lie in lies:
        with subtests.test(name), changed(stage, issuer, lie):
            one = await browser(stage, issuer)
            answer = await one.sign_in()
            assert (answer.status, (await problem(answer))["code"]) == (403, "oauth_refused")
            await assert_nobody(stage, one)
    assert (await (await browser(stage, issuer)).sign_in()).status == 303


async def test_a_token_signed_with_the_public_key_as_a_password_is_refused(
    stage: Stage, issuer: Issuer
) -> None:
    """RS256 taken for HS256 (RFC 8725 section 2.1)."""
    key = RSAKey.generate_key(2048, {"kid": "first"})
    issuer.shown = [dict(key.as_dict(private=False))]

    def forge(token: str) -> str:
        head = encoded(b'{"alg": "HS256", "kid": "first"}')
        message = f"{head}.{token.split('.')[1]}"
        code = hmac.digest(key.as_pem(private=False), message.encode(), "sha256")
        return f"{message}.{encoded(code)}"

    issuer.forge = forge
    one = await browser(stage, issuer)
    answer = await one.sign_in()
    assert (await problem(answer))["code"] == "oauth_refused"
    await assert_nobody(stage, one)


# The provider's own faults: never ours, never a 500, and each with a mend.
FAULTS: list[tuple[str, dict[str, Any], int, str]] = [
    ("token endpoint down", {"statuses": {"/token": 503}}, 503, "provider_away"),
    ("token endpoint busy", {"statuses": {"/token": 429}}, 503, "provider_away"),
    ("keys down", {"statuses": {"/jwks": 500}}, 503, "provider_away"),
    ("keys missing", {"statuses": {"/jwks": 404}}, 502, "provider_failed"),
    ("keys no list", {"raw": {"/jwks": b'{"keys": 1}'}}, 502, "provider_failed"),
    ("keys no JSON", {"raw": {"/jwks": b"<html>"}}, 502, "provider_failed"),
    ("keys no object", {"raw": {"/jwks": b"[]"}}, 502, "provider_failed"),
    ("keys too large", {"raw": {"/jwks": b" " * 1_100_000}}, 502, "provider_failed"),
    ("no tokens", {"raw": {"/token": b"{}"}}, 502, "provider_failed"),
    ("no ID token", {"info": {"id_token": None}}, 502, "provider_failed"),
    ("no bearer", {"info": {"token_type": "mac"}}, 502, "provider_failed"),
    ("wrong secret", {"client_secret": "another"}, 502, "provider_failed"),
    ("odd refusal", {"token_error": "x\x1b[31m" * 99}, 502, "provider_failed"),
    (
        "odd auth",
        {"metadata": {"token_endpoint_auth_methods_supported": ["private_key_jwt"]}},
        502,
        "provider_failed",
    ),
]


async def test_a_provider_that_is_out_of_order_is_no_fault_of_ours(
    stage: Stage, issuer: Issuer, subtests: pytest.Subtests
) -> None:
    for name, fault, status, code in FAULTS:
        with subtests.test(name), changed(stage, issuer, fault):
            one = await browser(stage, issuer)
            answer = await one.sign_in()
            told = await problem(answer)
            assert (answer.status, told["code"]) == (status, code)
            assert "Example" in told["detail"]
            assert "another way" in told["detail"]
            assert told["detail"].isprintable()
            assert ("Retry-After" in answer.headers) == (status == 503)
            await assert_nobody(stage, one)
    assert (await (await browser(stage, issuer)).sign_in()).status == 303


@pytest.mark.parametrize(
    ("key", "alg"),
    [
        (RSAKey.generate_key(2048, {"kid": "1"}), "RS256"),
        (RSAKey.generate_key(2048, {"kid": "1"}), "PS256"),
        (ECKey.generate_key("P-256", {"kid": "1"}), "ES256"),
        (OKPKey.generate_key("Ed25519", {"kid": "1"}), "EdDSA"),
        (OKPKey.generate_key("Ed25519", {"kid": "1"}), "Ed25519"),
    ],
    ids=["RS256", "PS256", "ES256", "EdDSA", "Ed25519"],
)
async def test_signatures_of_the_usual_kinds_are_believed(
    stage: Stage, issuer: Issuer, key: Any, alg: str
) -> None:
    issuer.key, issuer.header = key, {"alg": alg}
    assert (await (await browser(stage, issuer)).sign_in()).status == 303


def test_the_hash_of_the_access_token_is_that_of_the_specification() -> None:
    """OpenID Connect Core 1.0, appendix A.6; Ed25519 hashes with SHA-512."""
    token = "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y"
    assert half_hash("RS256", token) == b"77QmUPtjPfzWtF2AnpK9RQ"
    whole = hashlib.sha512(token.encode()).digest()
    assert half_hash("EdDSA", token).decode() == encoded(whole[:32])


async def test_keys_that_were_changed_are_found_but_not_looked_for_all_the_time(
    stage: Stage, issuer: Issuer
) -> None:
    one = await browser(stage, issuer)
    assert (await one.sign_in()).status == 303
    issuer.key = key_pair("second")
    assert (await one.sign_in()).status == 403
    assert (issuer.asked["/jwks"], issuer.asked["/.well-known/openid-configuration"]) == (1, 1)
    stage.clock.advance(30)
    assert (await one.sign_in()).status == 303
    assert issuer.asked["/jwks"] == 2


async def test_a_key_without_an_id_does_if_it_is_the_only_one(stage: Stage, issuer: Issuer) -> None:
    issuer.header = {"kid": None}
    assert (await (await browser(stage, issuer)).sign_in()).status == 303
    stage.clock.advance(3600)
    issuer.shown = [dict(key.as_dict(private=False)) for key in (issuer.key, key_pair("second"))]
    assert (await (await browser(stage, issuer)).sign_in()).status == 403


async def test_an_address_that_is_only_in_the_user_info_counts(
    stage: Stage, issuer: Issuer
) -> None:
    issuer.claims = {"email": None, "email_verified": None, "name": None}
    assert (await (await browser(stage, issuer)).sign_in()).status == 303
    assert (await User.get(email="anna@example.com")).name == "Anna Example"


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ({"raw": {"/userinfo": b'{"sub": "other", "email": "x@x.test"}'}}, 403, "oauth_refused"),
        ({"statuses": {"/userinfo": 401}}, 502, "provider_failed"),
        ({"statuses": {"/userinfo": 500}}, 503, "provider_away"),
    ],
)
async def test_user_info_of_somebody_else_is_not_believed(
    stage: Stage, issuer: Issuer, fault: dict[str, Any], status: int, code: str
) -> None:
    issuer.claims = {"email": None}
    for name, value in fault.items():
        setattr(issuer, name, value)
    one = await browser(stage, issuer)
    answer = await one.sign_in()
    assert (answer.status, (await problem(answer))["code"]) == (status, code)
    await assert_nobody(stage, one)


async def test_an_address_of_one_place_is_not_verified_by_another(
    stage: Stage, issuer: Issuer
) -> None:
    """The token says verified, the user info names the address: the two do not add up."""
    issuer.claims = {"email": None, "email_verified": True}
    issuer.raw = {"/userinfo": b'{"sub": "anna-at-the-issuer", "email": "boss@example.com"}'}
    one = await browser(stage, issuer)
    answer = await one.sign_in()
    assert (await problem(answer))["code"] == "oauth_unverified"
    await assert_nobody(stage, one)

"""What a provider says of itself: its issuer, addresses that may be called, keys that are keys."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

from limner.core.clock import HeldClock
from limner.core.errors import Refused
from limner.core.settings import OAuthSettings
from limner.http.auth.oauth_calls import trusted_url
from limner.http.auth.oauth_discovery import discovery_of, fitting, read_keys
from limner.storage.sql.identities import Authorization
from tests.fakes import sign_ins
from tests.fakes.front import Stage, problem, staged
from tests.fakes.issuer import CLIENT_ID, Issuer
from tests.fakes.sign_ins import browser

issuer = sign_ins.issuer


@pytest.fixture
async def stage(
    migrated_file: Path, tmp_path: Path, clock: HeldClock, issuer: Issuer
) -> AsyncIterator[Stage]:
    given = OAuthSettings(oidc_issuer=issuer.url, oidc_client_id=CLIENT_ID, oidc_name="Example")
    async with staged(migrated_file, tmp_path, clock, oauth=given) as opened:
        yield opened


DOCUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"metadata": {"issuer": "https://evil.example"}}, "another issuer"),
    ({"metadata": {"issuer": None}}, "another issuer"),
    ({"metadata": {"authorization_endpoint": None}}, "authorization_endpoint is missing"),
    ({"metadata": {"token_endpoint": "http://evil.example/token"}}, "token_endpoint"),
    ({"metadata": {"jwks_uri": "http://10.0.0.1/jwks"}}, "jwks_uri"),
    ({"metadata": {"userinfo_endpoint": "file:///etc/passwd"}}, "userinfo_endpoint"),
    ({"metadata": {"token_endpoint": "http://u:p@127.0.0.1/token"}}, "token_endpoint"),
    ({"metadata": {"authorization_endpoint": "javascript:alert(1)"}}, "authorization_endpoint"),
    ({"metadata": {"token_endpoint": 5}}, "token_endpoint is missing"),
    ({"statuses": {"/.well-known/openid-configuration": 404}}, "is the issuer right"),
    ({"raw": {"/.well-known/openid-configuration": b"[1]"}}, "without a JSON object"),
]


async def test_a_document_that_cannot_be_trusted_is_not_used(
    stage: Stage, issuer: Issuer, subtests: pytest.Subtests
) -> None:
    client = await stage.client()
    for fault, said in DOCUMENTS:
        with subtests.test(said, fault=fault):
            issuer.metadata, issuer.statuses, issuer.raw = {}, {}, {}
            for name, value in fault.items():
                setattr(issuer, name, value)
            answer = await client.get("/auth/oidc/login", allow_redirects=False)
            told = await problem(answer)
            assert (answer.status, told["code"]) == (502, "provider_failed")
            assert said in told["detail"]
            assert await Authorization.all().count() == 0


async def test_an_issuer_without_encryption_is_refused(
    migrated_file: Path, tmp_path: Path, clock: HeldClock
) -> None:
    given = OAuthSettings(oidc_issuer="http://sso.example", oidc_client_id=CLIENT_ID)
    async with staged(migrated_file, tmp_path, clock, oauth=given) as stage:
        client = await stage.client()
        answer = await client.get("/auth/oidc/login", allow_redirects=False)
        assert (answer.status, (await problem(answer))["code"]) == (502, "provider_failed")


async def test_a_document_is_read_once_an_hour_and_after_a_failure_at_once(
    stage: Stage, issuer: Issuer
) -> None:
    path = "/.well-known/openid-configuration"
    client = await stage.client()
    issuer.statuses = {path: 503}
    assert (await client.get("/auth/oidc/login", allow_redirects=False)).status == 503
    issuer.statuses = {}
    for _ in range(3):
        assert (await client.get("/auth/oidc/login", allow_redirects=False)).status == 302
    assert issuer.asked[path] == 2
    stage.clock.advance(3601)
    assert (await client.get("/auth/oidc/login", allow_redirects=False)).status == 302
    assert issuer.asked[path] == 3


async def test_an_address_with_parameters_keeps_them(stage: Stage, issuer: Issuer) -> None:
    issuer.metadata = {"authorization_endpoint": issuer.url + "/authorize?tenant=a%26b"}
    location = await (await browser(stage, issuer)).begin()
    assert location.startswith(issuer.url + "/authorize?tenant=a%26b&response_type=code&")


async def test_a_provider_that_tells_no_issuer_in_its_answers_need_not(
    stage: Stage, issuer: Issuer
) -> None:
    issuer.metadata = {
        "authorization_response_iss_parameter_supported": None,
        "userinfo_endpoint": None,
    }
    issuer.methods = ["none"]
    issuer.answer = {"iss": None}
    assert (await (await browser(stage, issuer)).sign_in()).status == 303


@pytest.mark.parametrize(
    ("url", "issuer_url"),
    [
        ("https://sso.example/x", "https://sso.example"),
        ("https://keys.example/x", "http://localhost:8080"),
        ("http://localhost:1/x", "http://127.0.0.1:8080"),
        ("http://[::1]:1/x", "http://localhost:8080"),
        ("http://127.0.0.9/x", None),
    ],
)
def test_addresses_that_may_be_called(url: str, issuer_url: str | None) -> None:
    assert str(trusted_url(url, issuer=issuer_url)) == url


@pytest.mark.parametrize(
    ("url", "issuer_url"),
    [
        ("http://sso.example/x", "https://sso.example"),
        ("http://127.0.0.1/x", "https://sso.example"),
        ("http://10.0.0.1/x", "http://localhost:8080"),
        ("http://localhost.evil.example/x", "http://localhost:8080"),
        ("http://169.254.169.254/x", None),
        ("//sso.example", None),
        ("", None),
    ],
)
def test_addresses_that_may_not(url: str, issuer_url: str | None) -> None:
    with pytest.raises(Refused):
        trusted_url(url, issuer=issuer_url)


def public(key: Any, **more: Any) -> dict[str, Any]:
    return {**key.as_dict(private=False), **more}


async def test_only_public_keys_of_good_length_are_kept(stage: Stage, issuer: Issuer) -> None:
    good = ECKey.generate_key("P-256")
    issuer.shown = [
        {"kty": "oct", "k": "AAAA"},
        dict(OctKey.generate_key(256).as_dict(private=True)),
        dict(ECKey.generate_key("P-256").as_dict(private=True)),
        {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
        {"kty": "RSA"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "EC", "crv": "P-999", "x": "AA", "y": "AA"},
        {"kty": "ML-DSA", "pub": "AA"},
        {},
        "no key",  # type: ignore[list-item] # on purpose
        public(good, kid="good"),
    ]
    kept = await read_keys(stage.front, "Example", issuer.url + "/jwks")
    assert [key.get("kid") for key in kept] == ["good"]


def test_a_key_fits_by_its_kind_its_use_and_its_curve() -> None:
    rsa, p256 = RSAKey.generate_key(2048), ECKey.generate_key("P-256")
    ed25519 = OKPKey.generate_key("Ed25519")
    keys: dict[str, Key] = {
        "rsa": RSAKey.import_key(public(rsa, kid="rsa")),
        "rs": RSAKey.import_key(public(rsa, kid="rs", alg="RS256")),
        "enc": RSAKey.import_key(public(rsa, kid="enc", use="enc")),
        "ec": ECKey.import_key(public(p256, kid="ec")),
        "p384": ECKey.import_key(public(ECKey.generate_key("P-384"), kid="p384")),
        "ed": OKPKey.import_key(public(ed25519, kid="ed")),
        "x": OKPKey.import_key(public(OKPKey.generate_key("X25519"), kid="x")),
    }
    expected = {
        "RS256": {"rsa", "rs"},
        "PS256": {"rsa"},
        "ES256": {"ec"},
        "EdDSA": {"ed"},
        "Ed25519": {"ed"},
    }
    for alg, names in expected.items():
        found = {name for name in keys if fitting(keys.values(), alg, name) is not None}
        assert found == names, alg
        assert (fitting(keys.values(), alg, None) is None) == (len(names) > 1)


async def test_each_client_has_its_own_memory(stage: Stage) -> None:
    assert discovery_of(stage.front) is discovery_of(stage.front)

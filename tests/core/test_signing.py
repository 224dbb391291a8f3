"""Signed links and tokens: what opens, and everything that must not."""

import base64
import string
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import MultiDict

from limner.core.errors import Forbidden, Invalid, Unauthenticated
from limner.core.objects import GET_MAX_S, PUT_MAX_S
from limner.core.signing import TOKEN_MAX_CHARACTERS, Signer, derive_key

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SOON = NOW + timedelta(seconds=60)
OLD, NEW = b"an old secret, 32 bytes long ....", b"a new secret, 32 bytes long ....."
SIGNER = Signer([NEW])
ALPHABET = string.ascii_letters + string.digits + "-_"
PUT: dict[str, Any] = {"content_type": "image/png", "size_bytes": 5}

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def link(signer: Signer = SIGNER, method: Any = "GET", **rest: Any) -> tuple[str, dict[str, str]]:
    url = signer.sign_url("http://x.test/", method, "a/b.png", **{"expires_at": SOON, **rest})
    parts = urlsplit(url)
    assert (parts.scheme, parts.netloc) == ("http", "x.test")
    assert parts.path.startswith("/o/")
    return parts.path.removeprefix("/o/"), dict(parse_qsl(parts.query, strict_parsing=True))


def refused(
    query: Any,
    method: str = "GET",
    key: str = "a/b.png",
    content_type: str | None = None,
    content_length: int | None = None,
    now: datetime = NOW,
) -> str:
    with pytest.raises(Forbidden) as caught:
        SIGNER.verify_request(method, key, query, content_type, content_length, now)
    return caught.value.code


def test_a_link_says_what_it_allows() -> None:
    key, query = link(content_type="text/csv", filename="a&b=ü;\n.csv", inline=False)
    grant = SIGNER.verify_request("GET", key, query, None, None, NOW)
    assert (grant.method, grant.key, grant.expires_at) == ("GET", "a/b.png", SOON)
    assert (grant.content_type, grant.filename) == ("text/csv", "a&b=ü;\n.csv")
    assert (grant.inline, grant.size_bytes) == (False, None)


def test_a_link_for_writing_says_what_it_takes() -> None:
    key, query = link(method="PUT", **PUT)
    grant = SIGNER.verify_request("PUT", key, query, "image/png", 5, NOW)
    assert (grant.method, grant.content_type, grant.size_bytes) == ("PUT", "image/png", 5)
    assert grant.inline


def test_a_query_may_come_in_any_order() -> None:
    key, query = link(filename="a")
    SIGNER.verify_request("GET", key, dict(reversed(query.items())), None, None, NOW)


def test_a_link_for_reading_also_answers_head() -> None:
    key, query = link()
    assert SIGNER.verify_request("HEAD", key, query, None, None, NOW).method == "GET"


@pytest.mark.parametrize(
    "change",
    [
        {"method": "PUT"},
        {"expires": "1900000000"},
        {"content_type": "text/html"},
        {"filename": "b"},
        {"inline": "1"},
        {"size": "5"},
        {"key_id": "AAAAAAAA"},
        {"signature": ""},
        {"signature": "A" * 43},
        {"signature": "ü"},
        {"signature": "\ud800"},
        {"extra": "1"},
    ],
)
def test_a_changed_link_is_refused(change: dict[str, str]) -> None:
    _, query = link(content_type="text/csv", filename="a", inline=False)
    assert refused({**query, **change}) == "forbidden"


@pytest.mark.parametrize("name", ["method", "expires", "filename", "key_id", "signature"])
def test_a_link_without_one_of_its_parts_is_refused(name: str) -> None:
    _, query = link(filename="a")
    del query[name]
    refused(query)
    refused({})


def test_a_link_with_a_repeated_part_is_refused() -> None:
    _, query = link()
    refused(MultiDict([*query.items(), ("method", "GET")]))
    refused(MultiDict([*query.items(), ("signature", query["signature"])]))


def test_no_second_spelling_of_a_signature_is_accepted() -> None:
    _, query = link()
    signature = query["signature"]
    raw = base64.urlsafe_b64decode(signature + "=")
    for last in ALPHABET:
        other = signature[:-1] + last
        if other != signature:
            refused({**query, "signature": other})
    refused({**query, "signature": signature + "="})
    assert len(raw) == 32


def test_a_link_names_one_key_only() -> None:
    _, query = link()
    for key in ("a/b.pn", "a/b.png/", "a/b", "b", ""):
        refused(query, key=key)


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "get", ""])
def test_a_link_for_reading_allows_no_other_method(method: str) -> None:
    _, query = link()
    refused(query, method=method)


@pytest.mark.parametrize(
    ("method", "content_type", "content_length"),
    [
        ("GET", None, None),
        ("HEAD", "image/png", 5),
        ("PUT", "image/PNG", 5),
        ("PUT", None, 5),
        ("PUT", "image/png", 6),
        ("PUT", "image/png", 4),
        ("PUT", "image/png", None),
    ],
)
def test_a_link_for_writing_takes_nothing_else(
    method: str, content_type: str | None, content_length: int | None
) -> None:
    _, query = link(method="PUT", **PUT)
    refused(query, method, content_type=content_type, content_length=content_length)


def test_a_link_ends_at_its_second() -> None:
    key, query = link()
    SIGNER.verify_request("GET", key, query, None, None, SOON - timedelta(microseconds=1))
    assert refused(query, now=SOON) == "link_expired"


def test_a_link_lives_no_shorter_than_it_was_signed_for() -> None:
    end = NOW + timedelta(seconds=1.5)
    key, query = link(expires_at=end)
    SIGNER.verify_request("GET", key, query, None, None, end - timedelta(microseconds=1))


@pytest.mark.parametrize(("method", "longest_s"), [("GET", GET_MAX_S), ("PUT", PUT_MAX_S)])
def test_a_link_that_lives_too_long_is_refused_although_we_signed_it(
    method: str, longest_s: int
) -> None:
    rest = PUT if method == "PUT" else {}
    body: tuple[Any, Any] = ("image/png", 5) if method == "PUT" else (None, None)
    key, query = link(method=method, expires_at=NOW + timedelta(seconds=longest_s), **rest)
    SIGNER.verify_request(method, key, query, *body, NOW)
    _, query = link(method=method, expires_at=NOW + timedelta(seconds=longest_s + 2), **rest)
    refused(query, method, "a/b.png", *body)


def test_an_unsigned_and_an_expired_link_tell_nothing_to_who_did_not_sign() -> None:
    _, query = link()
    assert refused({**query, "signature": "A" * 43}, now=SOON) == "forbidden"


def test_different_links_have_different_ids() -> None:
    key, one = link()
    _, two = link(expires_at=SOON + timedelta(seconds=1))
    ids = {
        SIGNER.verify_request("GET", key, query, None, None, NOW).id for query in (one, two, one)
    }
    assert len(ids) == 2


def test_a_bad_key_is_not_signed() -> None:
    with pytest.raises(Invalid):
        SIGNER.sign_url("http://x.test", "GET", "../a", expires_at=SOON)


def test_links_and_tokens_outlive_a_rotation_but_not_the_old_secret() -> None:
    before, rotating, after = Signer([OLD]), Signer([NEW, OLD]), Signer([NEW])
    key, query = link(before)
    token = before.token("result", {"id": 1}, SOON)
    rotating.verify_request("GET", key, query, None, None, NOW)
    assert rotating.open("result", token, NOW) == {"id": 1}
    with pytest.raises(Forbidden):
        after.verify_request("GET", key, query, None, None, NOW)
    with pytest.raises(Unauthenticated):
        after.open("result", token, NOW)
    assert after.open("result", rotating.token("result", {}), NOW) == {}


@pytest.mark.parametrize("secrets", [[], [b"short"], [NEW, b"short"], [NEW, NEW]])
def test_secrets_that_cannot_be_trusted_are_refused(secrets: list[bytes]) -> None:
    with pytest.raises(Invalid):
        Signer(secrets)


def test_each_purpose_has_a_key_of_its_own_and_it_never_changes() -> None:
    assert derive_key(NEW, "one") != derive_key(NEW, "two")
    assert derive_key(NEW, "one") != derive_key(OLD, "one")
    assert derive_key(NEW, "one", 16) == derive_key(NEW, "one")[:16]
    # HKDF-SHA256 worked out by hand from RFC 5869, so that no release changes all links silently.
    assert derive_key(bytes(32), "url").hex() == _hkdf_by_hand(bytes(32), b"limner/1/url").hex()


def _hkdf_by_hand(secret: bytes, info: bytes) -> bytes:
    import hmac

    extracted = hmac.digest(bytes(32), secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=10), json_values, max_size=4))
def test_a_token_gives_its_payload_back(payload: dict[str, Any]) -> None:
    token = SIGNER.token("result", payload, SOON)
    assert set(token) <= set(ALPHABET)
    assert SIGNER.open("result", token, NOW) == payload
    assert (
        SIGNER.open("result", SIGNER.token("result", payload), NOW + timedelta(days=9999))
        == payload
    )


def bad_token(token: str, purpose: str = "result", now: datetime = NOW) -> str:
    with pytest.raises(Unauthenticated) as caught:
        SIGNER.open(purpose, token, now)
    return caught.value.code


def test_a_token_ends_at_its_second() -> None:
    token = SIGNER.token("result", {}, SOON)
    assert SIGNER.open("result", token, SOON - timedelta(microseconds=1)) == {}
    assert bad_token(token, now=SOON) == "token_expired"


def test_a_token_of_another_purpose_is_not_valid() -> None:
    token = SIGNER.token("unsubscribe", {"id": 1})
    assert bad_token(token) == "token_invalid"
    assert SIGNER.open("unsubscribe", token, NOW) == {"id": 1}


def test_no_character_of_a_token_can_be_changed() -> None:
    token = SIGNER.token("result", {"id": "task_1"}, SOON)
    for at, character in enumerate(token):
        for other in "A_z9":
            if other != character:
                assert bad_token(token[:at] + other + token[at + 1 :]) == "token_invalid"


@pytest.mark.parametrize("length", range(6))
def test_no_second_spelling_of_a_token_is_accepted(length: int) -> None:
    token = SIGNER.token("result", {"id": "x" * length})
    for last in ALPHABET:
        other = token[:-1] + last
        if other != token:
            bad_token(other)
    for other in (token + "=", token + "==", token + "A", token[:-1], token + "\n", " " + token):
        assert bad_token(other) == "token_invalid"


@settings(deadline=None)
@given(st.text(max_size=200) | st.text(ALPHABET, max_size=200))
def test_what_is_no_token_is_not_valid(text: str) -> None:
    assert bad_token(text) == "token_invalid"


def test_a_token_of_endless_length_is_not_even_read() -> None:
    assert bad_token("A" * (TOKEN_MAX_CHARACTERS + 1)) == "token_invalid"


def test_a_token_of_another_version_is_not_valid() -> None:
    token = SIGNER.token("result", {})
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    other = base64.urlsafe_b64encode(b"\x02" + raw[1:]).rstrip(b"=").decode()
    assert bad_token(other) == "token_invalid"


@pytest.mark.parametrize(
    "payload", [{"a": float("nan")}, {"a": object()}, {"a": b"x"}, {"a": "x" * 4096}]
)
def test_a_payload_that_fits_no_token_is_refused(payload: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        SIGNER.token("result", payload)


@pytest.mark.parametrize("purpose", ["", "A", "a b", "a/b", "a" * 65])
def test_what_is_no_purpose_is_refused(purpose: str) -> None:
    with pytest.raises(Invalid):
        SIGNER.token(purpose, {})
    with pytest.raises(Invalid):
        SIGNER.open(purpose, SIGNER.token("result", {}), NOW)

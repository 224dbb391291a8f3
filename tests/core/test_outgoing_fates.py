"""Redirects, and what may be tried again when an answer is lost."""

import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from limner.core import failpoints
from limner.core.errors import (
    Ambiguous,
    FailpointReached,
    LimnerError,
    Permanent,
    Refused,
    TimedOut,
    TooLarge,
    Transient,
)
from limner.core.outgoing import Limits, Outgoing
from tests.fakes.names import Names, client, fate
from tests.fakes.raw_http import (
    Play,
    RawHttp,
    answer,
    cut,
    drip,
    endless,
    hang,
    ok,
    redirect,
)

SHORT_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n"
SECRETS = {"Authorization": "Bearer s", "Cookie": "sid=s", "X-Api-Key": "s"}


@pytest_asyncio.fixture
async def server() -> AsyncIterator[RawHttp]:
    async with RawHttp() as running:
        yield running


@pytest_asyncio.fixture
async def other() -> AsyncIterator[RawHttp]:
    async with RawHttp() as running:
        yield running


@pytest_asyncio.fixture
async def outgoing(server: RawHttp) -> AsyncIterator[Outgoing]:
    async with client(server, resolver=Names()) as running:
        yield running


# Redirects


async def test_a_redirect_is_an_answer_unless_asked_for(
    server: RawHttp, outgoing: Outgoing
) -> None:
    server.script(redirect("/next"))
    assert (await outgoing.request("GET", server.url)).status == 302
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("method", "status", "then", "body"),
    [
        ("GET", 301, "GET", b""),
        ("POST", 301, "GET", b""),
        ("POST", 302, "GET", b""),
        ("PUT", 302, "PUT", b"{}"),
        ("PUT", 303, "GET", b""),
        ("HEAD", 303, "HEAD", b""),
        ("POST", 307, "POST", b"{}"),
        ("POST", 308, "POST", b"{}"),
    ],
)
async def test_a_redirect_within_the_origin_is_followed_with_the_right_method(
    server: RawHttp, outgoing: Outgoing, method: str, status: int, then: str, body: bytes
) -> None:
    server.script(redirect("/next?a=1", status), answer(200))
    json: object = {} if method in {"POST", "PUT"} else None
    got = await outgoing.request(
        method, server.url, json=json, headers={"Authorization": "t"}, redirects=1
    )
    assert (got.status, got.url) == (200, server.url + "next?a=1")
    assert (server.requests[1].method, server.requests[1].body) == (then, body)
    assert ("content-type" in server.requests[1].headers) is (body != b"")
    assert server.requests[1].headers["authorization"] == "t"


async def test_credentials_do_not_follow_to_another_origin(server: RawHttp, other: RawHttp) -> None:
    server.script(redirect(other.url))
    async with client(server, other) as outgoing:
        await outgoing.request(
            "GET",
            server.url,
            headers=SECRETS | {"Accept": "image/png"},
            idempotency_key="k",
            redirects=5,
        )
    assert set(other.requests[0].headers) == {
        "host",
        "user-agent",
        "accept",
        "accept-encoding",
        "connection",
    }
    assert other.requests[0].headers["accept"] == "image/png"
    assert "x-api-key" in server.requests[0].headers


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("http://127.0.0.1:{port}/", "address_refused"),
        ("//127.0.0.1:{port}/", "address_refused"),
        ("http://[::1]:{port}/", "address_refused"),
        ("http://evil.test:{port}/", "address_refused"),
        ("http://u:p@example.com/", "address_refused"),
        ("file:///etc/passwd", "address_refused"),
        ("gopher://example.com/", "address_refused"),
        ("http://[::1", "address_refused"),
        ("http://example.com:6379/", "address_refused"),
        ("/again", "redirect_refused"),
    ],
)
async def test_every_hop_is_guarded(
    server: RawHttp, other: RawHttp, target: str, code: str
) -> None:
    server.script(redirect(target.format(port=other.port)))
    async with client(server, resolver=Names(evil_test=[["127.0.0.1"]])) as outgoing:
        with pytest.raises(Refused) as caught:
            await outgoing.request("GET", server.url, redirects=5)
        assert caught.value.code == code
        with pytest.raises(Ambiguous) as unsure:  # The first hop has been done.
            await outgoing.request("POST", server.url, redirects=5)
        assert isinstance(unsure.value.__cause__, Refused)
    assert other.connections == 0
    assert len(server.requests) == (12 if target == "/again" else 2)


async def test_a_body_is_not_handed_to_another_origin(server: RawHttp, other: RawHttp) -> None:
    server.script(redirect(other.url, 307))
    async with client(server, other) as outgoing:
        with pytest.raises(Refused) as caught:
            await outgoing.request("PUT", server.url, body=b"secret", redirects=1)
    assert caught.value.code == "redirect_refused"
    assert other.connections == 0


async def test_a_redirect_without_a_target_is_an_answer(
    server: RawHttp, outgoing: Outgoing
) -> None:
    server.script(answer(302, b"x"))
    assert (await outgoing.request("GET", server.url, redirects=3)).body == b"x"


async def test_more_redirects_than_five_cannot_be_asked_for(
    server: RawHttp, outgoing: Outgoing
) -> None:
    with pytest.raises(ValueError, match="0 to 5"):
        await outgoing.request("GET", server.url, redirects=6)


# What may be tried again


async def test_what_never_left_may_be_tried_again(outgoing: Outgoing) -> None:
    async with RawHttp() as gone:
        url = gone.url
    async with client(gone, resolver=Names()) as reach:
        for method in ("GET", "POST"):
            refused = await fate(reach, method, url)
            unknown = await fate(reach, method, "http://nowhere.test/")
            late = await fate(reach, method, "http://never.test/", limits=Limits(connect_s=0.05))
            whole = await fate(reach, method, "http://never.test/", limits=Limits(total_s=0.05))
            assert [type(each) for each in (refused, unknown)] == [Transient, Transient]
            assert [type(each) for each in (late, whole)] == [TimedOut, TimedOut]
            assert (refused.code, unknown.code) == ("unreachable", "unreachable")


LOST: dict[str, Callable[[], Play]] = {
    "cut": cut,
    "hang": hang,
    "garbage": lambda: drip(b"SSH-2.0-OpenSSH\r\n\r\n", every_s=0.01),
    "slow head": lambda: drip(b"HTTP/1.1 200 OK\r\nX-A: ", every_s=0.01),
    "short body": lambda: answer(200, b"half", length=1_000),
    "slow body": lambda: drip(SHORT_HEAD, every_s=0.01),
    "long body": lambda: answer(200, b"x" * 2_000),
    "endless body": endless,
    "bad gzip": lambda: answer(200, b"no gzip at all", {"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize(
    ("lost", "kind"),
    [
        ("cut", Transient),
        ("hang", TimedOut),
        ("garbage", Transient),
        ("slow head", TimedOut),
        ("short body", Transient),
        ("slow body", TimedOut),
        ("long body", TooLarge),
        ("endless body", TooLarge),
        ("bad gzip", Permanent),
    ],
)
async def test_an_answer_that_is_lost_makes_a_post_ambiguous_and_a_get_not(
    server: RawHttp, outgoing: Outgoing, lost: str, kind: type[LimnerError]
) -> None:
    server.script(LOST[lost]())
    limits = Limits(max_bytes=1_000, total_s=0.2 if kind is TimedOut else 20.0)
    for method in ("GET", "PUT"):
        assert type(await fate(outgoing, method, server.url, limits=limits)) is kind
    assert type(await fate(outgoing, "POST", server.url, limits=limits, repeatable=True)) is kind
    unsure = await fate(outgoing, "POST", server.url, limits=limits, json={})
    assert type(unsure) is Ambiguous
    assert type(unsure.__cause__) is kind
    never = await fate(outgoing, "PUT", server.url, limits=limits, repeatable=False)
    assert type(never) is Ambiguous
    assert len(server.requests) == 5  # Nothing was silently sent twice.


async def test_after_a_post_a_hop_that_fails_is_ambiguous(server: RawHttp) -> None:
    async with RawHttp() as gone:
        target = gone.url
    server.script(redirect(target, 303))
    async with client(server, gone) as outgoing:
        assert type(await fate(outgoing, "GET", server.url, redirects=1)) is Transient
        assert type(await fate(outgoing, "POST", server.url, redirects=1)) is Ambiguous


async def test_a_failpoint_before_sends_nothing_and_one_after_has_sent(
    server: RawHttp, outgoing: Outgoing, armed: Callable[[str], None]
) -> None:
    armed("outgoing.request")
    with pytest.raises(FailpointReached):
        await outgoing.request("POST", server.url)
    assert server.requests == []
    armed("outgoing.request:execute-then-raise")
    with pytest.raises(FailpointReached):
        await outgoing.request("POST", server.url)
    assert len(server.requests) == 1


@pytest.fixture
def armed() -> Iterator[Callable[[str], None]]:
    yield failpoints.arm
    failpoints.arm(None)


# TLS


def certificate(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Give a server's context for 127.0.0.1 and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cafile=str(file))


async def test_a_certificate_that_cannot_be_verified_stops_before_anything_is_sent(
    tmp_path: Path,
) -> None:
    theirs, _ = certificate(tmp_path)
    async with RawHttp(tls=theirs) as secure, client(secure) as outgoing:
        error = await fate(outgoing, "POST", secure.url, json={})
        assert type(error) is Transient
        assert "TLS" in error.detail
        assert secure.requests == []


async def test_a_redirect_never_leads_from_https_to_http(tmp_path: Path, other: RawHttp) -> None:
    theirs, ours = certificate(tmp_path)
    async with RawHttp(tls=theirs) as secure, client(secure, other, tls=ours) as outgoing:
        secure.script(redirect(other.url))
        error = await fate(outgoing, "GET", secure.url, redirects=1)
        assert (type(error), error.code) == (Refused, "redirect_refused")
        other.script(redirect(secure.url))
        secure.script(ok())
        assert (await outgoing.request("GET", other.url, redirects=1)).status == 200
    assert other.connections == 1

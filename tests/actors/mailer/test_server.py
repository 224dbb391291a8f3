"""What a mail URL may say."""

import ssl
from pathlib import Path

import pytest

from limner.actors.mailer.server import Server
from limner.core.errors import Invalid, Transient
from tests.fakes.certificates import self_signed


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://mail.test", Server("mail.test", 587, "starttls")),
        ("smtp://mail.test/", Server("mail.test", 587, "starttls")),
        ("smtp://mail.test:2525", Server("mail.test", 2525, "starttls")),
        ("smtp://mail.test?tls=none", Server("mail.test", 25, "none")),
        ("smtp://mail.test?tls=implicit", Server("mail.test", 465, "implicit")),
        ("smtps://mail.test", Server("mail.test", 465, "implicit")),
        ("smtps://mail.test:4650?tls=implicit", Server("mail.test", 4650, "implicit")),
        ("smtp://[::1]:25?tls=none", Server("::1", 25, "none")),
        ("smtp://u@mail.test", Server("mail.test", 587, "starttls", "u", "")),
        (
            "smtp://a%40x.test:p%2F%3F%23%40%3Aw@mail.test:587?tls=starttls",
            Server("mail.test", 587, "starttls", "a@x.test", "p/?#@:w"),
        ),
        ("smtp://mail.test?verify=false", Server("mail.test", 587, "starttls", verify=False)),
        ("smtp://mail.test?ca=%2Fetc%2Fca.pem", Server("mail.test", 587, ca="/etc/ca.pem")),
    ],
)
def test_a_mail_url_names_a_server(url: str, server: Server) -> None:
    assert Server.parse(url) == server


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mail.test",
        "http://s3cret@mail.test",
        "smtp://",
        "smtp://u:s3cret@",
        "smtp://u:s3cret@mail.test:port",
        "smtp://u:s3cret@mail.test:99999",
        "smtp://[u:s3cret",
        "smtp://u:s3cret@mail..test",
        "smtp://u:s3cret@" + "m" * 64 + ".test",
        "smtp://u:s3cret/with-a-slash@mail.test",
        "smtp://u:s3cret@mail.test/inbox",
        "smtp://u:s3cret@mail.test#x",
        "smtp://:s3cret@mail.test",
        "smtp://u:s3cret@mail.test?tls=maybe",
        "smtp://u:s3cret@mail.test?tls=",
        "smtp://u:s3cret@mail.test?tls",
        "smtp://u:s3cret@mail.test?tls=none&tls=starttls",
        "smtp://u:s3cret@mail.test?starttls=true",
        "smtp://u:s3cret@mail.test?verify=no",
        "smtps://u:s3cret@mail.test?tls=none",
        "smtps://u:s3cret@mail.test?tls=starttls",
    ],
)
def test_a_mail_url_that_means_nothing_is_refused_without_being_told(url: str) -> None:
    with pytest.raises(Invalid) as caught:
        Server.parse(url)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_production_verifies_certificates() -> None:
    assert Server.parse("smtp://mail.test?verify=true", production=True).verify
    with pytest.raises(Invalid, match="production"):
        Server.parse("smtp://mail.test?verify=false", production=True)


def test_the_login_is_not_in_the_repr() -> None:
    assert "s3cret" not in repr(Server.parse("smtp://u:s3cret@mail.test"))


def test_a_plain_line_has_no_context() -> None:
    assert Server("mail.test", 25, "none").context() is None


def test_a_context_verifies_name_and_issuer_unless_that_is_waived(tmp_path: Path) -> None:
    certificate, _ = self_signed()
    (tmp_path / "ca.pem").write_bytes(certificate)
    strict = Server("mail.test", 587, ca=str(tmp_path / "ca.pem")).context()
    assert strict is not None
    assert (strict.check_hostname, strict.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert strict.minimum_version >= ssl.TLSVersion.TLSv1_2
    lax = Server("mail.test", 587, verify=False).context()
    assert lax is not None
    assert (lax.check_hostname, lax.verify_mode) == (False, ssl.CERT_NONE)


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"\xff\xfe"])
def test_a_file_of_roots_that_cannot_be_read_is_named(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Transient, match="ca cannot be read") as caught:
        Server("mail.test", 587, ca=str(path)).context()
    assert caught.value.code == "mail_tls"

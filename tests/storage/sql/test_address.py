"""The forms of a database's URL."""

import ssl
from pathlib import Path

import pytest

from limner.core.errors import NotConfigured
from limner.storage.sql.address import MysqlAddress, mysql_address, sqlite_path


def test_every_part_of_a_url_is_read() -> None:
    address = mysql_address("mysql://li%40mner:p%2Fw%3A@db.test:3307/pictures")
    assert address == MysqlAddress("db.test", 3307, "pictures", "li@mner", "p/w:")
    assert address.place == "db.test:3307"
    assert "p/w" not in repr(address)


def test_what_is_left_out_is_as_usual() -> None:
    assert mysql_address("mysql://[::1]/x") == MysqlAddress("::1", 3306, "x", "root", "")


@pytest.mark.parametrize(
    ("query", "tls"), [("", False), ("?ssl=false", False), ("?ssl=1", True), ("?ssl=True", True)]
)
def test_tls_is_asked_for_by_a_parameter(query: str, tls: bool) -> None:
    address = mysql_address(f"mysql://u:p@db/x{query}")
    context = address.tls_context()
    assert (context is not None) is tls
    if context is not None:
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname


def test_a_file_of_certificates_means_tls(tmp_path: Path) -> None:
    address = mysql_address(f"mysql://u:p@db/x?ssl_ca={tmp_path}/no.pem")
    assert address.tls
    with pytest.raises(NotConfigured, match=r"no\.pem"):
        address.tls_context()


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:secret@db",
        "mysql://u:secret@db/",
        "mysql://u:secret@db/a/b",
        "mysql:///x",
        "mysql://u:secret@db:port/x",
        "mysql://u:secret@[db/x",
        "mysql://u:secret@db/x?charset=latin1",
        "mysql://u:secret@db/x?ssl=perhaps",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_the_form_and_no_password(url: str) -> None:
    with pytest.raises(NotConfigured, match="LIMNER_DATABASE_URL") as caught:
        mysql_address(url)
    assert "mysql://USER:PASSWORD@HOST:3306/NAME" in caught.value.detail
    assert "secret" not in caught.value.detail
    assert caught.value.code == "settings"


def test_the_file_of_a_url_is_what_stands_before_the_question_mark() -> None:
    assert sqlite_path("sqlite:///var/x.db?mode=any") == Path("/var/x.db")

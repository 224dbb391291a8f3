"""Where a database is: the forms of ``LIMNER_DATABASE_URL``."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from limner.core.errors import NotConfigured

MYSQL_PORT = 3306
FORM = "mysql://USER:PASSWORD@HOST:3306/NAME"
YES = frozenset({"1", "true", "yes"})
NO = frozenset({"0", "false", "no", ""})


@dataclass(frozen=True)
class MysqlAddress:
    """A database on a MySQL or MariaDB server.

    ``tls`` asks for an encrypted connection and a certificate that fits the host's name;
    ``authorities`` is a file of certificates (PEM) to trust in place of the system's.
    """

    host: str
    port: int
    name: str
    user: str
    password: str = field(repr=False)
    tls: bool = False
    authorities: str = ""

    @property
    def place(self) -> str:
        """Host and port, as a person reads them."""
        return f"{self.host}:{self.port}"

    def tls_context(self) -> ssl.SSLContext | None:
        """Give what TLS needs, or None without TLS.

        Raises:
            NotConfigured: the file of certificates cannot be read.
        """
        if not self.tls:
            return None
        try:
            return ssl.create_default_context(cafile=self.authorities or None)
        except OSError as error:
            raise _wrong(f"ssl_ca={self.authorities}: {error}") from error


def mysql_address(url: str) -> MysqlAddress:
    """Read ``mysql://user:password@host:port/name``, with ``?ssl=true`` and ``&ssl_ca=FILE``.

    User, password and name are percent-decoded (RFC 3986 section 2.1).

    Raises:
        NotConfigured: a part is missing or unknown.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or MYSQL_PORT
    except ValueError as error:
        raise _wrong("host or port cannot be read") from error
    name = unquote(parts.path.removeprefix("/"))
    if not host or not name or "/" in name:
        raise _wrong("host or name of the database is missing")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    authorities = options.pop("ssl_ca", "")
    tls = options.pop("ssl", "true" if authorities else "false").lower()
    if options or tls not in YES | NO:
        raise _wrong("only ?ssl=true and ?ssl_ca=FILE may follow the name")
    user, password = unquote(parts.username or "root"), unquote(parts.password or "")
    return MysqlAddress(host, port, name, user, password, tls in YES, authorities)


def sqlite_path(url: str) -> Path:
    """Give the file of ``sqlite://PATH``; what follows a question mark is passed over."""
    return Path(url.removeprefix("sqlite://").partition("?")[0])


def secret_free(url: str) -> str:
    """Give the URL without its password."""
    parts = urlsplit(url)
    if not parts.password:
        return url
    host = parts.netloc.rpartition("@")[2]
    return url.replace(parts.netloc, f"{parts.username or ''}:***@{host}", 1)


def _wrong(why: str) -> NotConfigured:
    return NotConfigured(f"LIMNER_DATABASE_URL: {why}. Use {FORM}", code="settings")

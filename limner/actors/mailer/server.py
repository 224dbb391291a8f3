"""Which SMTP server, and how its line is secured: what ``LIMNER_MAIL_URL`` says.

``smtp://user:password@host:587?tls=starttls``, or ``smtps://host`` for TLS from the first byte.
"""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self, cast, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

from limner.core.errors import Invalid, Transient

Tls = Literal["none", "starttls", "implicit"]

DEFAULT_PORTS: dict[Tls, int] = {"none": 25, "starttls": 587, "implicit": 465}
_OPTIONS = frozenset({"tls", "verify", "ca"})


@dataclass(frozen=True, slots=True)
class Server:
    """One SMTP server. ``verify`` False accepts any certificate; ``ca`` is a file of further roots.

    TLS that is asked for is demanded: there is no way back to a plain line.
    """

    host: str
    port: int
    tls: Tls = "starttls"
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    verify: bool = True
    ca: str | None = None

    @classmethod
    def parse(cls, url: str, *, production: bool = False) -> Self:
        """Read ``smtp://`` or ``smtps://`` with the options ``tls``, ``verify`` and ``ca``.

        ``smtp`` means ``tls=starttls`` unless it says otherwise. User and password are
        percent-decoded. Ports default to 587 (starttls), 25 (none) and 465 (implicit).

        Raises:
            Invalid: another scheme, no host, a bad port, an unknown or contradicting option, or
                ``verify=false`` in production. The sentence never holds the URL, which may hold a
                password.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
            (parts.hostname or "").encode("idna")
        except ValueError:
            raise Invalid("the mail URL has a malformed host or port") from None
        if parts.scheme not in {"smtp", "smtps"} or not parts.hostname:
            raise Invalid("the mail URL must look like smtp://host:587?tls=starttls")
        if parts.path not in {"", "/"} or parts.fragment:
            raise Invalid("the mail URL has no path; in a password write %2F %3F %23 for / ? #")
        options = _options(parts.query)
        tls = _tls(parts.scheme, options.get("tls"))
        verify = _flag("verify", options.get("verify", "true"))
        if production and not verify:
            raise Invalid("the mail URL says verify=false, which production refuses")
        if parts.password is not None and not parts.username:
            raise Invalid("the mail URL has a password without a user")
        return cls(
            host=parts.hostname,
            port=port or DEFAULT_PORTS[tls],
            tls=tls,
            user=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password or "") if parts.username else None,
            verify=verify,
            ca=options.get("ca"),
        )

    def context(self) -> ssl.SSLContext | None:
        """Give the TLS context, or None for a plain line. Reads files: call it in a thread.

        Raises:
            Transient: the file of roots cannot be read (``mail_tls``): no mail's fault.
        """
        if self.tls == "none":
            return None
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
        if self.ca is not None:
            try:
                context.load_verify_locations(cadata=Path(self.ca).read_text(encoding="ascii"))
            except (OSError, ValueError):
                raise Transient(
                    "the mail URL's ca cannot be read as PEM certificates", code="mail_tls"
                ) from None
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _options(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise Invalid("the mail URL's options must look like ?tls=starttls") from None
    options = dict(pairs)
    unknown = sorted(set(options) - _OPTIONS)
    if unknown or len(options) != len(pairs):
        raise Invalid(f"the mail URL's options are {', '.join(sorted(_OPTIONS))}, each once")
    return options


def _tls(scheme: str, option: str | None) -> Tls:
    default = "implicit" if scheme == "smtps" else "starttls"
    wanted = default if option is None else option
    if wanted not in get_args(Tls):
        raise Invalid(f"the mail URL's tls is one of {', '.join(get_args(Tls))}")
    if scheme == "smtps" and wanted != "implicit":
        raise Invalid("the mail URL says smtps, and yet another tls than implicit")
    return cast("Tls", wanted)


def _flag(name: str, text: str) -> bool:
    if text not in {"true", "false"}:
        raise Invalid(f"the mail URL's {name} is true or false")
    return text == "true"

"""Turns a ``Mail`` into the message that travels (RFC 5322, RFC 2045 and following).

Whatever could break out of its header is refused here, whoever the caller is: the composer is the
last place that sees addresses and names as data.
"""

import re
from datetime import datetime
from email.header import Header
from email.headerregistry import BaseHeader, HeaderRegistry
from email.message import EmailMessage
from email.policy import SMTP, EmailPolicy
from typing import Any, cast

from email_validator import EmailNotValidError, validate_email

from limner.actors.mailer.transport import Attachment, Mail
from limner.core.clock import SystemClock
from limner.core.errors import Invalid

MAX_SUBJECT_CHARS = 500
MAX_HEADER_CHARS = 2000
MAX_FILENAME_CHARS = 200
MAX_NAME_CHARS = 100
MAX_ATTACHMENTS = 20
LINE_CHARS = 76
MAX_LINE_CHARS = 990

_ADDRESS = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*"
    r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
)
_MESSAGE_ID = re.compile(r"<[A-Za-z0-9._-]{1,190}@[A-Za-z0-9.-]{1,60}>")
_MESSAGE_ID_PART = re.compile(r"[A-Za-z0-9_-]{1,80}")
_DOMAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,58}[A-Za-z0-9])?")
_CID = re.compile(r"[A-Za-z0-9._-]{1,100}(?:@[A-Za-z0-9.-]{1,100})?")
_CONTENT_TYPE = re.compile(r"([a-z0-9][a-z0-9.+-]{0,60})/([a-z0-9][a-z0-9.+-]{0,60})")
_PLAIN = re.compile(r"(?!.*=\?)[!-~]+(?: [!-~]+)*")
_ATOM = r"[A-Za-z0-9!#$%&'*+/=^_`{|}~-]+"
_PLAIN_NAME = re.compile(f"{_ATOM}(?: {_ATOM})*")
_ESCAPED = re.compile(r"\\(.)")
_HEADER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,60}")
# C0, DEL, C1, and the line and paragraph separators that some mailers break lines at. A lone
# surrogate is no character at all.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_OURS = frozenset(
    {"from", "to", "cc", "bcc", "sender", "reply-to", "subject", "date", "message-id"}
    | {"mime-version", "return-path", "received", "auto-submitted", "dkim-signature"}
)
_OURS_PREFIXES = ("content-", "resent-", "arc-")


class _Literal(BaseHeader):
    """A header whose value is what the caller wrote, whatever it looks like.

    The library's own classes decode what looks like an encoded word when it is stored, and write it
    out decoded: ``=?utf-8?q?=0D=0ABcc:...?=`` becomes a line of its own (seen on Python 3.11.7).
    """

    max_count = 1

    @classmethod
    def parse(cls, value: str, kwds: dict[str, Any]) -> None:
        kwds["parse_tree"] = None  # only the library's own fold() looks at it
        kwds["decoded"] = value

    def fold(self, *, policy: Any) -> str:
        fits = len(self.name) + len(self) < LINE_CHARS and _PLAIN.fullmatch(self)
        return f"{self.name}: {self if fits else _encoded(self)}{policy.linesep}"


class _Sender(_Literal):
    """A mailbox: words, and an ASCII address in angle brackets."""

    def fold(self, *, policy: Any) -> str:
        name, _, bare = self.rpartition(" ")
        if name and not _PLAIN_NAME.fullmatch(name):
            name = _encoded(name)
        return f"{self.name}: {name}{policy.linesep if name else ''} {bare}{policy.linesep}"


class _Exact(_Literal):
    """A header that is never folded or encoded.

    The library turns a long URL into encoded words, which no receiver of List-Unsubscribe reads.
    """

    def fold(self, *, policy: Any) -> str:
        return f"{self.name}: {self}{policy.linesep}"


def _encoded(text: str) -> str:
    """Give ``text`` as encoded words, a line for each (RFC 2047)."""
    return Header(text, "utf-8", maxlinelen=LINE_CHARS, header_name=" " * 20).encode(linesep="\r\n")


def _policy() -> "EmailPolicy[EmailMessage]":
    registry = HeaderRegistry(default_class=_Literal)  # type: ignore[arg-type] # it needs no value_parser
    registry.map_to_type("subject", _Literal)
    registry.map_to_type("from", _Sender)
    for name in ("to", "list-unsubscribe", "list-unsubscribe-post", "message-id"):
        registry.map_to_type(name, _Exact)
    # 7bit: every server takes it, and no relay has to rewrite (and so spoil a signature).
    return SMTP.clone(cte_type="7bit", header_factory=registry)


POLICY = _policy()


def is_domain(text: str) -> bool:
    """Say whether ``text`` is an ASCII host name of at most 60 characters."""
    return _DOMAIN.fullmatch(text) is not None


def message_id(subject_id: str, purpose: str, attempt: int, domain: str) -> str:
    """Give ``<subject.purpose.attempt@domain>``: one id for one mail that shall exist once.

    Raises:
        Invalid: a part holds more than letters, digits, ``_`` and ``-`` (1 to 80), the domain is
            not an ASCII host name of at most 60 characters, or ``attempt`` (the number of the
            delivery, from 1) is not positive.
    """
    for name, part in (("subject_id", subject_id), ("purpose", purpose)):
        if not _MESSAGE_ID_PART.fullmatch(part):
            raise Invalid(f"the {name} of a Message-ID holds characters that do not belong there")
    if not is_domain(domain):
        raise Invalid("the domain of a Message-ID must be an ASCII host name")
    if attempt < 1:
        raise Invalid("the attempt of a Message-ID counts from 1")
    return f"<{subject_id}.{purpose}.{attempt}@{domain}>"


def unsubscribe_headers(url: str) -> dict[str, str]:
    """Give the two headers of one-click unsubscription for ``url`` (RFC 8058 section 3.1)."""
    return {
        "List-Unsubscribe": f"<{url}>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
    }


def address(text: str, field: str) -> str:
    """Check one bare address and give its ASCII form (a host name in other letters as IDNA 2008).

    Quoted local parts, address literals and letters outside ASCII before the ``@`` are refused.

    Raises:
        Invalid: it is not one address; the sentence names ``field``, never the address.
    """
    ascii_form = text
    if not text.isascii():
        try:
            checked = validate_email(
                text, check_deliverability=False, allow_smtputf8=False, globally_deliverable=False
            )
        except EmailNotValidError:
            raise _invalid(field, "is not one mail address") from None
        ascii_form = checked.ascii_email or ""
    local, _, _domain = ascii_form.partition("@")
    if not _ADDRESS.fullmatch(ascii_form) or len(local) > 64 or len(ascii_form) > 254:
        raise _invalid(field, "is not one mail address")
    return ascii_form


def sender_address(sender: str) -> str:
    """Give the bare address of ``Limner <limner@example.org>`` or of a bare address.

    Raises:
        Invalid: it is neither.
    """
    return _split_sender(sender)[1]


def compose(mail: Mail, at: datetime | None = None) -> EmailMessage:
    """Build the message: text first, HTML with its pictures after it, other files last.

    The structure is ``mixed(alternative(text, related(html, pictures…)), files…)``, without the
    containers that would hold one part only. ``at`` is the Date, now by default. All that travels
    is ASCII. Characters that no text may hold (NUL, lone surrogates) become U+FFFD in the bodies.

    Raises:
        Invalid: an address, subject, header, file name, content type or content id that is not
            well-formed, above all one with a line break; a header that is not the caller's.
    """
    message = EmailMessage(policy=POLICY)
    name, bare = _split_sender(mail.sender)
    message["From"] = f"{name} <{bare}>" if name else bare
    message["To"] = address(mail.recipient, "to")
    message["Subject"] = _one_line(mail.subject, "subject", MAX_SUBJECT_CHARS)
    message["Date"] = at or SystemClock().now()
    if not _MESSAGE_ID.fullmatch(mail.message_id):
        raise _invalid("message_id", "is not a Message-ID")
    message["Message-ID"] = mail.message_id
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no robot answers a robot
    _add_headers(message, mail)
    _add_bodies(message, mail)
    return message


def _invalid(field: str, fault: str) -> Invalid:
    return Invalid(f"{field} {fault}", faults=[(f"/{field}", fault)])


def _one_line(text: str, field: str, max_chars: int) -> str:
    """Give ``text`` back if it is one line of at most ``max_chars`` without control characters."""
    if _CONTROLS.search(text):
        raise _invalid(field, "holds a line break or another control character")
    if len(text) > max_chars:
        raise _invalid(field, f"is longer than {max_chars} characters")
    return text


def _split_sender(sender: str) -> tuple[str, str]:
    """Give the display name and the bare address."""
    text = _one_line(sender, "from", 320).strip()
    if not text.endswith(">"):
        return "", address(text, "from")
    name, _, bare = text[:-1].rpartition("<")
    name = name.strip()
    if len(name) > 1 and name[0] == name[-1] == '"':
        name = _ESCAPED.sub(r"\1", name[1:-1]).strip()
    if len(name) > MAX_NAME_CHARS:
        raise _invalid("from", f"has a name of more than {MAX_NAME_CHARS} characters")
    return name, address(bare, "from")


def _add_headers(message: EmailMessage, mail: Mail) -> None:
    for name, value in mail.headers.items():
        lower = name.lower()
        if not _HEADER_NAME.fullmatch(name):
            raise _invalid("headers", "holds a name that is not a header's")
        if lower in _OURS or lower.startswith(_OURS_PREFIXES):
            raise _invalid("headers", f"may not set {name}")
        if name in message:
            raise _invalid("headers", f"sets {name} twice")
        _one_line(value, "headers", MAX_HEADER_CHARS)
        exact = value.isascii() and "=?" not in value and len(name) + len(value) < MAX_LINE_CHARS
        if lower.startswith("list-") and not exact:
            raise _invalid("headers", f"holds a {name} that does not fit on one line of ASCII")
        message[name] = value


def _add_bodies(message: EmailMessage, mail: Mail) -> None:
    if len(mail.attachments) > MAX_ATTACHMENTS:
        raise _invalid("attachments", f"are more than {MAX_ATTACHMENTS}")
    text = _clean(mail.text)
    message.set_content(text, cte=_encoding(text))
    related: EmailMessage | None = None
    if mail.html is not None:
        html = _clean(mail.html)
        message.add_alternative(html, subtype="html", cte=_encoding(html))
        related = cast("EmailMessage", list(message.iter_parts())[-1])
    # Pictures first: a file at the top level would turn the message into `mixed` before the HTML
    # is complete.
    for attachment in sorted(mail.attachments, key=lambda each: each.cid is None):
        _attach(message, related, attachment)
    if related is not None and related.is_multipart():
        related.set_param("type", "text/html")  # RFC 2387 section 3.1


def _attach(message: EmailMessage, related: EmailMessage | None, attachment: Attachment) -> None:
    kind = _CONTENT_TYPE.fullmatch(attachment.content_type)
    if kind is None or kind[1] in {"multipart", "message"}:
        raise _invalid("attachments", "hold a content type that cannot be attached")
    filename = _one_line(attachment.filename, "filename", MAX_FILENAME_CHARS)
    if not filename or any(part in filename for part in ("/", "\\", "=?")):
        raise _invalid("filename", "is empty, a path or an encoded word")
    if attachment.cid is None:
        message.add_attachment(
            attachment.content, maintype=kind[1], subtype=kind[2], filename=filename
        )
        return
    if related is None or not _CID.fullmatch(attachment.cid):
        raise _invalid("cid", "is not well-formed, or there is no HTML that could show it")
    related.add_related(
        attachment.content,
        maintype=kind[1],
        subtype=kind[2],
        cid=f"<{attachment.cid}>",
        filename=filename,
        disposition="inline",
    )


def _clean(text: str) -> str:
    return _NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", text)


def _encoding(text: str) -> str:
    """Choose the shorter of the two encodings that survive every server and every line length."""
    others = sum(1 for character in text if not character.isascii())
    return "base64" if others * 6 > len(text) else "quoted-printable"

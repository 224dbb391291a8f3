"""Mail addresses of accounts, normalised in one place: one mailbox, one form.

The form is NFKC, the host name as ASCII (IDNA 2008), all in lower case. It is what is stored,
compared and written to. No mail host in use tells upper from lower case in front of the ``@``
(RFC 5321 section 2.4 would let it), and two accounts for one mailbox would be worse.
"""

import re
import unicodedata

from email_validator import EmailNotValidError, validate_email

from limner.core.errors import Invalid

MAX_CHARACTERS = 320
MAX_STORED_CHARACTERS = 254
MAX_LOCAL_CHARACTERS = 64

_ATOM = r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# A host without a dot, or below .local, is somebody's mail server too; the library refuses those.
_PLAIN = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*")


def normal_email(text: str, pointer: str = "/email") -> str:
    """Give the one form of a mail address, at most 254 characters of ASCII.

    Letters outside ASCII in front of the ``@``, quoted local parts and address literals are
    refused: the mailer could not write there.

    Raises:
        Invalid: it is no mail address; the fault is at ``pointer``.
    """
    if len(text) > MAX_CHARACTERS:
        raise _refused(f"has more than {MAX_CHARACTERS} characters", pointer)
    normal = unicodedata.normalize("NFKC", text.strip()).lower()
    if not normal.isascii():
        normal = _in_ascii(normal)
    if not _PLAIN.fullmatch(normal):
        raise _refused("is not a mail address", pointer)
    if len(normal) > MAX_STORED_CHARACTERS or normal.index("@") > MAX_LOCAL_CHARACTERS:
        raise _refused("is longer than mail allows", pointer)
    return normal


def _in_ascii(text: str) -> str:
    """Give the address with its host name in ASCII, or nothing if there is none."""
    try:
        checked = validate_email(text, check_deliverability=False, allow_smtputf8=False)
    except (EmailNotValidError, UnicodeError):
        return ""
    return (checked.ascii_email or "").lower()


def _refused(fault: str, pointer: str) -> Invalid:
    return Invalid("the mail address cannot be used", faults=[(pointer, fault)])

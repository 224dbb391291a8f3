"""PORT: how mails leave Limner, as the mailer needs it.

A mail cannot be taken back and SMTP cannot be asked whether it arrived (RFC 1047), so the port's
errors say which of three things is known: not sent and worth another attempt, not sent for good, or
nobody can know.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that travels inside a mail.

    With ``cid`` (``name@domain``, without angle brackets) it is part of the HTML, which shows it as
    ``<img src="cid:name@domain">``; without, it is listed beside the text.
    """

    filename: str
    content_type: str
    content: bytes = field(repr=False)
    cid: str | None = None


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail to exactly one person.

    ``message_id`` is chosen by the caller and stays the same over all automatic attempts
    (``limner.actors.mailer.message.message_id`` makes it). ``sender`` may carry a display name,
    ``recipient`` is a bare address. ``headers`` are added as they are; those that the composer
    writes itself are refused. What identifies a person is left out of ``repr``.
    """

    message_id: str
    sender: str = field(repr=False)
    recipient: str = field(repr=False)
    subject: str = field(repr=False)
    text: str = field(repr=False)
    html: str | None = field(default=None, repr=False)
    attachments: tuple[Attachment, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Receipt:
    """The other side's word that it took a mail over.

    ``reply`` is what it said, for operators: one line, at most 200 characters, without addresses.
    """

    message_id: str
    reply: str


class Transport(Protocol):
    """Carries one mail at a time to whoever delivers it."""

    async def send(self, mail: Mail) -> Receipt:
        """Hand one mail over and wait until the other side has answered for it.

        It never tries twice: attempts belong to the caller, who has written ``sending`` before.

        Raises:
            Invalid: the mail cannot be composed (an address, header or file name that could inject
                headers); nothing was sent.
            Transient: nothing was sent, and the same mail may be tried again. The code tells
                ``mail_deferred`` (the other side asked to wait), ``mail_unavailable`` (it cannot be
                reached, or broke off), ``mail_tls`` and ``mail_login`` (an operator has to mend the
                settings).
            Refused: this mail is refused for good; code ``mail_refused``. ``context`` has
                ``phase`` (``sender``, ``recipient`` or ``content``), ``reply`` (SMTP's three
                digits) and ``status`` (RFC 3463, may be empty). Only the phase ``recipient`` speaks
                against the address.
            Ambiguous: the whole mail is out, its answer never came: it may or may not arrive.
                It must not be sent again blindly.
        """
        ...

    async def lookup(self, message_id: str) -> bool | None:
        """Say whether a mail was accepted: True it was, False it was not, None nobody can tell.

        Raises:
            Transient: the place to look is out of reach.
        """
        ...

    async def check(self) -> None:
        """Do all that sending does, short of a mail: reach the server, secure the line, log in.

        Raises:
            Transient: what is wrong, in a sentence for ``doctor``, with the codes of ``send``.
        """
        ...

    async def aclose(self) -> None:
        """Let go of every connection; nothing may be sent afterwards."""
        ...

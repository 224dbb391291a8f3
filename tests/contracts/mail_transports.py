"""What the mail suite runs over: one line per transport."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import Literal

from limner.actors.mailer.mailbox import Mailbox
from limner.actors.mailer.smtp import Smtp
from limner.actors.mailer.transport import Transport
from limner.storage.sql.mailbox import MailboxMail
from tests.contracts.engines import Engine
from tests.fakes.ports import open_ports
from tests.fakes.smtp import FakeSmtp, Received


@dataclass(frozen=True)
class Arrived:
    """One mail as its reader has it. ``files`` are the names and bytes of all that is attached."""

    message_id: str
    recipient: str
    subject: str
    text: str
    html: str | None
    files: dict[str, bytes]


@dataclass(frozen=True)
class MailUnderTest:
    """A transport, and what has arrived by it, in the order of arrival."""

    transport: Transport
    arrived: Callable[[], Awaitable[list[Arrived]]]


def _as_read(recipient: str, message: EmailMessage) -> Arrived:
    html = message.get_body(("html",))
    return Arrived(
        message_id=str(message["Message-ID"]),
        recipient=recipient,
        subject=str(message["Subject"]),
        text=_words(message),
        html=None if html is None else str(html.get_content()),
        files={
            str(part.get_filename()): bytes(part.get_payload(decode=True) or b"")
            for part in message.walk()
            if part.get_filename() is not None
        },
    )


def _taken_over(mail: Received) -> Arrived:
    (recipient,) = mail.recipients
    return _as_read(recipient, mail.message)


def _words(message: EmailMessage) -> str:
    text = message.get_body(("plain",))
    return "" if text is None else str(text.get_content())


@asynccontextmanager
async def smtp(
    tls: Literal["none", "starttls", "implicit"], _: Path
) -> AsyncIterator[MailUnderTest]:
    """Send by SMTP to a server on loopback."""
    async with FakeSmtp(tls=tls, login=("limner", "password")) as server:
        transport = Smtp.from_url(server.url)

        async def arrived() -> list[Arrived]:
            return [_taken_over(mail) for mail in server.mails]

        yield MailUnderTest(transport, arrived)
        await transport.aclose()
        await server.idle()


@asynccontextmanager
async def mailbox(folder: Path) -> AsyncIterator[MailUnderTest]:
    """Keep mails in a database and an object store in ``folder``."""
    async with open_ports(folder) as ports:
        transport = Mailbox(ports.database, ports.objects, ports.clock)

        async def arrived() -> list[Arrived]:
            mails = []
            for row in await MailboxMail.all().order_by("created_at"):
                raw = await ports.objects.read(row.raw_key, row.size_bytes)
                message = message_from_bytes(raw, policy=policy.default)
                mails.append(_as_read(row.recipient, message))
            return mails

        yield MailUnderTest(transport, arrived)
        await transport.aclose()


MAIL_TRANSPORTS: list[Engine[MailUnderTest]] = [
    Engine("mailbox", mailbox),
    Engine("smtp", partial(smtp, "none")),
    Engine("smtp-starttls", partial(smtp, "starttls")),
    Engine("smtps", partial(smtp, "implicit")),
]

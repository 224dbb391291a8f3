"""Mails by SMTP (RFC 5321): one connection for each, because a mail's fate must be its own."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

from limner.actors.mailer.message import address, compose, is_domain, sender_address
from limner.actors.mailer.server import Server
from limner.actors.mailer.session import Limits, Session, stuffed
from limner.actors.mailer.transport import Mail, Receipt
from limner.core.clock import Clock, SystemClock
from limner.core.errors import Invalid
from limner.core.failpoints import declare, step

CONNECT = declare("smtp.connect")


@dataclass(frozen=True, slots=True)
class _Envelope:
    """What travels: bare addresses, the message, and its size before its dots are doubled."""

    sender: str
    recipient: str
    content: bytes
    size_bytes: int


class Smtp:
    """A transport over one SMTP server.

    It holds as many connections as mails are being sent; the actor's concurrency is their bound.
    """

    def __init__(
        self,
        server: Server,
        *,
        domain: str = "localhost",
        limits: Limits | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Prepare; nothing is opened. ``domain`` is the name we greet with: the sender's.

        Raises:
            Invalid: ``domain`` is no ASCII host name.
        """
        if not is_domain(domain):
            raise Invalid("the mail server must be greeted with an ASCII host name")
        self._server = server
        self._domain = domain
        self._limits = limits or Limits()
        self._clock = clock or SystemClock()
        self._context: ssl.SSLContext | None = None

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        domain: str = "localhost",
        production: bool = False,
        limits: Limits | None = None,
        clock: Clock | None = None,
    ) -> Self:
        """Read ``LIMNER_MAIL_URL`` (see ``Server.parse``).

        Raises:
            Invalid: the URL is not one of a mail server.
        """
        server = Server.parse(url, production=production)
        return cls(server, domain=domain, limits=limits, clock=clock)

    async def send(self, mail: Mail) -> Receipt:
        """Hand the mail to the server."""
        envelope = await asyncio.to_thread(self._prepare, mail)
        async with self._session() as session:
            await session.envelope(envelope.sender, envelope.recipient, envelope.size_bytes)
            reply = await session.content(envelope.content)
        return Receipt(mail.message_id, reply)

    async def lookup(self, message_id: str) -> bool | None:
        """Give None: SMTP has no question for what it has accepted."""
        return None

    async def check(self) -> None:
        """Open a session and close it."""
        async with self._session():
            pass

    async def aclose(self) -> None:
        """Do nothing: no connection outlives its mail."""

    def _prepare(self, mail: Mail) -> _Envelope:
        message = compose(mail, self._clock.now()).as_bytes()
        return _Envelope(
            sender=sender_address(mail.sender),
            recipient=address(mail.recipient, "to"),
            content=stuffed(message),
            size_bytes=len(message),
        )

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Session]:
        if self._context is None:
            self._context = await asyncio.to_thread(self._server.context)
        session = Session(self._server, self._context, self._domain, self._limits)
        try:
            async with step(CONNECT):
                await session.open()
            yield session
        finally:
            await session.close()

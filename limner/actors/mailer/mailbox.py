"""The transport ``mailbox:``: keeps mails in the database and the object store, sends nothing.

The mail's bytes are stored first, the row after them; the row's Message-ID is unique. So a mail is
there exactly if its row is, and a look-up after a crash is certain.
"""

import asyncio

from limner.actors.mailer.message import address, compose, sender_address
from limner.actors.mailer.transport import Mail, Receipt
from limner.core.clock import Clock
from limner.core.failpoints import declare, step
from limner.core.ids import derived_id
from limner.core.objects import ObjectStore
from limner.storage.sql.database import Database
from limner.storage.sql.mailbox import MailboxMail

MAILBOX_ROW = declare("mailbox.row")
MAX_MAIL_BYTES = 50_000_000


class Mailbox:
    """A transport for development and the demo; read at ``/mailbox``."""

    def __init__(self, database: Database, objects: ObjectStore, clock: Clock) -> None:
        self._database = database
        self._objects = objects
        self._clock = clock

    async def send(self, mail: Mail) -> Receipt:
        """Keep the mail; the same Message-ID again changes nothing."""
        now = self._clock.now()
        raw = await asyncio.to_thread(lambda: compose(mail, now).as_bytes())
        ident = derived_id("mail", mail.message_id)
        key = f"mailbox/{ident}.eml"
        await self._objects.put(key, raw, "message/rfc822", size_limit_bytes=MAX_MAIL_BYTES)
        async with step(MAILBOX_ROW):
            writer = self._database.write()
            kept = await writer.execute(
                f"{writer.insert_or_ignore} mailbox (id, message_id, sender, recipient, subject, "
                "raw_key, size_bytes, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    ident,
                    mail.message_id,
                    sender_address(mail.sender),
                    address(mail.recipient, "to"),
                    mail.subject[:998],
                    key,
                    len(raw),
                    now,
                ],
            )
        if not kept:
            return Receipt(mail.message_id, "kept before")
        return Receipt(mail.message_id, "kept in the mailbox")

    async def lookup(self, message_id: str) -> bool | None:
        """Whether the mail's row is there."""
        return await MailboxMail.exists(message_id=message_id)

    async def check(self) -> None:
        """Return if the database answers."""
        await self._database.read().query("SELECT 1")

    async def aclose(self) -> None:
        """Hold nothing."""

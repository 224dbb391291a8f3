"""The mailer beside a front: what it is told to write is written, and read here."""

import re
from email.message import EmailMessage

from limner.actors.mailer.actor import build
from tests.fakes import front
from tests.fakes.deliveries import kept, words
from tests.fakes.ports import ports_of
from tests.fakes.stage import Stage

LINK = re.compile(r"https?://\S+/(?:verify-email|reset-password)\?token=([A-Za-z0-9_-]+)(?=\s)")


class Letters:
    """The mails that a front has caused; each is fetched once."""

    def __init__(self, stage: front.Stage) -> None:
        self.ports = ports_of(stage.front)
        self.actors = Stage(self.ports, build(self.ports))
        self._fetched: set[str] = set()

    async def fetch(self) -> list[EmailMessage]:
        """Let the mailer do all it was told, and give the mails that are new."""
        await self.actors.act()
        mails = {str(mail["Message-ID"]): mail for mail in await kept(self.ports)}
        new = [mail for ident, mail in mails.items() if ident not in self._fetched]
        self._fetched |= set(mails)
        return new

    async def one(self) -> EmailMessage:
        """Give the one new mail."""
        (mail,) = await self.fetch()
        return mail

    async def token(self) -> str:
        """Give the token of the link in the one new mail."""
        return token_in(await self.one())


def token_in(mail: EmailMessage) -> str:
    """Give the token of a mail's link; text and HTML have the same."""
    (token,) = LINK.findall(words(mail))
    assert f"?token={token}" in words(mail, "html")
    return str(token)

"""Which transport a URL picks, what each is told, and what the mailbox keeps."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from limner.actors.mailer.transport import Mail
from limner.actors.mailer.transports import sender_domain, transport
from limner.actors.ports import Ports
from limner.core.clock import HeldClock
from limner.core.errors import Invalid, NotConfigured
from limner.storage.sql.mailbox import MailboxMail
from tests.fakes.deliveries import ADDRESS
from tests.fakes.ports import open_ports


@pytest.fixture
async def ports(tmp_path: Path, migrated_file: Path, clock: HeldClock) -> AsyncIterator[Ports]:
    async with open_ports(tmp_path, clock=clock, migrated=migrated_file) as opened:
        yield opened


@pytest.mark.parametrize(
    ("mail_from", "domain"),
    [("Limner <limner@mail.example>", "mail.example"), ("a@bücher.de", "xn--bcher-kva.de")],
)
def test_the_domain_of_the_sender_ends_every_message_id(mail_from: str, domain: str) -> None:
    assert sender_domain(mail_from) == domain


def test_a_domain_too_long_for_a_message_id_is_called_localhost() -> None:
    assert sender_domain(f"a@{'x' * 50}.{'y' * 50}.test") == "localhost"
    with pytest.raises(Invalid):
        sender_domain("nobody")


async def test_the_mailbox_keeps_one_copy_and_knows_what_it_has(ports: Ports) -> None:
    mailbox = transport("mailbox:", ports)
    mail = Mail("<a.b.1@limner.test>", "limner@limner.test", ADDRESS, "Hello", "x")
    assert await mailbox.lookup(mail.message_id) is False
    assert (await mailbox.send(mail)).reply == "kept in the mailbox"
    assert (await mailbox.send(mail)).reply == "kept before"
    assert await mailbox.lookup(mail.message_id) is True
    assert await MailboxMail.all().count() == 1


async def test_an_unknown_transport_is_named_with_those_that_are_known(ports: Ports) -> None:
    with pytest.raises(NotConfigured, match="'pigeon' is no known transport; known are mailbox:"):
        transport("pigeon://loft", ports)

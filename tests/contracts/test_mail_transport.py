"""What every mail transport keeps to; run over each of ``mail_transports.MAIL_TRANSPORTS``."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from limner.actors.mailer.message import message_id, unsubscribe_headers
from limner.actors.mailer.rendering import render_result
from limner.actors.mailer.transport import Attachment, Mail, Transport
from limner.core.errors import Invalid
from tests.contracts.engines import Engine, each, prepare
from tests.contracts.mail_transports import MAIL_TRANSPORTS, MailUnderTest
from tests.fakes.nasty_strings import LINE_BREAKS, NASTY_STRINGS

MAIL = Mail(
    message_id=message_id("task_1", "result", 1, "limner.test"),
    sender="Limner <limner@limner.test>",
    recipient="reader@example.org",
    subject="Your picture is ready",
    text="Here it is.",
)


@pytest.fixture(params=each(MAIL_TRANSPORTS))
async def under_test(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[MailUnderTest]:
    engine: Engine[MailUnderTest] = request.param
    prepare(engine, request)
    async with engine.open(tmp_path) as opened:
        yield opened


@pytest.fixture
def transport(under_test: MailUnderTest) -> Transport:
    return under_test.transport


def as_lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n").split("\n")


async def test_a_mail_arrives_once_and_whole(under_test: MailUnderTest) -> None:
    picture = bytes(range(256)) * 500
    words = render_result(
        language="zh",
        kind="image",
        prompt="一只红狐狸 {{7*7}} <b>\n.\n..",
        result_url="https://limner.test/r/x",
        expires_in_s=3600,
        unsubscribe_url="https://limner.test/unsubscribe/x",
        picture_cid="result@limner.test",
    )
    mail = Mail(
        message_id=MAIL.message_id,
        sender="林 <limner@limner.test>",
        recipient="reader@example.org",
        subject=words.subject,
        text=words.text,
        html=words.html,
        attachments=(Attachment("result.png", "image/png", picture, "result@limner.test"),),
        headers=unsubscribe_headers("https://limner.test/unsubscribe/x"),
    )
    receipt = await under_test.transport.send(mail)
    assert receipt.message_id == mail.message_id
    assert len(receipt.reply.splitlines()) <= 1
    assert len(receipt.reply) <= 200
    (arrived,) = await under_test.arrived()
    assert arrived.message_id == mail.message_id
    assert arrived.recipient == mail.recipient
    assert arrived.subject == mail.subject
    assert as_lines(arrived.text) == as_lines(mail.text)
    assert arrived.html is not None
    assert as_lines(arrived.html) == as_lines(words.html)
    assert arrived.files == {"result.png": picture}


async def test_a_mail_may_be_text_alone(under_test: MailUnderTest) -> None:
    await under_test.transport.send(MAIL)
    (arrived,) = await under_test.arrived()
    assert arrived.html is None
    assert arrived.files == {}
    assert as_lines(arrived.text) == ["Here it is."]


async def test_mails_sent_at_once_arrive_each_once(under_test: MailUnderTest) -> None:
    wanted = [message_id(f"task_{number}", "result", 1, "limner.test") for number in range(20)]
    receipts = await asyncio.gather(
        *(under_test.transport.send(replace(MAIL, message_id=each)) for each in wanted)
    )
    assert [receipt.message_id for receipt in receipts] == wanted
    arrived = Counter(mail.message_id for mail in await under_test.arrived())
    assert arrived == Counter(wanted)


async def test_what_was_accepted_is_never_denied(transport: Transport) -> None:
    await transport.send(MAIL)
    assert await transport.lookup(MAIL.message_id) in {True, None}


async def test_what_was_never_sent_is_never_affirmed(transport: Transport) -> None:
    assert await transport.lookup("<task_2.result.1@limner.test>") in {False, None}


@pytest.mark.parametrize("end", LINE_BREAKS)
async def test_nothing_arrives_of_a_mail_that_would_inject_headers(
    under_test: MailUnderTest, end: str
) -> None:
    evil = f"x{end}Bcc: v@x.test"
    for mail in (
        replace(MAIL, recipient=f"reader@example.org{end}Bcc: v@x.test"),
        replace(MAIL, sender=f"{evil} <limner@limner.test>"),
        replace(MAIL, subject=evil),
        replace(MAIL, message_id=f"<a@x.test>{end}Bcc: v@x.test"),
        replace(MAIL, headers={"X-Task": evil}),
        replace(MAIL, attachments=(Attachment(evil, "image/png", b"x"),)),
    ):
        with pytest.raises(Invalid):
            await under_test.transport.send(mail)
    assert await under_test.arrived() == []


async def test_a_mail_goes_to_one_person(under_test: MailUnderTest) -> None:
    many = ",".join(f"reader{number}@example.org" for number in range(10_000))
    for recipient in ("", "a@x.test,b@x.test", "a@x.test b@x.test", many):
        with pytest.raises(Invalid):
            await under_test.transport.send(replace(MAIL, recipient=recipient))
    assert await under_test.arrived() == []


async def test_nasty_words_arrive_as_words(under_test: MailUnderTest) -> None:
    words = [text for text in NASTY_STRINGS if text.isprintable() and text.strip()]
    assert len(words) > 30
    for number, text in enumerate(words):
        identity = message_id(f"task_{number}", "result", 1, "limner.test")
        subject = text if len(text) <= 500 else "long"
        await under_test.transport.send(
            replace(MAIL, message_id=identity, subject=subject, text=text)
        )
    arrived = await under_test.arrived()
    assert [as_lines(mail.text) for mail in arrived] == [as_lines(text) for text in words]
    assert [mail.subject for mail in arrived] == [
        text if len(text) <= 500 else "long" for text in words
    ]


async def test_a_transport_that_works_passes_its_check(under_test: MailUnderTest) -> None:
    await under_test.transport.check()
    assert await under_test.arrived() == []


async def test_closing_twice_is_harmless(transport: Transport) -> None:
    await transport.send(MAIL)
    await transport.aclose()
    await transport.aclose()

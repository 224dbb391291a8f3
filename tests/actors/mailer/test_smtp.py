"""Mails by SMTP: the line they travel on, the login, and what the steps do when they fail."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace

import pytest
import uvloop

from limner.actors.mailer.smtp import Smtp
from limner.core import failpoints
from limner.core.errors import Ambiguous, FailpointReached, Invalid, Transient
from tests.actors.mailer.sending import BULK, MAIL, PATIENT, failure, send
from tests.fakes.smtp import FakeSmtp, Fault, Phase, close, reply, reset, stall


@pytest.fixture
async def smtp() -> AsyncIterator[FakeSmtp]:
    async with FakeSmtp() as server:
        yield server


@pytest.fixture
def failpoint() -> Iterator[None]:
    yield
    failpoints.arm(None)


async def test_a_mail_that_is_accepted_arrives_once_with_the_servers_word(smtp: FakeSmtp) -> None:
    receipt = await Smtp.from_url(smtp.url).send(MAIL)
    assert receipt.message_id == MAIL.message_id
    assert receipt.reply == "250 2.0.0 queued as 1"
    (mail,) = smtp.mails
    assert (mail.sender, mail.recipients) == ("limner@limner.test", ("reader@example.org",))
    assert mail.message_id == MAIL.message_id
    assert smtp.commands[-1] == "QUIT"
    await smtp.idle()


async def test_a_closed_port_is_transient() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"smtp://127.0.0.1:{taken.getsockname()[1]}?tls=none"
        with pytest.raises(Transient) as caught:
            await Smtp.from_url(url, limits=PATIENT).send(MAIL)
    assert caught.value.code == "mail_unavailable"


async def test_the_greeting_names_our_domain(smtp: FakeSmtp) -> None:
    await Smtp.from_url(smtp.url, domain="limner.test").send(MAIL)
    assert smtp.commands[0] == "EHLO limner.test"


@pytest.mark.parametrize("domain", ["", "a b", "a\r\nRSET", "bücher.test"])
def test_the_name_we_greet_with_is_a_host_name(domain: str) -> None:
    with pytest.raises(Invalid):
        Smtp.from_url("smtp://127.0.0.1", domain=domain)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_a_line_is_secured_before_anything_is_said(tls: str) -> None:
    login = ("limner", "p@ss/w:rd?#%")
    async with FakeSmtp(tls=tls, login=login) as smtp:  # type: ignore[arg-type]
        await send(smtp, BULK)
        (mail,) = smtp.mails
        assert mail.secure
        assert mail.user == "limner"
        assert len(mail.content) > 12_000_000
        await Smtp.from_url(smtp.url).check()
        await smtp.idle()


async def test_a_line_that_ends_after_the_dot_is_as_unknown_under_tls() -> None:
    async with FakeSmtp(tls="starttls") as smtp:
        smtp.script(close("dot"), reset("dot"), stall("dot"), close("body", after_bytes=1000))
        for _ in range(3):
            assert isinstance(await failure(smtp, stalls="dot"), Ambiguous)
        assert isinstance(await failure(smtp, BULK), Transient)
        assert smtp.copies == {MAIL.message_id: 3}


@pytest.mark.parametrize(
    "fault",
    [
        reply("ehlo", 250, "fake.test\nSIZE 1000\nAUTH PLAIN LOGIN"),
        reply("ehlo", 502),
        reply("starttls", 454),
        reply("starttls", 501),
        close("starttls"),
        reset("starttls"),
        stall("starttls"),
    ],
    ids=repr,
)
async def test_without_tls_neither_password_nor_mail_is_said(fault: Fault) -> None:
    async with FakeSmtp(tls="starttls", login=("limner", "secret")) as smtp:
        smtp.script(fault)
        error = await failure(smtp, stalls="starttls")
        assert isinstance(error, Transient)
        assert error.code in {"mail_tls", "mail_unavailable"}
        assert {command.split(" ")[0] for command in smtp.commands} <= {"EHLO", "STARTTLS", "QUIT"}


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize("trick", ["unknown issuer", "other name"])
async def test_a_certificate_is_verified(tls: str, trick: str) -> None:
    async with FakeSmtp(tls=tls) as smtp:  # type: ignore[arg-type]
        url = smtp.url.split("&ca=")[0] if trick == "unknown issuer" else smtp.url
        url = url.replace("127.0.0.1", "localhost") if trick == "other name" else url
        with pytest.raises(Transient) as caught:
            await Smtp.from_url(url, limits=PATIENT).send(MAIL)
        assert caught.value.code == "mail_tls"
        assert smtp.mails == []


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_verification_can_be_waived(tls: str) -> None:
    async with FakeSmtp(tls=tls) as smtp:  # type: ignore[arg-type]
        url = smtp.url.split("&ca=")[0] + "&verify=false"
        await Smtp.from_url(url).send(MAIL)
        assert smtp.mails[0].secure


async def test_a_wrong_password_is_transient_and_not_told() -> None:
    async with FakeSmtp(login=("limner", "right")) as smtp:
        url = smtp.url.replace("right", "s3cret")
        for transport in (Smtp.from_url(url), Smtp.from_url(url.replace("limner:s3cret@", ""))):
            with pytest.raises(Transient) as caught:
                await transport.send(MAIL)
            assert caught.value.code == "mail_login"
            assert "s3cret" not in str(caught.value)
        assert smtp.mails == []


async def test_a_login_that_is_not_offered_is_transient(smtp: FakeSmtp) -> None:
    url = smtp.url.replace("smtp://", "smtp://limner:pw@")
    with pytest.raises(Transient) as caught:
        await Smtp.from_url(url).check()
    assert caught.value.code == "mail_login"


async def test_check_says_what_is_wrong_and_sends_nothing(smtp: FakeSmtp) -> None:
    await Smtp.from_url(smtp.url).check()
    assert smtp.commands == ["EHLO localhost", "QUIT"]
    smtp.script(reply("greeting", 554, "not you"))
    with pytest.raises(Transient, match="554 not you"):
        await Smtp.from_url(smtp.url).check()


async def test_smtp_cannot_be_asked_what_became_of_a_mail(smtp: FakeSmtp) -> None:
    transport = Smtp.from_url(smtp.url)
    await transport.send(MAIL)
    assert await transport.lookup(MAIL.message_id) is None


@pytest.mark.parametrize(
    "recipient",
    [
        "reader@example.org>\r\nRCPT TO:<other@example.org",
        "reader@example.org> NOTIFY=SUCCESS",
        "reader@example.org,other@example.org",
        ",".join(f"reader{number}@example.org" for number in range(10_000)),
    ],
    ids=lambda text: text[:40],
)
async def test_no_second_recipient_is_ever_named(smtp: FakeSmtp, recipient: str) -> None:
    with pytest.raises(Invalid):
        await send(smtp, replace(MAIL, recipient=recipient))
    await send(smtp, replace(MAIL, text="x\r\n.\r\nRCPT TO:<other@example.org>\r\n"))
    assert [each for each in smtp.commands if each.startswith("RCPT")] == [
        "RCPT TO:<reader@example.org>"
    ]


@pytest.mark.parametrize(
    ("point", "connections", "kept"),
    [
        ("smtp.connect:raise", 0, 0),
        ("smtp.connect:execute-then-raise", 1, 0),
        ("smtp.dot:raise", 1, 0),
        ("smtp.dot:execute-then-raise", 1, 1),
    ],
)
@pytest.mark.usefixtures("failpoint")
async def test_the_steps_can_be_made_to_fail(
    smtp: FakeSmtp, point: str, connections: int, kept: int
) -> None:
    assert {"smtp.connect", "smtp.dot"} <= failpoints.steps()
    failpoints.arm(point)
    with pytest.raises(FailpointReached):
        await send(smtp)
    await smtp.idle()
    assert (smtp.connections, len(smtp.mails)) == (connections, kept)


@pytest.mark.parametrize("at", ["ehlo", "mail", "dot"])
async def test_a_cancelled_send_hangs_up(at: Phase) -> None:
    hung_up = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers = {"ehlo": 1, "mail": 2, "dot": 5}[at]
        for answer in (b"220 x", b"250 x", b"250 x", b"250 x", b"354 x")[:answers]:
            writer.write(answer + b"\r\n")
            await reader.readuntil(b"\r\n" if answer != b"354 x" else b"\r\n.\r\n")
        reached.set()
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        hung_up.set()

    reached = asyncio.Event()
    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    url = f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}?tls=none"
    async with server, asyncio.timeout(5):
        sending = asyncio.create_task(Smtp.from_url(url).send(MAIL))
        await reached.wait()
        sending.cancel()
        await asyncio.wait({sending})
        assert sending.cancelled()
        await hung_up.wait()


def test_it_works_on_uvloop_too() -> None:
    async def talk() -> None:
        async with FakeSmtp(tls="starttls") as smtp:
            smtp.script(None, close("dot"), stall("body", after_bytes=1000))
            await send(smtp, BULK)
            assert isinstance(await failure(smtp), Ambiguous)
            assert isinstance(await failure(smtp, BULK, stalls="body"), Transient)
            assert smtp.copies == {MAIL.message_id: 2}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(talk())

"""Every way a conversation with a mail server can end, and what is known afterwards."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from aiosmtplib import SMTPResponse

from limner.actors.mailer.server import Server
from limner.actors.mailer.session import Limits, Session, one_line, stuffed
from limner.actors.mailer.smtp import Smtp
from limner.core.errors import Ambiguous, LimnerError, Refused, Transient
from tests.actors.mailer.sending import BULK, IMPATIENT, MAIL, PATIENT, failure, send
from tests.fakes.smtp import FakeSmtp, Fault, Phase, close, reply, reset, stall

ANGRY = "5.1.1 <reader@example.org>: reader@example.org is no one\nsee http://x.test/?a=b@c"
Ends = Callable[..., Fault]


@pytest.fixture
async def smtp() -> AsyncIterator[FakeSmtp]:
    async with FakeSmtp() as server:
        yield server


BEFORE: tuple[Phase, ...] = ("greeting", "ehlo", "mail", "rcpt", "data")


@pytest.mark.parametrize("at", BEFORE)
@pytest.mark.parametrize("ends", [close, reset, stall])
async def test_a_line_that_ends_before_the_content_leaves_nothing_behind(
    smtp: FakeSmtp, at: Phase, ends: Ends
) -> None:
    smtp.script(ends(at))
    error = await failure(smtp, stalls=at)
    assert isinstance(error, Transient)
    assert error.code == "mail_unavailable"
    assert smtp.mails == []
    assert await send(smtp)
    assert smtp.copies == {MAIL.message_id: 1}


@pytest.mark.parametrize("ends", [close, reset, stall])
async def test_a_line_that_ends_within_the_content_leaves_nothing_behind(
    smtp: FakeSmtp, ends: Ends
) -> None:
    smtp.script(ends("body", after_bytes=1000))
    error = await failure(smtp, BULK, stalls="body" if ends is stall else None)
    assert isinstance(error, Transient)
    assert error.code == "mail_unavailable"
    assert smtp.mails == []


@pytest.mark.parametrize("ends", [close, reset, stall])
async def test_a_line_that_ends_after_the_final_dot_leaves_the_mail_unknown(
    smtp: FakeSmtp, ends: Ends
) -> None:
    smtp.script(ends("dot"))
    error = await failure(smtp, stalls="dot" if ends is stall else None)
    assert isinstance(error, Ambiguous)
    assert not isinstance(error, Transient)
    assert smtp.copies == {MAIL.message_id: 1}


@pytest.mark.parametrize("code", [100, 199, 300, 354, 399, 600, 999])
async def test_an_answer_to_the_dot_that_makes_no_sense_leaves_the_mail_unknown(
    smtp: FakeSmtp, code: int
) -> None:
    smtp.script(reply("dot", code))
    assert isinstance(await failure(smtp), Ambiguous)


@pytest.mark.parametrize("text", ["banana", "", "25", "\xff\xfe"])
async def test_an_answer_to_the_dot_that_is_no_smtp_leaves_the_mail_unknown(text: str) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in (b"220 x", b"250 x", b"250 x", b"250 x", b"354 x"):
            writer.write(answer + b"\r\n")
            if answer != b"354 x":
                await reader.readuntil(b"\r\n")
        await reader.readuntil(b"\r\n.\r\n")
        writer.write(text.encode("latin-1") + b"\r\n")
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        ended.set()

    ended = asyncio.Event()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        transport = Smtp.from_url(f"smtp://127.0.0.1:{port}?tls=none", limits=IMPATIENT["dot"])
        with pytest.raises(Ambiguous):
            await transport.send(MAIL)
        await ended.wait()


@pytest.mark.parametrize("at", [*BEFORE, "dot"])
@pytest.mark.parametrize("code", [421, 450, 451, 452])
async def test_a_server_that_asks_to_wait_gets_the_mail_later(
    smtp: FakeSmtp, at: Phase, code: int
) -> None:
    smtp.script(reply(at, code, ANGRY), None)
    error = await failure(smtp)
    assert isinstance(error, Transient)
    assert error.code == ("mail_unavailable" if at in {"greeting", "ehlo"} else "mail_deferred")
    assert str(code) in error.detail
    assert smtp.mails == []
    await send(smtp)
    assert smtp.copies == {MAIL.message_id: 1}
    await smtp.idle()


@pytest.mark.parametrize(
    ("at", "code", "phase"),
    [
        ("mail", 550, "sender"),
        ("mail", 553, "sender"),
        ("rcpt", 550, "recipient"),
        ("rcpt", 551, "recipient"),
        ("rcpt", 552, "recipient"),
        ("rcpt", 553, "recipient"),
        ("data", 554, "content"),
        ("dot", 550, "content"),
        ("dot", 552, "content"),
        ("dot", 554, "content"),
    ],
)
async def test_a_server_that_refuses_a_mail_ends_it(
    smtp: FakeSmtp, at: Phase, code: int, phase: str
) -> None:
    smtp.script(reply(at, code, ANGRY))
    error = await failure(smtp)
    assert isinstance(error, Refused)
    assert error.code == "mail_refused"
    assert error.context == {"phase": phase, "reply": str(code), "status": "5.1.1"}
    assert smtp.mails == []
    assert smtp.commands[-1] == "QUIT"


async def test_a_refusal_without_an_enhanced_status_says_so(smtp: FakeSmtp) -> None:
    smtp.script(reply("rcpt", 550, "no"))
    error = await failure(smtp)
    assert isinstance(error, Refused)
    assert error.context["status"] == ""


@pytest.mark.parametrize("at", ["mail", "rcpt", "data", "dot"])
@pytest.mark.parametrize("code", [530, 534, 535, 538])
async def test_a_refusal_that_speaks_of_the_login_does_not_end_the_mail(
    smtp: FakeSmtp, at: Phase, code: int
) -> None:
    smtp.script(reply(at, code))
    error = await failure(smtp)
    assert isinstance(error, Transient)
    assert error.code == "mail_login"


@pytest.mark.parametrize("code", [554, 521])
async def test_a_greeting_that_refuses_us_does_not_end_the_mail(smtp: FakeSmtp, code: int) -> None:
    smtp.script(reply("greeting", code))
    assert isinstance(await failure(smtp), Transient)


@pytest.mark.parametrize(("at", "code"), [("mail", 354), ("rcpt", 354), ("data", 250)])
async def test_nonsense_before_the_dot_leaves_nothing_behind(
    smtp: FakeSmtp, at: Phase, code: int
) -> None:
    smtp.script(reply(at, code))
    error = await failure(smtp)
    assert isinstance(error, Transient)
    assert error.code == "mail_unavailable"
    assert smtp.mails == []


async def test_a_server_may_forward(smtp: FakeSmtp) -> None:
    smtp.script(reply("rcpt", 251, "will forward"))
    await send(smtp)
    assert smtp.copies == {MAIL.message_id: 1}


@pytest.mark.parametrize("tls", ["none", "starttls"])
async def test_the_dot_is_not_sent_while_content_waits_in_this_process(tls: str) -> None:
    async with FakeSmtp(tls=tls, buffer_bytes=2048) as smtp:  # type: ignore[arg-type]
        smtp.script(stall("body"))
        server = Server.parse(smtp.url)
        session = Session(server, server.context(), "localhost", IMPATIENT["body"])
        await session.open()
        transport = session._client.transport
        assert transport is not None
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
        await session.envelope("limner@limner.test", "reader@example.org", 60_000)
        # Less than the 64 KiB that asyncio buffers before it asks a writer to wait.
        with pytest.raises(Transient):
            await session.content(b"x" * 78 + b"\r\n" * 30_000)
        await session.close()


async def test_a_line_that_is_lost_right_after_the_go_ahead_leaves_nothing_behind(
    smtp: FakeSmtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(Server.parse(smtp.url), None, "localhost", PATIENT)
    await session.open()
    await session.envelope("limner@limner.test", "reader@example.org", 3)
    ask = session._client.execute_command

    async def ask_and_lose_the_line(*command: bytes) -> SMTPResponse:
        said = await ask(*command)
        session._client.close()
        return said

    monkeypatch.setattr(session._client, "execute_command", ask_and_lose_the_line)
    with pytest.raises(Transient):
        await session.content(b"x\r\n")
    await session.close()
    await smtp.idle()
    assert smtp.mails == []


async def test_a_line_that_is_lost_right_after_the_greeting_is_transient(
    smtp: FakeSmtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(Server.parse(smtp.url), None, "localhost", PATIENT)
    connect = session._client.connect

    async def connect_and_lose_the_line() -> None:
        await connect()
        session._client.close()

    monkeypatch.setattr(session._client, "connect", connect_and_lose_the_line)
    with pytest.raises(Transient) as caught:
        await session.open()
    assert caught.value.code == "mail_unavailable"
    await session.close()
    await smtp.idle()


@pytest.mark.parametrize(("code", "kind"), [(552, Refused), (451, Transient), (250, Transient)])
async def test_an_answer_in_the_midst_of_the_content_is_heard(
    smtp: FakeSmtp, code: int, kind: type[LimnerError]
) -> None:
    smtp.script(reply("body", code, after_bytes=1000))
    assert isinstance(await failure(smtp, BULK), kind)
    await smtp.idle()
    assert smtp.mails == []


def test_all_time_limits_together_stay_below_that_of_a_job() -> None:
    limits = Limits()
    commands_s = 3 * limits.command_s
    assert limits.connect_s + commands_s + limits.content_s + limits.answer_s + limits.quit_s < 300


async def test_a_failed_goodbye_changes_nothing(smtp: FakeSmtp) -> None:
    smtp.script(close("quit"), reset("quit"), stall("quit"), reply("quit", 500))
    for _ in range(4):
        assert await send(smtp, limits=IMPATIENT["quit"])
    assert smtp.copies == {MAIL.message_id: 4}


async def test_a_server_that_knows_only_helo_is_served() -> None:
    async with FakeSmtp(esmtp=False) as smtp:
        await send(smtp)
        assert smtp.copies == {MAIL.message_id: 1}
        assert "HELO localhost" in smtp.commands
        assert not any("SIZE" in command for command in smtp.commands)


async def test_dots_at_the_start_of_lines_travel_doubled_and_arrive_single(smtp: FakeSmtp) -> None:
    text = ".\r\n..\r\n.hidden\r\nx\r\n.\r\nQUIT\r\n"
    await send(smtp, replace(MAIL, text=text))
    (mail,) = smtp.mails
    assert b"\r\n..\r\n...\r\n..hidden\r\nx\r\n..\r\nQUIT\r\n" in mail.wire
    assert mail.message.get_content().replace("\r\n", "\n") == text.replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (b"a\r\n", b"a\r\n"),
        (b"a", b"a\r\n"),
        (b".", b"..\r\n"),
        (b".\r\n.\r\n", b"..\r\n..\r\n"),
        (b"a.b\r\n..c\r\n", b"a.b\r\n...c\r\n"),
        (b"\r\n.\r\n.\r\n", b"\r\n..\r\n..\r\n"),
    ],
)
def test_stuffing_follows_rfc_5321(message: bytes, wire: bytes) -> None:
    assert stuffed(message) == wire


async def test_the_size_is_told_first_and_a_mail_that_is_too_large_never_sent() -> None:
    async with FakeSmtp(extensions=("SIZE 1000",)) as smtp:
        await send(smtp)
        size = len(smtp.mails[0].content)
        assert f"MAIL FROM:<limner@limner.test> SIZE={size}" in smtp.commands
        smtp.script(reply("mail", 552, "5.3.4 too large"))
        error = await failure(smtp)
        assert isinstance(error, Refused)
        assert error.context["phase"] == "sender"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("250 ok\nqueued", "250 ok queued"),
        ("<a@x.test> unknown", "[address] unknown"),
        ("user=a@x.test; b@y.test", "[address] [address]"),
        ("x\x1b[31m\x00y", "x [31m y"),
        ("a" * 300, "a" * 200),
    ],
)
def test_a_servers_words_are_told_in_one_short_line_without_addresses(text: str, line: str) -> None:
    assert one_line(text) == line

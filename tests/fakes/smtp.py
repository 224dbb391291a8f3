"""A mail server on loopback that fails where it is told to, and keeps every copy it took over."""

import asyncio
import base64
import binascii
import re
import socket
import ssl
import struct
import tempfile
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Literal, Self, cast
from urllib.parse import quote

from tests.fakes.certificates import self_signed

Phase = Literal[
    "greeting", "ehlo", "starttls", "auth", "mail", "rcpt", "data", "body", "dot", "quit"
]
MAX_BYTES = 50_000_000
MAX_LINE_BYTES = 1_000_000


@dataclass(frozen=True)
class Fault:
    """What goes wrong in one connection, and where.

    At ``body`` the server has read ``after_bytes`` of the content. At ``dot`` it has read all of
    it; unless it replies with 4yz or 5yz, it keeps the mail first, as a server does whose answer is
    lost. ``stall`` reads and says nothing more; ``close`` ends the line, ``reset`` breaks it.
    """

    at: Phase
    does: Literal["reply", "stall", "close", "reset"]
    code: int = 250
    text: str = "as told"
    after_bytes: int = 0

    @property
    def keeps(self) -> bool:
        """Whether the mail is taken over although this goes wrong."""
        return self.does != "reply" or self.code < 400


def reply(at: Phase, code: int, text: str = "as told", *, after_bytes: int = 0) -> Fault:
    """Answer the command ``at`` with ``code`` (one line for each line of ``text``)."""
    return Fault(at, "reply", code, text, after_bytes)


def stall(at: Phase, *, after_bytes: int = 0) -> Fault:
    """Stop reading and answering at ``at``."""
    return Fault(at, "stall", after_bytes=after_bytes)


def close(at: Phase, *, after_bytes: int = 0) -> Fault:
    """End the connection at ``at``."""
    return Fault(at, "close", after_bytes=after_bytes)


def reset(at: Phase, *, after_bytes: int = 0) -> Fault:
    """Break the connection with RST at ``at``."""
    return Fault(at, "reset", after_bytes=after_bytes)


@dataclass(frozen=True)
class Received:
    """One copy of a mail."""

    sender: str
    recipients: tuple[str, ...]
    wire: bytes
    content: bytes
    secure: bool
    user: str | None

    @property
    def message(self) -> EmailMessage:
        """The parsed message."""
        return message_from_bytes(self.content, policy=policy.default)

    @property
    def message_id(self) -> str:
        """Its Message-ID."""
        return str(self.message["Message-ID"])


class FakeSmtp:
    """``async with FakeSmtp() as smtp``: then ``smtp.url``, ``smtp.mails``, ``smtp.script(…)``.

    ``tls`` is offered as STARTTLS or spoken from the first byte, with a certificate for 127.0.0.1
    that only ``smtp.ca`` vouches for. ``buffer_bytes`` makes it take in little more than what it
    reads. With ``login`` (user, password) mails need a login, which is
    offered on a secure line only if there is one. ``port`` 0 means any.
    """

    def __init__(
        self,
        *,
        tls: Literal["none", "starttls", "implicit"] = "none",
        login: tuple[str, str] | None = None,
        extensions: tuple[str, ...] = ("8BITMIME", f"SIZE {MAX_BYTES}"),
        esmtp: bool = True,
        port: int = 0,
        buffer_bytes: int | None = None,
    ) -> None:
        self.buffer_bytes = buffer_bytes
        self.tls = tls
        self.login = login
        self.extensions = extensions
        self.esmtp = esmtp
        self.port = port
        self.mails: list[Received] = []
        self.commands: list[str] = []
        self.connections = 0
        self.ca = ""
        self.context: ssl.SSLContext | None = None
        self._faults: deque[Fault | None] = deque()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._transports: set[asyncio.BaseTransport] = set()
        self._news = asyncio.Condition()

    @property
    def url(self) -> str:
        """Its ``LIMNER_MAIL_URL``."""
        login = "".join(f"{quote(part, safe='')}:" for part in self.login or ())[:-1]
        options = f"?tls={self.tls}" + (f"&ca={quote(self.ca)}" if self.ca else "")
        return f"smtp://{login}{'@' if login else ''}127.0.0.1:{self.port}{options}"

    @property
    def copies(self) -> Counter[str]:
        """How many copies of each Message-ID were taken over."""
        return Counter(mail.message_id for mail in self.mails)

    def script(self, *faults: Fault | None) -> None:
        """Let the next connections go wrong, one each in this order; None goes well."""
        self._faults.extend(faults)

    async def idle(self, timeout_s: float = 10) -> None:
        """Wait until every client has hung up."""
        async with asyncio.timeout(timeout_s), self._news:
            await self._news.wait_for(lambda: not self._tasks)

    async def received(self, count: int, timeout_s: float = 10) -> list[Received]:
        """Wait until ``count`` copies have been taken over."""
        async with asyncio.timeout(timeout_s), self._news:
            await self._news.wait_for(lambda: len(self.mails) >= count)
        return self.mails

    async def __aenter__(self) -> Self:
        if self.tls != "none":
            self._certify()
        listening = socket.create_server(("127.0.0.1", self.port))
        if self.buffer_bytes is not None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.buffer_bytes)
        self._server = await asyncio.start_server(
            self._accept,
            sock=listening,
            ssl=self.context if self.tls == "implicit" else None,
            limit=self.buffer_bytes or MAX_LINE_BYTES,
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        server = cast("asyncio.Server", self._server)
        server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=10)
        for transport in self._transports:
            cast("asyncio.WriteTransport", transport).abort()
        await server.wait_closed()
        await asyncio.sleep(0)  # lets the transports that were dropped report it
        if self._folder is not None:
            self._folder.cleanup()

    def _certify(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fake-smtp-")
        folder = Path(self._folder.name)
        certificate, key = self_signed()
        (folder / "cert.pem").write_bytes(certificate)
        (folder / "key.pem").write_bytes(key)
        self.ca = str(folder / "cert.pem")
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(self.ca, str(folder / "key.pem"))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._tasks.add(task)
        self._transports.add(writer.transport)
        self.connections += 1
        fault = self._faults.popleft() if self._faults else None
        try:
            await _Conversation(self, reader, writer, fault).run()
        except (OSError, EOFError, ValueError, asyncio.CancelledError):
            # OSError includes TLS errors. A cancelled handler would be reported by asyncio.
            pass
        finally:
            writer.close()
            self._tasks.discard(task)
        async with self._news:
            self._news.notify_all()

    async def keep(self, mail: Received) -> None:
        """Take a copy over."""
        async with self._news:
            self.mails.append(mail)
            self._news.notify_all()


class _GoneWrong(EOFError):
    """The connection has ended as told."""


class _Conversation:
    """What is said on one connection."""

    def __init__(
        self,
        server: FakeSmtp,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        fault: Fault | None,
    ) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer
        self.fault = fault
        # Under STARTTLS this stays the line below, which can be held still.
        self.line_itself = cast("asyncio.ReadTransport", writer.transport)
        self.secure = server.tls == "implicit"
        self.user: str | None = None
        self.sender: str | None = None
        self.recipients: list[str] = []

    async def run(self) -> None:
        """Greet and answer until the client has enough."""
        await self.say("greeting", 220, "fake.test ESMTP")
        handlers = {
            "EHLO": self.ehlo,
            "HELO": self.helo,
            "STARTTLS": self.starttls,
            "AUTH": self.auth,
            "MAIL": self.mail,
            "RCPT": self.rcpt,
            "DATA": self.data,
        }
        while True:
            line = await self.line()
            self.server.commands.append(line)
            verb = line.split(" ")[0].upper()
            if verb == "QUIT":
                await self.say("quit", 221, "bye")
                return
            if verb in {"NOOP", "RSET"}:
                await self.write(250, "ok")
            elif verb in handlers:
                await handlers[verb](line)
            else:
                await self.write(500, "what?")

    async def line(self) -> str:
        """Read one command; only CRLF ends it."""
        return (await self.reader.readuntil(b"\r\n"))[:-2].decode("utf-8", "replace")

    async def write(self, code: int, text: str) -> None:
        """Answer, over several lines if ``text`` has them."""
        *first, last = text.split("\n")
        lines = [f"{code}-{line}\r\n" for line in first] + [f"{code} {last}\r\n"]
        self.writer.write("".join(lines).encode())
        await self.writer.drain()

    async def say(self, at: Phase, code: int, text: str) -> int:
        """Answer at a step, or do what was told for it. Gives the code that was said."""
        fault = self.fault
        if fault is None or fault.at != at:
            await self.write(code, text)
            return code
        if fault.does == "reply":
            await self.write(fault.code, fault.text)
            if fault.code == 421:
                raise _GoneWrong
            return fault.code
        if fault.does == "stall":
            self.line_itself.pause_reading()
            await asyncio.Event().wait()
        if fault.does == "reset":
            raw = cast("socket.socket", self.writer.get_extra_info("socket"))
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()
        raise _GoneWrong

    async def ehlo(self, _: str) -> None:
        """Name the extensions."""
        if not self.server.esmtp:
            await self.write(502, "never heard of it")
            return
        lines = ["fake.test", *self.server.extensions]
        if self.server.tls == "starttls" and not self.secure:
            lines.append("STARTTLS")
        if self.server.login and (self.secure or self.server.tls == "none"):
            lines.append("AUTH PLAIN LOGIN")
        await self.say("ehlo", 250, "\n".join(lines))

    async def helo(self, _: str) -> None:
        """Greet the old way."""
        await self.write(250, "fake.test")

    async def starttls(self, _: str) -> None:
        """Secure the line."""
        if self.server.tls != "starttls" or self.secure:
            await self.write(502, "not here")
        elif await self.say("starttls", 220, "go ahead") == 220:
            await self.writer.start_tls(cast("ssl.SSLContext", self.server.context))
            self.server._transports.add(self.writer.transport)
            self.secure = True

    async def auth(self, line: str) -> None:
        """Take PLAIN or LOGIN."""
        _, method, *initial = line.split(" ")
        if method.upper() == "PLAIN" and initial:
            _, user, password = _decoded(initial[0]).split("\0")
        elif method.upper() == "LOGIN" and initial:
            user = _decoded(initial[0])
            await self.write(334, "UGFzc3dvcmQ6")
            password = _decoded(await self.line())
        else:
            await self.write(504, "unknown method")
            return
        if (user, password) != self.server.login:
            await self.say("auth", 535, "5.7.8 wrong user or password")
        elif await self.say("auth", 235, "2.7.0 welcome") == 235:
            self.user = user

    async def mail(self, line: str) -> None:
        """Begin an envelope."""
        found = re.fullmatch(r"MAIL FROM:<([^<>]*)>((?: \S+)*)", line)
        size = re.search(r" SIZE=(\d+)", line)
        if found is None:
            await self.write(501, "5.5.4 malformed")
        elif self.server.login and self.user is None:
            await self.write(530, "5.7.0 log in first")
        elif size is not None and int(size[1]) > MAX_BYTES:
            await self.write(552, "5.3.4 too large")
        elif await self.say("mail", 250, "2.1.0 ok") == 250:
            self.sender, self.recipients = found[1], []

    async def rcpt(self, line: str) -> None:
        """Add a recipient."""
        found = re.fullmatch(r"RCPT TO:<([^<>]*)>((?: \S+)*)", line)
        if found is None or self.sender is None:
            await self.write(503 if found else 501, "5.5.1 not now, or not so")
        elif await self.say("rcpt", 250, "2.1.5 ok") in {250, 251}:
            self.recipients.append(found[1])

    async def data(self, _: str) -> None:
        """Read the content up to the line with the dot alone."""
        if not self.recipients:
            await self.write(503, "5.5.1 no recipients")
            return
        if await self.say("data", 354, "end with a dot") != 354:
            return
        fault = self.fault
        wire = bytearray()
        while True:
            if fault and fault.at == "body" and len(wire) >= fault.after_bytes:
                await self.say("body", 250, "")
                fault = None
            line = await self.reader.readuntil(b"\r\n")
            if line == b".\r\n":
                break
            wire += line
        content = re.sub(rb"(?m)^\.", b"", bytes(wire))
        if fault is None or fault.at != "dot" or fault.keeps:
            await self.server.keep(
                Received(
                    sender=self.sender or "",
                    recipients=tuple(self.recipients),
                    wire=bytes(wire),
                    content=content,
                    secure=self.secure,
                    user=self.user,
                )
            )
        self.sender, self.recipients = None, []
        await self.say("dot", 250, f"2.0.0 queued as {len(self.server.mails)}")


def _decoded(text: str) -> str:
    with suppress(binascii.Error, UnicodeDecodeError):
        return base64.b64decode(text, validate=True).decode()
    return ""

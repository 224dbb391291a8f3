"""One SMTP conversation, phase by phase, that always knows whether the final dot is out.

aiosmtplib's ``data()`` sends content and dot in one write and reports one kind of error for both
sides of it. Here the content goes first, while the other side is already being listened to; the dot
is a write of its own, made only when the content has left this process and nobody has objected.
"""

import asyncio
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, cast

from aiosmtplib import SMTP, SMTPException, SMTPHeloError, SMTPResponse, SMTPResponseException
from aiosmtplib.protocol import SMTPProtocol

from limner.actors.mailer.server import Server
from limner.core.errors import Ambiguous, LimnerError, Refused, Transient
from limner.core.failpoints import declare, step

DOT = declare("smtp.dot")
CHUNK_BYTES = 65_536
MAX_REPLY_CHARS = 200

Phase = Literal["sender", "recipient", "content"]
# Answers that speak about the line or the login, not about the mail (RFC 4954 section 6).
_LOGIN_REPLIES = frozenset({530, 534, 535, 538})
_UNKNOWN_COMMAND = frozenset({500, 502, 504, 550})
_COMPLETED = 250
_WILL_FORWARD = 251
_START_INPUT = 354
_BROKE_OFF = "the mail server broke off before the end of the mail"

_ADDRESS = re.compile(r"\S*@\S*")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
_STATUS = re.compile(r"\b[245]\.\d{1,3}\.\d{1,3}\b")


@dataclass(frozen=True, slots=True)
class Limits:
    """How long each phase may last, in seconds (RFC 5321 section 4.5.3.2 has the outer bounds).

    ``connect_s`` holds for connecting, TLS and login together, ``command_s`` for each of the three
    commands after that, ``content_s`` for the whole content, ``answer_s`` for the answer to the
    final dot: the longer it is, the fewer mails stay unknown. All together stay below the default
    time limit of a job, 300 s, which would leave a mail unknown that is known not to be sent.
    """

    connect_s: float = 20.0
    command_s: float = 20.0
    content_s: float = 90.0
    answer_s: float = 90.0
    quit_s: float = 3.0


class Session:
    """One connection for one mail: ``open``, ``envelope``, ``content``, ``close``, in that order.

    The errors are those of ``Transport.send``.
    """

    def __init__(
        self, server: Server, context: ssl.SSLContext | None, name: str, limits: Limits
    ) -> None:
        """Prepare; nothing is opened. ``name`` is the host name we greet with."""
        self._server = server
        self._limits = limits
        self._client = SMTP(
            hostname=server.host,
            port=server.port,
            local_hostname=name,
            timeout=limits.command_s,
            use_tls=server.tls == "implicit",
            start_tls=False,
            tls_context=context,
        )
        self._writer: asyncio.StreamWriter | None = None
        self._between_commands = False

    async def open(self) -> None:
        """Connect, secure the line as demanded, greet, log in."""
        with _told("the mail server cannot be reached", "mail_unavailable"):
            async with asyncio.timeout(self._limits.connect_s):
                await self._client.connect()
                _drain_wholly(self._client.transport)
                await self._greet()
                if self._server.tls == "starttls":
                    with _told("the mail server did not start TLS", "mail_tls"):
                        await self._client.starttls()
                    await self._greet()
                if self._server.user is not None:
                    with _told("the mail server did not accept the login", "mail_login"):
                        await self._client.login(self._server.user, self._server.password or "")
        self._between_commands = True

    async def envelope(self, sender: str, recipient: str, size_bytes: int) -> None:
        """Name the sender and the one recipient, both bare ASCII addresses."""
        size = (b"SIZE=%d" % size_bytes,) if self._client.supports_extension("size") else ()
        await self._ask("sender", b"MAIL", b"FROM:<" + sender.encode("ascii") + b">", *size)
        await self._ask("recipient", b"RCPT", b"TO:<" + recipient.encode("ascii") + b">")

    async def content(self, message: bytes) -> str:
        """Send the message as ``stuffed`` gives it, then the dot; give the server's word.

        Raises:
            Ambiguous: the final dot is out and the connection broke, timed out or talked nonsense.
        """
        await self._ask("content", b"DATA", expected=_START_INPUT)
        self._between_commands = False
        protocol = self._client.protocol
        if protocol is None or protocol.transport is None:
            raise Transient(_BROKE_OFF, code="mail_unavailable")
        answer = asyncio.create_task(protocol.read_response())
        # The transport as it is now: when the task begins, a lost line may have taken it away.
        transport = cast("asyncio.WriteTransport", protocol.transport)
        writing = asyncio.create_task(self._write(protocol, transport, message))
        try:
            await self._reach_dot(writing, answer)
            reply = await self._dot(protocol, answer)
        finally:
            await _ended(writing, answer)
        self._between_commands = reply.code // 100 in {2, 4, 5}
        if reply.code // 100 != 2:
            raise _refusal("content", reply, after_dot=True)
        return _words(reply)

    async def close(self) -> None:
        """Say goodbye if the conversation stands between two commands, and drop the line."""
        transport = self._client.transport
        try:
            if self._between_commands and self._client.is_connected:
                # The mail's fate is known: what happens to the goodbye changes nothing.
                with suppress(SMTPException, OSError, TimeoutError):
                    await self._client.quit(timeout=self._limits.quit_s)
        finally:
            if transport is not None:
                cast("asyncio.WriteTransport", transport).abort()
            self._client.close()

    async def _greet(self) -> None:
        try:
            await self._client.ehlo()
        except SMTPHeloError as error:
            # Only a server that does not know EHLO is greeted the old way, which has no STARTTLS.
            if error.code not in _UNKNOWN_COMMAND or self._server.tls == "starttls":
                raise
            await self._client.helo()

    async def _ask(self, phase: Phase, *command: bytes, expected: int = _COMPLETED) -> None:
        self._between_commands = False
        with _told("the mail server broke off", "mail_unavailable"):
            reply = await self._client.execute_command(*command)
        self._between_commands = True
        if reply.code != expected and (phase, reply.code) != ("recipient", _WILL_FORWARD):
            raise _refusal(phase, reply)

    async def _reach_dot(
        self, writing: "asyncio.Task[None]", answer: "asyncio.Task[SMTPResponse]"
    ) -> None:
        """Wait until all but the dot is out; an answer or an end of line before that is a no."""
        await asyncio.wait(
            {writing, answer},
            timeout=self._limits.content_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        with _told(_BROKE_OFF, "mail_unavailable"):
            if answer.done():
                raise _refusal("content", answer.result())
            if not writing.done():
                raise TimeoutError("it stopped reading")
            writing.result()

    async def _write(
        self, protocol: SMTPProtocol, transport: asyncio.WriteTransport, message: bytes
    ) -> None:
        _drain_wholly(transport)
        loop = asyncio.get_running_loop()
        # Kept until close(): a collected writer closes its transport.
        self._writer = asyncio.StreamWriter(transport, protocol, None, loop)
        end = len(message) - len(b"\r\n")
        for start in range(0, end, CHUNK_BYTES):
            protocol.write(message[start : min(start + CHUNK_BYTES, end)])
            await self._writer.drain()
        # TLS reports a full line below only with the next write: the last line end is that write.
        protocol.write(message[end:])
        await self._writer.drain()

    async def _dot(
        self, protocol: SMTPProtocol, answer: "asyncio.Task[SMTPResponse]"
    ) -> SMTPResponse:
        async with step(DOT):
            with _told(_BROKE_OFF, "mail_unavailable"):
                protocol.write(b".\r\n")
            try:
                async with asyncio.timeout(self._limits.answer_s):
                    return await answer
            except (SMTPException, OSError, TimeoutError) as error:
                raise Ambiguous(
                    f"the whole mail was sent, its answer did not come ({type(error).__name__})",
                    code="mail_ambiguous",
                ) from None


def _drain_wholly(transport: asyncio.BaseTransport | None) -> None:
    """Make ``drain()`` mean that all has left this process, so that the dot waits for it.

    Under STARTTLS that holds for the line below too. TLS from the first byte hides that one: up to
    64 KiB may wait there unseen, and a line that breaks then counts as broken after the dot.
    """
    if transport is not None:
        # 0 would make asyncio's TLS transport pause at an empty buffer.
        cast("asyncio.WriteTransport", transport).set_write_buffer_limits(high=1, low=0)


def one_line(text: str) -> str:
    """Give a server's words as one short line without mail addresses."""
    return _CONTROLS.sub(" ", _ADDRESS.sub("[address]", text)).strip()[:MAX_REPLY_CHARS]


def stuffed(message: bytes) -> bytes:
    """Double the dot at the start of a line (RFC 5321 section 4.5.2) and end the last line.

    Takes lines that end in CRLF, as every message of this package has them.
    """
    message = message.replace(b"\r\n.", b"\r\n..")
    if message.startswith(b"."):
        message = b"." + message
    return message if message.endswith(b"\r\n") else message + b"\r\n"


def _words(reply: SMTPResponse) -> str:
    return one_line(f"{reply.code} {reply.message}")


def _refusal(phase: Phase, reply: SMTPResponse, *, after_dot: bool = False) -> LimnerError:
    """Give what a reply other than the wished one means (RFC 5321 section 4.2.1).

    4yz and replies about the login are Transient, other 5yz Refused. A reply that makes no sense is
    Transient, but Ambiguous after the dot.
    """
    words = _words(reply)
    if 400 <= reply.code < 500:
        return Transient(f"the mail server asks to wait: {words}", code="mail_deferred")
    if reply.code in _LOGIN_REPLIES:
        return Transient(f"the mail server wants another login: {words}", code="mail_login")
    if 500 <= reply.code < 600:
        status = _STATUS.search(reply.message)
        return Refused(
            f"the mail server refused the {phase}: {words}",
            code="mail_refused",
            context={
                "phase": phase,
                "reply": str(reply.code),
                "status": status[0] if status else "",
            },
        )
    if after_dot:
        return Ambiguous(f"the answer to the mail makes no sense: {words}", code="mail_ambiguous")
    return Transient(f"the mail server makes no sense: {words}", code="mail_unavailable")


async def _ended(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel what still runs, wait until it is over, and take note of its error."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()


@contextmanager
def _told(what: str, code: str) -> Iterator[None]:
    """Turn the driver's errors into Transient: up to here the mail cannot have been kept."""
    try:
        yield
    except LimnerError:
        raise
    except SMTPResponseException as error:
        raise Transient(f"{what}: {one_line(f'{error.code} {error.message}')}", code=code) from None
    except (SMTPException, OSError, TimeoutError) as error:
        if isinstance(error, ssl.SSLError) or isinstance(error.__cause__, ssl.SSLError):
            code = "mail_tls"
        # The driver's text may hold an address: it is cleaned, and not chained.
        raise Transient(
            f"{what}: {one_line(str(error)) or type(error).__name__}", code=code
        ) from None

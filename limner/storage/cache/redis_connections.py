"""Connections to a Redis: where it is, a bounded pool, and what its errors mean to us."""

import asyncio
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from redis import exceptions
from redis.asyncio.connection import Connection, SSLConnection

from limner.core.errors import EngineUnavailable, NotConfigured

PORT: Final = 6379
_FORM: Final = "redis://[name:password@]host[:6379][/0], or rediss:// for TLS"


@dataclass(frozen=True)
class Address:
    """Where a Redis is and how to enter; ``ca_file`` verifies it instead of the system's roots."""

    host: str
    port: int
    database: int
    name: str | None
    password: str | None
    tls: bool
    ca_file: str | None

    def __repr__(self) -> str:
        """Give what may be shown: no name, no password."""
        return f"Address({self.host}:{self.port}/{self.database})"


def read_address(url: str) -> Address:
    """Read a Redis URL; ``?ca_file=PATH`` is the only option, and only for TLS.

    Raises:
        NotConfigured: code ``settings``; the sentence says what is wrong, but not the password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or PORT
    except ValueError:
        raise _misread("its host or port cannot be read") from None
    if parts.scheme not in {"redis", "rediss"}:
        raise _misread(f"{parts.scheme or 'nothing'}: is no Redis")
    if not parts.hostname:
        raise _misread("it names no host")
    database = parts.path.removeprefix("/") or "0"
    if not database.isascii() or not database.isdecimal():
        raise _misread("what follows the host is the number of a database")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    ca_file = options.pop("ca_file", None)
    if options or parts.fragment or (ca_file is not None and parts.scheme != "rediss"):
        raise _misread("the only option is ca_file, with rediss")
    return Address(
        host=parts.hostname,
        port=port,
        database=int(database),
        name=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        tls=parts.scheme == "rediss",
        ca_file=ca_file,
    )


def _misread(why: str) -> NotConfigured:
    return NotConfigured(f"LIMNER_CACHE_URL: {why}. It is written {_FORM}", code="settings")


class Connections:
    """A bounded pool, in which every connection carries one call at a time.

    A call that was cancelled or failed takes its connection with it: an answer that nobody has
    read must not become the next call's. Nothing is tried again in here.
    """

    def __init__(self, address: Address, limit: int, call_s: float) -> None:
        self._address = address
        self._call_s = call_s
        self._slots = asyncio.Semaphore(limit)
        self._idle: list[Connection] = []
        self._tls: ssl.SSLContext | None = None
        self._closed = False

    async def call(self, *command: bytes | str | float) -> Any:
        """Send one command and give its answer: bytes, a number or ``None``.

        Raises:
            EngineUnavailable: no answer, or one that says that the server cannot serve.
            NoScriptError: the server does not know the script; the command changed nothing.
        """
        if self._closed:
            raise EngineUnavailable("The cache is closed")
        try:
            async with asyncio.timeout(self._call_s), self._slots:
                return await self._exchange(command)
        except exceptions.NoScriptError:
            raise
        except (TimeoutError, exceptions.TimeoutError) as error:
            raise EngineUnavailable(
                f"The cache did not answer within {self._call_s:g} s"
            ) from error
        except (exceptions.RedisError, OSError) as error:
            raise EngineUnavailable(_sentence(error)) from error
        except RuntimeError as error:
            if not _is_of_closed_line(error):
                raise
            raise EngineUnavailable(_sentence(error)) from error

    async def aclose(self) -> None:
        """Close what is idle now, and the rest as it comes back."""
        self._closed = True
        while self._idle:
            await _close(self._idle.pop(), nowait=False)

    async def _exchange(self, command: tuple[bytes | str | float, ...]) -> Any:
        connection = await self._ready()
        try:
            await connection.send_command(*command)
            answer = await connection.read_response()
        except exceptions.ResponseError:
            await self._give_back(connection)
            raise
        except BaseException:
            await _close(connection)
            raise
        await self._give_back(connection)
        return answer

    async def _ready(self) -> Connection:
        """Give an idle connection that is still good, or open one."""
        while self._idle:
            connection = self._idle.pop()
            try:
                # It has something to read if the server closed it, or if it is out of step.
                if _stands(connection) and not await connection.can_read():
                    return connection
            except (exceptions.RedisError, OSError):
                pass
            except BaseException:
                await _close(connection)
                raise
            await _close(connection)
        connection = await self._make()
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await _close(connection)
            raise
        return connection

    async def _give_back(self, connection: Connection) -> None:
        if self._closed:
            await _close(connection)
        else:
            self._idle.append(connection)

    async def _make(self) -> Connection:
        """Give a connection without time limits of its own: ``call`` has one for everything."""
        address = self._address
        options: dict[str, Any] = {
            "host": address.host,
            "port": address.port,
            "db": address.database,
            "username": address.name,
            "password": address.password,
            "socket_timeout": None,
            "socket_connect_timeout": None,
            "socket_keepalive": True,
            "protocol": 2,
            "driver_info": None,
        }
        if not address.tls:
            return Connection(**options)
        if self._tls is None:
            # Reading the system's roots takes long enough to be felt on the loop.
            self._tls = await asyncio.to_thread(_tls_context, address.ca_file)
        connection = SSLConnection(**options)
        connection.ssl_context.context = self._tls
        return connection


def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Make the context that verifies chain and host name.

    Raises:
        NotConfigured: the file of roots cannot be read.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise _misread(f"ca_file cannot be read ({error.strerror or 'no certificate'})") from None


def _stands(connection: Connection) -> bool:
    """Whether a connection is open as far as this side knows.

    The driver does not look for a line that was reset: every idle one would fail a command.
    """
    reader = connection._reader  # noqa: SLF001 - the driver has no other way to ask
    writer = connection._writer  # noqa: SLF001
    if reader is None or writer is None:
        return False
    return reader.exception() is None and not writer.is_closing()


def _is_of_closed_line(error: RuntimeError) -> bool:
    """Whether uvloop says that a transport or its handle is closed: it has no type for that."""
    return "closed" in str(error)


async def _close(connection: Connection, *, nowait: bool = True) -> None:
    with suppress(exceptions.RedisError, OSError):
        await connection.disconnect(nowait=nowait)


def _sentence(error: Exception) -> str:
    """Say what is wrong with the server, and the mend if the operator has one.

    The sentence may reach a client: no host, no name.
    """
    match error:
        case exceptions.BusyLoadingError():
            return "The cache is still loading its data"
        case exceptions.AuthenticationError() | exceptions.NoPermissionError():
            return (
                "The cache refuses us: LIMNER_CACHE_URL needs a name and password that may use "
                "the keys limner:*"
            )
        case exceptions.OutOfMemoryError():
            return "The cache is full: raise Redis's maxmemory or set its policy to volatile-lru"
        case exceptions.ReadOnlyError():
            return "The cache is a read-only replica: LIMNER_CACHE_URL must name the primary"
        case exceptions.ResponseError():
            return f"The cache fails: {str(error)[:120]}"
        case _:
            return "The cache is out of reach"

"""A web server on loopback that answers byte for byte as told, well or badly.

``async with RawHttp() as server: server.script(ok(b"{}"), cut(), drip())`` answers one connection
after the other; the last entry goes on answering. What came in is kept in ``server.requests``.
"""

import asyncio
import gzip
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

Play = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Received:
    """One request as it came in; names of headers are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


def answer(
    status: int = 200,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    *,
    length: int | None = None,
) -> Play:
    """Answer properly; ``length`` declares another length than the body's."""

    async def play(writer: asyncio.StreamWriter) -> None:
        head = {"Content-Length": str(len(body) if length is None else length), **(headers or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        writer.write(f"HTTP/1.1 {status} Told\r\n{lines}\r\n".encode() + body)
        await writer.drain()

    return play


def ok(body: bytes = b"{}") -> Play:
    """Answer 200 with ``body``."""
    return answer(200, body, {"Content-Type": "application/json"})


def redirect(to: str, status: int = 302) -> Play:
    """Answer with a redirect."""
    return answer(status, b"", {"Location": to})


def bomb(size_bytes: int, encoding: str = "gzip") -> Play:
    """Answer with zeros, compressed a thousandfold."""
    return answer(200, gzip.compress(bytes(size_bytes), 6), {"Content-Encoding": encoding})


def cut() -> Play:
    """Read the request and close without a word."""

    async def play(_: asyncio.StreamWriter) -> None:
        return

    return play


def hang() -> Play:
    """Read the request and never answer."""

    async def play(_: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    return play


def endless() -> Play:
    """Answer with a body, in chunks, that never ends."""

    async def play(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"4000\r\n" + bytes(0x4000) + b"\r\n")
            await writer.drain()

    return play


def drip(
    head: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", *, every_s: float
) -> Play:
    """Send ``head`` and then one byte after the other."""

    async def play(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            await writer.drain()
            await asyncio.sleep(every_s)
            writer.write(b"x")

    return play


class RawHttp:
    """The server; with ``tls`` it speaks https."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Received] = []
        self.connections = 0
        self.port = 0
        self._tls = tls
        self._plays: list[Play] = [ok()]
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def host(self) -> str:
        """Give ``host:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Give the root's URL."""
        return f"{'https' if self._tls else 'http'}://{self.host}/"

    def script(self, *plays: Play) -> None:
        """Answer the next connections so; the last one for good."""
        self._plays = list(plays)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self.connections += 1
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            self.requests.append(await _read(reader))
            play = self._plays.pop(0) if len(self._plays) > 1 else self._plays[0]
            await play(writer)
        writer.close()
        with suppress(OSError, asyncio.CancelledError):
            await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> Received:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, target, _ = lines[0].split(" ")
    headers = {
        name.lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines[1:] if line)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(method, target, headers, body)

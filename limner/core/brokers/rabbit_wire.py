"""The wire below a RabbitMQ connection: reads frames so that no message can end the connection.

The driver decodes the properties of a message while it reads the connection, and one that it
cannot decode (a key that is no UTF-8, a timestamp of the year 300,000, a table 10,000 deep) ends
the connection and with it every consumer; the broker delivers the message again, and so on. The
channels of ours that take messages in therefore get the properties raw, and read them themselves.
"""

import asyncio
from collections import deque
from typing import Any, cast

from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from pamqp.constants import FRAME_HEADER, FRAME_HEADER_SIZE
from yarl import URL

# A broker says how large its frames are (frame_max, 128 KiB unless configured); what is far over
# any such number is not AMQP.
FRAME_LIMIT_BYTES = 1 << 26
FIXED_BYTES = 12
"""Class, weight and body size: what stands before the properties (AMQP 0-9-1, 4.2.6.1)."""
NO_PROPERTIES = b"\0\0"
BARE_SIZE = (FIXED_BYTES + len(NO_PROPERTIES)).to_bytes(4, "big")


class FrameReader:
    """Stands between a socket and the driver, which reads 1, 6 and then all bytes of a frame."""

    def __init__(self, source: asyncio.StreamReader, headers: dict[int, deque[bytes]]) -> None:
        self._source = source
        self._headers = headers
        self._frame = b""
        self._at = 0

    def at_eof(self) -> bool:
        """Whether nothing more can come."""
        return self._at == len(self._frame) and self._source.at_eof()

    async def readexactly(self, count: int) -> bytes:
        """Give the next bytes of a frame that has been read whole."""
        if self._at == len(self._frame):
            await self._next()
        start = self._at
        self._at += count
        return self._frame[start : self._at]

    async def _next(self) -> None:
        head = await self._source.readexactly(FRAME_HEADER_SIZE)
        size_bytes = int.from_bytes(head[3:7], "big")
        if size_bytes > FRAME_LIMIT_BYTES:
            raise ConnectionError(f"a frame of {size_bytes} bytes: this is no AMQP 0-9-1")
        rest = await self._source.readexactly(size_bytes + 1)
        if head[0] == FRAME_HEADER:
            kept = self._headers.get(int.from_bytes(head[1:3], "big"))
            if kept is not None:
                kept.append(rest[:-1])
                head = head[:3] + BARE_SIZE
                rest = rest[:FIXED_BYTES] + NO_PROPERTIES + rest[-1:]
        self._frame, self._at = head + rest, 0


class Wire(TransportFactory):
    """Opens the socket of one connection.

    ``headers`` holds, for each channel number registered in it, the content headers that have
    been read and not been taken: class, weight, body size and properties.
    """

    def __init__(self) -> None:
        self.headers: dict[int, deque[bytes]] = {}
        self._writer: asyncio.StreamWriter | None = None

    async def create(
        self, url: URL, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect, by TLS for ``amqps``."""
        opener = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, self._writer = await opener.create(url, **kwargs)
        return cast("asyncio.StreamReader", FrameReader(reader, self.headers)), self._writer

    @property
    def is_open(self) -> bool:
        """Whether what is written may still arrive."""
        return self._writer is not None and not self._writer.is_closing()

    def write(self, frames: bytes) -> None:
        """Send whole frames now, in the order of the calls; nothing happens if it is closed.

        The driver's own frames take a detour through a queue of its own; whoever waits for their
        answers before writing here keeps the order.
        """
        if self._writer is not None and self.is_open:
            self._writer.write(frames)

    async def drain(self) -> None:
        """Wait while the socket does not take what was written."""
        if self._writer is not None and self.is_open:
            await self._writer.drain()

    def abort(self) -> None:
        """Cut the connection without a word."""
        if self._writer is not None:
            self._writer.transport.abort()

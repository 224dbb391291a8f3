"""A reader of many event streams that costs little: bare sockets, and a count of what comes."""

import asyncio
import select
import socket
import time

from benchmarks.child import Measured, gate
from benchmarks.streams_control import HOST, stored

BUFFER_BYTES = 1 << 18
CONNECT_LIMIT_S = 120.0
IDLE_LIMIT_S = 60.0
AGAIN_S = 0.05
TOLD = b"{"
"""Every event of these streams holds one JSON object without another inside."""


async def read(port: int, place: str, streams: int, wanted: int, control: int) -> Measured:
    """Open streams, wait for the gate, and read until ``wanted`` events came.

    ``place`` is a file that tells the paths and keys; empty for a server that needs none.

    Each request asks for what follows event 1. The end is told to ``control``, a port.

    Raises:
        TimeoutError: a stream did not open, or nothing came for ``IDLE_LIMIT_S``.
    """
    told = stored(place) if place else {}
    paths, keys = told.get("paths") or ["/1"] * streams, told.get("keys") or [""]
    readers, heads = select.epoll(), {}
    for number, path in enumerate(paths):
        connection = await _opened(port, path, keys[number % len(keys)])
        heads[connection.fileno()] = connection
        readers.register(connection, select.EPOLLIN)
    await gate()
    cut = await asyncio.to_thread(_count, readers, heads, wanted)
    reader, writer = await asyncio.open_connection(HOST, control)
    writer.write(b"done\n")
    await reader.read()
    writer.close()
    for connection in heads.values():
        connection.close()
    return {"cut": cut}


def _count(readers: select.epoll, connections: dict[int, socket.socket], wanted: int) -> int:
    """Read until ``wanted`` events came, and give how many streams ended before."""
    buffer, seen, cut = bytearray(BUFFER_BYTES), 0, 0
    while seen < wanted:
        ready = readers.poll(IDLE_LIMIT_S, len(connections))
        if not ready:
            raise TimeoutError(f"{seen} of {wanted} events came")
        for file, _ in ready:
            size_bytes = connections[file].recv_into(buffer)
            if not size_bytes:
                readers.unregister(file)
                cut += 1
            seen += buffer.count(TOLD, 0, size_bytes)
    return cut


async def _opened(port: int, path: str, key: str) -> socket.socket:
    """Open one stream and read its head; what is not yet there, or too busy, is asked again."""
    credential = f"Authorization: Bearer {key}\r\n" if key else ""
    request = f"GET {path} HTTP/1.1\r\nHost: b\r\nLast-Event-ID: 1\r\n{credential}\r\n".encode()
    loop, until_s = asyncio.get_running_loop(), time.perf_counter() + CONNECT_LIMIT_S
    while True:
        connection = socket.socket()
        connection.setblocking(False)
        try:
            await loop.sock_connect(connection, (HOST, port))
            await loop.sock_sendall(connection, request)
            head = await loop.sock_recv(connection, BUFFER_BYTES)
        except ConnectionError:
            head = b""
        if head.startswith(b"HTTP/1.1 200"):
            return connection
        connection.close()
        if time.perf_counter() > until_s:
            raise TimeoutError(head.decode(errors="replace"))
        await asyncio.sleep(AGAIN_S)

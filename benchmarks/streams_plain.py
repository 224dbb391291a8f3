"""Event streams as they are usually written: a queue per connection, with aiohttp or aiohttp-sse.

They are given events that are ready to be sent: the queue holds bytes, or text for the library.
``rung``: each connection is only told that something happened to its object, and reads the rows.
"""

import asyncio
import contextlib
import json
from functools import partial
from pathlib import Path

import aiosqlite
from aiohttp import web
from aiohttp_sse import sse_response

from benchmarks import memory
from benchmarks.child import Measured
from benchmarks.streams_control import HOST, measured
from benchmarks.streams_front import publish
from limner.core.broker import Broker
from limner.core.brokers.embedded import EmbeddedBroker
from limner.core.clock import SystemClock

Queue = asyncio.Queue[str]
HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
SELECT = (
    "SELECT n, type, state, detail, at, data FROM timeline WHERE object_id = ? AND n > ? ORDER BY n"
)
DATA = (
    '{{"step":{n},"note":"about as much as a line of a timeline holds","n":{n},'
    '"at":"2026-11-22T12:00:00.123456Z","state":"running","detail":""}}'
)


class Plain:
    """A server of one of the two kinds."""

    def __init__(self, *, by_library: bool) -> None:
        self.queues: list[Queue] = []
        self.by_object: dict[str, Queue] = {}
        self._by_library = by_library
        self.application = web.Application()
        self.application.router.add_get("/{place}", self._by_sse if by_library else self._by_bytes)

    async def rung(self, rows: aiosqlite.Connection, request: web.Request) -> web.StreamResponse:
        """Serve one who reads the rows of an object of their own."""
        response = web.StreamResponse(headers=HEADERS)
        await response.prepare(request)
        await response.write(b"retry: 3000\n\n")
        ident, queue, last = request.match_info["place"], Queue(), 1
        self.by_object[ident] = queue
        self.queues.append(queue)
        with contextlib.suppress(ConnectionResetError):
            while await queue.get():
                for row in await rows.execute_fetchall(SELECT, (ident, last)):
                    last = row[0]
                    data = json.dumps(
                        {
                            **json.loads(row[5]),
                            "n": last,
                            "at": row[4],
                            "state": row[2],
                            "detail": row[3],
                        }
                    )
                    event = f"id: {last}\nevent: {row[1]}\ndata: {data}\n\n"
                    await response.write(event.encode())
        return response

    async def hear(self, broker: Broker) -> None:
        """Tell the connections of each object of which an event comes."""
        async with broker.subscribe() as events:
            async for envelope in events:
                self.by_object[json.loads(envelope.body)["subject"]["id"]].put_nowait("something")

    async def _by_bytes(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=HEADERS)
        await response.prepare(request)
        await response.write(b"retry: 3000\n\n")
        queue = Queue()
        self.queues.append(queue)
        with contextlib.suppress(ConnectionResetError):
            while True:
                event = await queue.get()
                await response.write(event.encode())
        return response

    async def _by_sse(self, request: web.Request) -> web.StreamResponse:
        async with sse_response(request) as response:
            queue = Queue()
            self.queues.append(queue)
            with contextlib.suppress(ConnectionResetError):
                while response.is_connected():
                    await response.send(await queue.get(), id="2", event="status")
        return response

    def event(self, n: int) -> str:
        """Give an event as the queues hold it."""
        data = DATA.format(n=n)
        return data if self._by_library else f"id: {n}\nevent: status\ndata: {data}\n\n"


async def serve(
    port: int,
    control: int,
    streams: int,
    events: int,
    pause_s: float,
    *,
    by_library: bool,
) -> Measured:
    """Serve ``streams`` connections ``events`` events each, and give what that cost."""
    plain = Plain(by_library=by_library)
    runner = web.AppRunner(plain.application, handler_cancellation=True)
    await runner.setup()
    before_mib = memory.settled_mib()
    await web.TCPSite(runner, HOST, port, backlog=streams).start()

    async def send() -> None:
        for n in range(2, events + 2):
            event = plain.event(n)
            for queue in plain.queues:
                queue.put_nowait(event)
            await asyncio.sleep(pause_s)

    told = await measured(control, before_mib, lambda: len(plain.queues) == streams, send=send)
    await runner.cleanup()
    return told


async def serve_rung(home: str, port: int, control: int, streams: int) -> Measured:
    """Serve ``streams`` connections that are rung by another process and read rows by aiosqlite."""
    plain, broker = Plain(by_library=False), EmbeddedBroker(SystemClock())
    hearing = asyncio.create_task(plain.hear(broker))
    application = web.Application()
    async with aiosqlite.connect(Path(home, "limner.db")) as rows:
        application.router.add_get("/api/tasks/{place}/stream", partial(plain.rung, rows))
        runner = web.AppRunner(application, handler_cancellation=True)
        await runner.setup()
        before_mib = memory.settled_mib()
        await web.TCPSite(runner, HOST, port, backlog=streams).start()
        told = await measured(
            control,
            before_mib,
            lambda: len(plain.queues) == streams,
            take=partial(publish, broker),
        )
        hearing.cancel()
        await runner.cleanup()
    return told

"""Event streams: events per processor second of the server, beside streams as usually written.

``shared``: one object that everybody streams; ``own``: each streams an object of their own.
"""

import socket
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import streams_client, streams_front, streams_plain
from benchmarks.child import PLAIN, UVLOOP, Call, Measured, call, together
from benchmarks.result import Figure, Result, column, ratios
from benchmarks.streams_control import HOST
from benchmarks.streams_front import PLACE_FILE
from limner.http.listener import room

BARE, LIBRARY, SHARED, RUNG, OWN = "bare", "aiohttp-sse", "shared", "bare, rung", "own"
WAYS = (BARE, LIBRARY, SHARED, RUNG, OWN)
GIVEN = (BARE, LIBRARY)
RATIOS = ((SHARED, BARE, 2.0), (SHARED, LIBRARY, 4.0), (OWN, RUNG, 2.0), (OWN, BARE, None))
"""Which way beside which, and what the quotient should be at least."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure: how many events, and how much time between two of a stream.

    ``own_events`` and ``own_pause_s`` are those of streams that each have an object of their own.
    """

    streams: tuple[int, ...] = (1000, 5000)
    events: int = 40
    pause_s: float = 0.1
    own_events: int = 10
    own_pause_s: float = 0.5
    rounds: int = 3
    loops: tuple[str, ...] = (UVLOOP, PLAIN)

    def pace(self, way: str) -> dict[str, Any]:
        """Give the pace of a way, as its functions take it."""
        if way in {RUNG, OWN}:
            return {"events": self.own_events, "pause_s": self.own_pause_s}
        return {"events": self.events, "pause_s": self.pause_s}


FULL = Size()
QUICK = Size(
    (20,), events=3, pause_s=0.02, own_events=3, own_pause_s=0.02, rounds=1, loops=(UVLOOP,)
)


def _ports(count: int) -> list[int]:
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in taken]


async def measure(way: str, loop: str, streams: int, size: Size) -> Measured:
    """Serve ``streams`` connections in one way, and give the cost of it."""
    port, control = _ports(2)
    pace, wanted = size.pace(way), streams * size.pace(way)["events"]
    if way in GIVEN:
        arguments = {"port": port, "control": control, "streams": streams, **pace}
        server = Call(streams_plain.serve, {**arguments, "by_library": way == LIBRARY}, loop)
        return await _told(server, "", port, control, streams, wanted)
    with tempfile.TemporaryDirectory(prefix="limner-bench-") as home:
        objects = 1 if way == SHARED else streams
        await call(streams_front.prepare, home=home, port=port, streams=streams, objects=objects)
        serve = streams_plain.serve_rung if way == RUNG else streams_front.serve
        places = {"home": home, "control": control}
        server = Call(serve, {**places, "port": port, "streams": streams}, loop)
        bell = Call(streams_front.ring, {**places, **pace})
        place = str(Path(home, PLACE_FILE))
        return await _told(server, place, port, control, streams, wanted, bell)


async def _told(
    server: Call, place: str, port: int, control: int, streams: int, wanted: int, *others: Call
) -> Measured:
    client = Call(
        streams_client.read,
        {
            "port": port,
            "place": place,
            "streams": streams,
            "wanted": wanted,
            "control": control,
        },
    )
    (served, read, *_), _ = await together([server, client, *others])
    if read["cut"]:
        raise RuntimeError(f"{read['cut']} streams were cut")
    return {
        "events_per_cpu_s": wanted / served["cpu_s"],
        "kib": served["held_mib"] * 1024 / streams,
    }


async def run(size: Size = FULL) -> Result:
    """Measure all ways in turn, each in a process of its own."""
    # Children may open as many files as this process.
    room()
    figures: list[Figure] = []
    for streams in size.streams:
        for loop in size.loops:
            taken: dict[str, list[Measured]] = {way: [] for way in WAYS}
            for _ in range(size.rounds):
                for way in WAYS:
                    taken[way].append(await measure(way, loop, streams, size))
            figures += _figures(f"{streams}, {loop}", taken)
    return Result(
        "streams",
        "event streams: events per processor second of the server",
        tuple(figures),
        asdict(size),
        (
            "bare: aiohttp's StreamResponse, a queue per connection, events encoded beforehand.",
            "shared, own: the whole front: the event heard, rows read from SQLite, encoded, sent.",
            "bare, rung: bare, and each connection is told of events and reads rows by aiosqlite.",
            "Clients are another process; the lines are committed by a third.",
        ),
    )


def _figures(name: str, taken: dict[str, list[Measured]]) -> list[Figure]:
    speeds = {way: column(rows, "events_per_cpu_s") for way, rows in taken.items()}
    figures = [Figure(f"{name}: {way}", "events/s", speeds[way]) for way in WAYS]
    figures += [
        Figure(f"{name}: {one} ÷ {other}", "×", ratios(speeds[one], speeds[other]), at_least=least)
        for one, other, least in RATIOS
    ]
    return figures + [
        Figure(f"{name}: {way}, growth per connection", "KiB", column(taken[way], "kib"))
        for way in WAYS
    ]

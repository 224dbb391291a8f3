"""The whole chain on servers and embedded: polled, read, submitted, painted, looked after, mailed.

The outside is faked at its ports: a feed on loopback, a painter that has its PNG ready, and the
mailbox in place of a mail server. The ceiling is a bare chain with as many messages.
"""

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import feed, memory, places, servers, service
from benchmarks.child import Call, Measured, gate
from benchmarks.crew import Shift, figures, group_figure, shift
from benchmarks.places import EMBEDDED, NAMES_NOTE, RAW, RAW_PLAIN, REAL
from benchmarks.result import Figure, Result, column, ratios
from benchmarks.servers import Servers
from benchmarks.service import READY
from benchmarks.worker import CONCURRENCY
from limner.core.metrics import Metrics
from limner.storage.sql.unit import SqlUnits

LIMIT_S = 600.0
CEILING = 1.0
BARE = (
    "bare: aio-pika on the same RabbitMQ and MariaDB: a chain of as many messages as one of ours "
    "has, one UPDATE for each, the next published with a confirm."
)
NOT_MESSAGES = "generation"
"""Counts jobs of the generator, which are no messages."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure."""

    comments: int = 500
    rounds: int = 3


FULL = Size()
QUICK = Size(comments=4, rounds=1)


async def serve(feed_url: str, comments: int, database_url: str, broker_url: str) -> Measured:
    """Take ``comments`` from poll to mail in this process."""
    chosen = {"concurrency": CONCURRENCY}
    urls = {"database_url": database_url, "broker_url": broker_url}
    with tempfile.TemporaryDirectory(prefix="limner-bench-") as folder:
        given = {**chosen, **{name: url for name, url in urls.items() if url}}
        async with service.running(Path(folder), feed_url, READY, **given) as ports:
            source = await service.add_source(ports, feed.options(feed_url, "chain", comments))
            await gate()
            cpu_s, started_s = time.process_time(), time.perf_counter()
            await service.poll_to_mail(ports, source, comments, LIMIT_S)
            ended_s = time.perf_counter()
            assert isinstance(ports.units, SqlUnits)
            committer = ports.units.committer
            return {
                "done": comments,
                "started_s": started_s,
                "ended_s": ended_s,
                "cpu_s": time.process_time() - cpu_s,
                "resident_mib": memory.resident_mib(),
                "peak_mib": memory.peak_mib(),
                "group": committer.units / max(1, committer.groups),
                "messages": messages(ports.metrics) / comments,
            }


def messages(metrics: Metrics) -> float:
    """Give how many messages the actors of a process have brought to their fate."""
    return sum(
        sample.value
        for family in metrics.jobs_finished.collect()
        for sample in family.samples
        if sample.name.endswith("_total") and sample.labels["actor"] != NOT_MESSAGES
    )


async def _on_servers(engines: Servers, feed_url: str, comments: int) -> Shift:
    async with engines.place() as place:
        urls = {"database_url": place.database_url, "broker_url": place.broker_url}
        given = {"feed_url": feed_url, "comments": comments, **urls}
        return await shift([Call(serve, given)], engines)


async def _embedded(feed_url: str, comments: int) -> Shift:
    nowhere = {"database_url": "", "broker_url": ""}
    return await shift([Call(serve, {"feed_url": feed_url, "comments": comments, **nowhere})])


async def run(size: Size = FULL) -> Result:
    """Measure Limner on servers, embedded, and bare chains of as many messages in turn."""
    taken: dict[str, list[Shift]] = {name: [] for name in (REAL, EMBEDDED, RAW, RAW_PLAIN)}
    async with servers.running() as engines, feed.serving() as url:
        for _ in range(size.rounds):
            real = await _on_servers(engines, url, size.comments)
            taken[REAL].append(real)
            stages = round(real.told[0]["messages"])
            bare = {"wanted": size.comments, "stages": stages}
            taken[RAW].append(await places.bare(engines, **bare))
            taken[EMBEDDED].append(await _embedded(url, size.comments))
            taken[RAW_PLAIN].append(await places.bare(engines, **bare, plain=True))
    return Result(
        "chain",
        "the whole chain from poll to mail, the outside faked, in one process",
        tuple(_rows(taken)),
        {**asdict(size), "concurrency": f"{CONCURRENCY} per actor"},
        (
            NAMES_NOTE,
            BARE,
        ),
    )


def _rows(taken: dict[str, list[Shift]]) -> list[Figure]:
    found: list[Figure] = []
    bare = {name: tuple(one.per_s for one in taken[name]) for name in (RAW, RAW_PLAIN)}
    for name in (REAL, EMBEDDED):
        rates = tuple(one.per_s for one in taken[name])
        told = [dict(one.told[0]) for one in taken[name]]
        found += figures(name, "chains", taken[name])
        found += [
            Figure(f"{name}: messages", "/chain", column(told, "messages")),
            group_figure(name, taken[name]),
            Figure(f"{name}: ÷ {RAW}", "×", ratios(rates, bare[RAW]), at_least=CEILING),
            Figure(f"{name}: ÷ {RAW_PLAIN}", "×", ratios(rates, bare[RAW_PLAIN])),
        ]
    return (
        found + figures(RAW, "chains", taken[RAW]) + figures(RAW_PLAIN, "chains", taken[RAW_PLAIN])
    )

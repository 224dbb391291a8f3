"""The whole chain: comments of one feed, polled, read, painted by a fake, mailed to the mailbox.

The ceiling is what the same run committed, statement by statement, on a bare sqlite3 connection.
"""

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import feed, memory, service, tape
from benchmarks.child import Measured, call
from benchmarks.result import Figure, Result, column, ratios
from benchmarks.service import READY

LIMIT_S = 600.0
PEAK_MIB = 400.0
GROWTH = 1.3


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure."""

    few: int = 100
    many: int = 1000
    rounds: int = 3


FULL = Size()
QUICK = Size(few=3, many=6, rounds=1)


async def chain(feed_url: str, comments: int) -> Measured:
    """Take ``comments`` from poll to mail in this process."""
    with tempfile.TemporaryDirectory(prefix="limner-bench-") as folder:
        async with service.running(Path(folder), feed_url, READY) as ports:
            source = await service.add_source(ports, feed.options(feed_url, "chain", comments))
            idle_mib, cpu_s = memory.resident_mib(), time.process_time()
            seconds = await service.poll_to_mail(ports, source, comments, LIMIT_S)
            return {
                "seconds": seconds,
                "per_s": comments / seconds,
                "cpu_ms": (time.process_time() - cpu_s) / comments * 1000,
                "idle_mib": idle_mib,
                "peak_mib": memory.peak_mib(),
            }


async def record(feed_url: str, comments: int, folder: str) -> Measured:
    """Do the same once more, untimed, and keep what the database's writer did."""
    with tempfile.TemporaryDirectory(prefix="limner-bench-") as home:
        async with service.running(Path(home), feed_url, READY) as ports:
            source = await service.add_source(ports, feed.options(feed_url, "chain", comments))
            async with tape.recording(Path(folder)) as made:
                await service.poll_to_mail(ports, source, comments, LIMIT_S)
    return {
        "commits": made.commits / comments,
        "statements": made.statements / comments,
        "hops": made.hops / comments,
    }


async def run(size: Size = FULL) -> Result:
    """Measure few and many comments in turn, each followed by its ceiling."""
    counts = (size.few, size.many)
    chains: dict[int, list[Measured]] = {count: [] for count in counts}
    bare: dict[int, list[Measured]] = {count: [] for count in counts}
    async with feed.serving() as url:
        with tempfile.TemporaryDirectory(prefix="limner-bench-") as scratch:
            folders = {count: Path(scratch) / str(count) for count in counts}
            kept = {}
            for count, folder in folders.items():
                folder.mkdir()
                kept[count] = await call(record, feed_url=url, comments=count, folder=str(folder))
            for _ in range(size.rounds):
                for count, folder in folders.items():
                    chains[count].append(await call(chain, feed_url=url, comments=count))
                    bare[count].append(await call(tape.replay, folder=str(folder)))
    figures: list[Figure] = []
    for count in counts:
        figures += _figures(count, chains[count], bare[count], kept[count])
    many_s = [each / size.many for each in column(chains[size.many], "seconds")]
    few_s = [each / size.few for each in column(chains[size.few], "seconds")]
    name = f"growth: time per task, {size.many} ÷ {size.few}"
    figures.append(Figure(name, "×", ratios(many_s, few_s), at_most=GROWTH))
    return Result(
        "comments",
        "the whole chain from poll to mail, painting faked",
        tuple(figures),
        asdict(size),
        (tape.CEILING,),
    )


def _figures(
    count: int, chains: list[Measured], bare: list[Measured], kept: Measured
) -> list[Figure]:
    seconds, ceiling = column(chains, "seconds"), column(bare, "seconds")
    return [
        Figure(f"{count}: poll to all mailed", "s", seconds),
        Figure(f"{count}: tasks", "1/s", column(chains, "per_s")),
        Figure(f"{count}: processor", "ms/task", column(chains, "cpu_ms")),
        Figure(f"{count}: resident, idle", "MiB", column(chains, "idle_mib")),
        Figure(f"{count}: resident, peak", "MiB", column(chains, "peak_mib"), at_most=PEAK_MIB),
        Figure(f"{count}: commits", "/task", (kept["commits"],)),
        Figure(f"{count}: statements in them", "/task", (kept["statements"],)),
        Figure(f"{count}: thread hops of the writer", "/task", (kept["hops"],)),
        Figure(f"{count}: ceiling", "s", ceiling),
        Figure(f"{count}: of the ceiling", "×", ratios(ceiling, seconds)),
    ]

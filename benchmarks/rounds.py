"""Memory over time: the same work round after round in one process, resident memory after each."""

import tempfile
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from benchmarks import feed, memory, service
from benchmarks.child import Measured, call
from benchmarks.result import Figure, Result, column
from benchmarks.service import READY

LIMIT_S = 300.0
FLAT_PERCENT = 5.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure."""

    rounds: int = 10
    comments: int = 100
    processes: int = 3


FULL = Size()
QUICK = Size(rounds=3, comments=3, processes=1)


async def resident(feed_url: str, rounds: int, comments: int) -> Measured:
    """Do ``rounds`` rounds of ``comments`` comments; gives what is resident after each, in MiB."""
    after = []
    with tempfile.TemporaryDirectory(prefix="limner-bench-") as folder:
        async with service.running(Path(folder), feed_url, READY) as ports:
            idle_mib = memory.resident_mib()
            for n in range(rounds):
                options = feed.options(feed_url, f"round{n}", comments)
                source = await service.add_source(ports, options)
                await service.poll_to_mail(ports, source, comments, LIMIT_S)
                after.append(memory.resident_mib())
    return {"idle_mib": idle_mib, "after_mib": after}


async def run(size: Size = FULL) -> Result:
    """Measure in several processes, to tell a leak from the allocator's mood."""
    async with feed.serving() as url:
        taken = [
            await call(resident, feed_url=url, rounds=size.rounds, comments=size.comments)
            for _ in range(size.processes)
        ]
    after = [each["after_mib"] for each in taken]
    figures = [Figure("resident, idle", "MiB", column(taken, "idle_mib"))]
    figures += [
        Figure(f"resident after round {n + 1}", "MiB", tuple(each[n] for each in after))
        for n in range(size.rounds)
    ]
    name = f"growth, round 2 to {size.rounds}"
    percents = tuple((each[-1] / each[1] - 1) * 100 for each in after)
    figures.append(Figure(name, "%", percents, at_most=FLAT_PERCENT))
    steps = tuple(
        median(late - early for early, late in pairwise(each[1:])) / size.comments * 1024
        for each in after
    )
    figures.append(Figure("growth, median round", "KiB/comment", steps))
    return Result(
        "rounds",
        "resident memory of one process, round after round",
        tuple(figures),
        asdict(size),
        ("The first round fills caches and pools; it is not counted.",),
    )

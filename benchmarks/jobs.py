"""Jobs that do nothing: run and acknowledged per second by one worker, against bare aio-pika.

Each is delivered, read, handled, committed (the row that says it was handled) and acknowledged.
"""

from dataclasses import asdict, dataclass

from benchmarks import places, servers
from benchmarks.crew import RESIDENT_MIB, Shift, figures, group_figure
from benchmarks.places import EMBEDDED, NAMES_NOTE, RAW, RAW_PLAIN, REAL
from benchmarks.result import Figure, Result, ratios
from benchmarks.worker import CONCURRENCY

CEILING = 0.8
BARE = (
    "bare: aio-pika on the same RabbitMQ, as everyone writes it, on either event loop: a durable "
    "quorum queue, prefetch 100, each message acknowledged alone; no database."
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure."""

    jobs: int = 10_000
    rounds: int = 3


FULL = Size()
QUICK = Size(jobs=50, rounds=1)


async def run(size: Size = FULL) -> Result:
    """Measure Limner on servers, embedded, and bare aio-pika in turn."""
    taken: dict[str, list[Shift]] = {name: [] for name in (REAL, EMBEDDED, RAW, RAW_PLAIN)}
    async with servers.running() as engines:
        for _ in range(size.rounds):
            taken[REAL].append(await places.on_servers(engines, "jobs", size.jobs))
            taken[RAW].append(await places.bare(engines, size.jobs))
            taken[EMBEDDED].append(await places.embedded("jobs", size.jobs))
            taken[RAW_PLAIN].append(await places.bare(engines, size.jobs, plain=True))
    return Result(
        "jobs",
        "jobs that do nothing: delivered, handled, committed, acknowledged by one worker",
        tuple(rows(taken, "jobs", CEILING)),
        {**asdict(size), "concurrency": CONCURRENCY},
        (
            NAMES_NOTE,
            BARE,
        ),
    )


def rows(taken: dict[str, list[Shift]], what: str, at_least: float) -> list[Figure]:
    """Give the figures of Limner's two rows, with their ratios, and of the two bare ones."""
    bare = {name: tuple(one.per_s for one in taken[name]) for name in (RAW, RAW_PLAIN)}
    found: list[Figure] = []
    for name in (REAL, EMBEDDED):
        rates = tuple(one.per_s for one in taken[name])
        found += figures(name, what, taken[name], resident_at_most=RESIDENT_MIB)
        found += [
            group_figure(name, taken[name]),
            Figure(f"{name}: ÷ {RAW}", "×", ratios(rates, bare[RAW]), at_least=at_least),
            Figure(f"{name}: ÷ {RAW_PLAIN}", "×", ratios(rates, bare[RAW_PLAIN])),
        ]
    return found + figures(RAW, what, taken[RAW]) + figures(RAW_PLAIN, what, taken[RAW_PLAIN])

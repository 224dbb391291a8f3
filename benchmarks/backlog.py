"""A thousand to a hundred thousand messages that wait: how fast one worker handles them all.

On servers they wait in RabbitMQ; embedded they wait in the outbox, from where the relay of a
process that has just started brings them.
"""

from dataclasses import asdict, dataclass

from benchmarks import places, servers
from benchmarks.crew import RESIDENT_MIB, Shift, figures
from benchmarks.places import EMBEDDED, NAMES_NOTE, REAL
from benchmarks.result import Figure, Result, ratios
from benchmarks.worker import CONCURRENCY

LEAST = 0.8


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure: each backlog is handled to its end."""

    backlogs: tuple[int, ...] = (1_000, 10_000, 100_000)
    rounds: int = 3


FULL = Size()
QUICK = Size(backlogs=(20, 40, 400), rounds=1)


async def run(size: Size = FULL) -> Result:
    """Measure all backlogs in turn, on servers and embedded."""
    taken: dict[tuple[str, int], list[Shift]] = {
        (name, waiting): [] for name in (REAL, EMBEDDED) for waiting in size.backlogs
    }
    async with servers.running() as engines:
        for _ in range(size.rounds):
            for (name, waiting), shifts in taken.items():
                shifts.append(
                    await places.on_servers(engines, "jobs", waiting)
                    if name == REAL
                    else await places.embedded("jobs", waiting, in_memory=False)
                )
    found: list[Figure] = []
    for (name, waiting), shifts in taken.items():
        label = f"{name}, {waiting:,} wait"
        found += figures(label, "jobs", shifts, resident_at_most=RESIDENT_MIB)
    for name in (REAL, EMBEDDED):
        rates = [tuple(one.per_s for one in taken[name, waiting]) for waiting in size.backlogs]
        told = f"{name}, growth: rate with {size.backlogs[-1]:,} ÷ with {size.backlogs[-2]:,}"
        found.append(Figure(told, "×", ratios(rates[-1], rates[-2]), at_least=LEAST))
    return Result(
        "backlog",
        "messages that wait, and the rate of one worker meanwhile",
        tuple(found),
        {**asdict(size), "concurrency": CONCURRENCY},
        (NAMES_NOTE, "embedded: the worker has just started; the outbox holds what waits."),
    )

"""Chains of five jobs: each moves a row under a guard, adds to its timeline and sends the next.

One worker against bare aio-pika with one bare UPDATE per stage: no guard, no timeline, no outbox,
no row that says what was handled, and events for nobody.
"""

from dataclasses import asdict, dataclass

from benchmarks import jobs, places, servers
from benchmarks.crew import Shift
from benchmarks.places import EMBEDDED, NAMES_NOTE, RAW, RAW_PLAIN, REAL
from benchmarks.result import Result
from benchmarks.worker import CONCURRENCY, MOVES

CEILING = 1.0
BARE = (
    "bare: aio-pika on the same RabbitMQ and MariaDB, on either event loop: one UPDATE and one "
    "message with a confirm per stage, nothing in one transaction."
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure."""

    chains: int = 2000
    rounds: int = 3


FULL = Size()
QUICK = Size(chains=10, rounds=1)


async def run(size: Size = FULL) -> Result:
    """Measure Limner on servers, embedded, and bare aio-pika in turn."""
    taken: dict[str, list[Shift]] = {name: [] for name in (REAL, EMBEDDED, RAW, RAW_PLAIN)}
    async with servers.running() as engines:
        for _ in range(size.rounds):
            taken[REAL].append(await places.on_servers(engines, "chain5", size.chains))
            taken[RAW].append(await places.bare(engines, size.chains, stages=MOVES))
            taken[EMBEDDED].append(await places.embedded("chain5", size.chains))
            taken[RAW_PLAIN].append(
                await places.bare(engines, size.chains, stages=MOVES, plain=True)
            )
    return Result(
        "chain5",
        "chains of five jobs, each a unit of work that sends the next, by one worker",
        tuple(jobs.rows(taken, "chains", CEILING)),
        {**asdict(size), "stages": MOVES, "concurrency": CONCURRENCY},
        (
            NAMES_NOTE,
            BARE,
            "A unit: guarded move, timeline, rows of inbox and outbox, message, event.",
        ),
    )

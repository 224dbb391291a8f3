"""Two worker processes against one, on the same servers."""

from dataclasses import asdict, dataclass

from benchmarks import machine, places, servers
from benchmarks.crew import RESIDENT_MIB, Shift, figures
from benchmarks.result import Figure, Result, ratios
from benchmarks.worker import CONCURRENCY

KINDS = {"jobs": "jobs", "chain5": "chains"}
CREWS = (1, 2)
SHARED = (
    "Workers share the cores with RabbitMQ and MariaDB: where all shares together come near the "
    "number of cores, a second worker has no room to be faster."
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure."""

    jobs: int = 10_000
    chains: int = 2000
    rounds: int = 3

    def of(self, kind: str) -> int:
        """Give the number of one kind."""
        return self.jobs if kind == "jobs" else self.chains


FULL = Size()
QUICK = Size(jobs=50, chains=10, rounds=1)


async def run(size: Size = FULL) -> Result:
    """Measure one and two workers in turn, of each kind."""
    taken: dict[tuple[str, int], list[Shift]] = {
        (kind, crew): [] for kind in KINDS for crew in CREWS
    }
    async with servers.running() as engines:
        for _ in range(size.rounds):
            for (kind, crew), shifts in taken.items():
                shifts.append(await places.on_servers(engines, kind, size.of(kind), workers=crew))
    found: list[Figure] = []
    for kind, what in KINDS.items():
        for crew in CREWS:
            name = f"{kind}, {crew} worker{'s' if crew > 1 else ''}"
            shifts = taken[kind, crew]
            found += figures(name, what, shifts, resident_at_most=RESIDENT_MIB)
            found += _shares(name, shifts)
        rates = [tuple(one.per_s for one in taken[kind, crew]) for crew in CREWS]
        found.append(Figure(f"{kind}: 2 workers ÷ 1", "×", ratios(rates[1], rates[0])))
    return Result(
        "workers",
        "two worker processes against one, on RabbitMQ and MariaDB",
        tuple(found),
        {**asdict(size), "concurrency": f"{CONCURRENCY} each", "cores": machine.cores()},
        (SHARED,),
    )


def _shares(name: str, shifts: list[Shift]) -> list[Figure]:
    """Give how much of one core workers and servers used."""
    used = {"workers": tuple(one.core_percent(one.cpu_s) for one in shifts)}
    for server in shifts[0].servers_s:
        used[server] = tuple(one.core_percent(one.servers_s[server]) for one in shifts)
    every = tuple(sum(each) for each in zip(*used.values(), strict=True))
    return [
        *(Figure(f"{name}: core of {who}", "% of 1", shares) for who, shares in used.items()),
        Figure(f"{name}: cores together", "% of 1", every),
    ]

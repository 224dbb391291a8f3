"""How late the event loop runs its timers: idle, while the studio paints, while the service does.

Two probes at once: a timer of our own every 5 ms, and the histogram that the server publishes as
``limner_event_loop_lag_seconds``.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import service
from benchmarks.child import Measured, call
from benchmarks.result import Figure, Result, column, quantile, ratios
from limner.actors.generator.messages import Generate
from limner.actors.generator.painter import Order
from limner.actors.generator.studio import Studio
from limner.core.metrics import LAG_BUCKETS, Metrics
from limner.storage.sql.accounts import OWNER_ID
from limner.storage.sql.jobs import SUCCEEDED, Job

PROBE_S = 0.005
LIMIT_S = 300.0
LOOK_S = 0.05
P99_MS = 50.0
SIDE_PX = 256
STEPS = 8
GUIDANCE = 2.0
FRAMES = 16
PROMPTS = ("a red circle on a white background", "a boat with a blue sail on the sea")
PHASES = ("idle", "studio", "service")


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure."""

    pictures: int = 64
    videos: int = 2
    idle_s: float = 5.0
    rounds: int = 3


FULL = Size()
QUICK = Size(pictures=2, videos=1, idle_s=0.3, rounds=1)


@dataclass
class Probe:
    """What the two probes saw in one phase."""

    late_s: list[float] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)
    seconds: float = 0.0

    def told(self) -> Measured:
        """Give it in milliseconds; the histogram's p99 is the upper bound of its bucket."""
        return {
            "p50_ms": quantile(self.late_s, 0.5) * 1000,
            "p99_ms": quantile(self.late_s, 0.99) * 1000,
            "max_ms": max(self.late_s) * 1000,
            "published_p99_ms": bucket_of(self.metrics, 0.99) * 1000,
            "seconds": self.seconds,
        }


@asynccontextmanager
async def probing() -> AsyncIterator[Probe]:
    """Probe the running loop while the block runs."""
    probe, stop = Probe(), asyncio.Event()

    async def tick() -> None:
        while not stop.is_set():
            started = time.perf_counter()
            await asyncio.sleep(PROBE_S)
            probe.late_s.append(max(0.0, time.perf_counter() - started - PROBE_S))

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        group.create_task(tick())
        group.create_task(probe.metrics.watch_loop(stop))
        try:
            yield probe
        finally:
            stop.set()
            probe.seconds = time.perf_counter() - started


def bucket_of(metrics: Metrics, part: float) -> float:
    """Give the bound in seconds of the bucket with the ``part`` quantile; 0 without samples."""
    samples = {
        sample.labels["le"]: sample.value
        for family in metrics.event_loop_lag.collect()
        for sample in family.samples
        if sample.name.endswith("_bucket")
    }
    wanted = samples["+Inf"] * part
    bounds = (bound for bound in LAG_BUCKETS if samples[_label(bound)] >= wanted)
    return next(bounds, float("inf")) if wanted else 0.0


def _label(bound: float) -> str:
    return str(float(bound))


async def idle(seconds: float) -> Measured:
    """Probe a loop that has nothing else to do."""
    async with probing() as probe:
        await asyncio.sleep(seconds)
    return probe.told()


async def studio(pictures: int, videos: int) -> Measured:
    """Probe while the studio loads the model and paints."""
    chosen = Studio("builtin", "cpu")
    orders = [order(n, "image") for n in range(pictures)]
    try:
        async with probing() as probe:
            for start in range(0, pictures, chosen.max_batch):
                await chosen.paint(orders[start : start + chosen.max_batch], _go_on)
            for n in range(videos):
                await chosen.paint([order(n, "video")], _go_on)
    finally:
        await chosen.aclose()
    return probe.told()


async def whole(pictures: int, videos: int) -> Measured:
    """Probe while a whole service takes, claims, paints and stores the same jobs.

    Raises:
        NotFinished: not all succeeded in time.
    """
    with tempfile.TemporaryDirectory(prefix="limner-bench-") as folder:
        async with service.running(Path(folder)) as ports, probing() as probe:
            work = ports.units.open("benchmark")
            for n in range(pictures + videos):
                work.send(_wish(n, "image" if n < pictures else "video"))
            await ports.units.commit(work)
            started = time.perf_counter()
            while await Job.filter(state=SUCCEEDED).count() < pictures + videos:
                await asyncio.sleep(LOOK_S)
                if time.perf_counter() - started > LIMIT_S:
                    states = await Job.all().values_list("state", "error")
                    raise service.NotFinished(f"jobs: {states}")
    return probe.told()


def order(n: int, media: str) -> Order:
    """Give an order; ``n`` chooses prompt and seed."""
    return Order(
        job_id=f"job-{n}",
        media=media,
        prompt=PROMPTS[n % len(PROMPTS)],
        negative_prompt="",
        width=SIDE_PX,
        height=SIDE_PX,
        steps=STEPS,
        guidance=GUIDANCE,
        seed=n,
        count=1,
        frames=FRAMES,
        fps=FRAMES,
    )


def _wish(n: int, kind: Any) -> Generate:
    prompt = PROMPTS[n % len(PROMPTS)]
    return Generate(user=OWNER_ID, kind=kind, prompt=prompt, steps=STEPS, seed=n, frames=FRAMES)


def _go_on(job_id: str, step: int, steps: int) -> bool:
    del job_id, step, steps
    return True


async def run(size: Size = FULL) -> Result:
    """Measure the phases in turn, each in a process of its own."""
    taken: dict[str, list[Measured]] = {phase: [] for phase in PHASES}
    for _ in range(size.rounds):
        taken["idle"].append(await call(idle, seconds=size.idle_s))
        amount = {"pictures": size.pictures, "videos": size.videos}
        taken["studio"].append(await call(studio, **amount))
        taken["service"].append(await call(whole, **amount))
    figures = [figure for phase in PHASES for figure in _figures(phase, taken[phase])]
    quiet = column(taken["idle"], "p99_ms")
    figures += [
        Figure(f"{phase}: p99 ÷ idle p99", "×", ratios(column(taken[phase], "p99_ms"), quiet))
        for phase in PHASES[1:]
    ]
    return Result(
        "lag",
        "how late timers run while pictures are painted",
        tuple(figures),
        asdict(size),
        (
            "studio: the model alone in its thread, loading it included.",
            "service: the same jobs through messages, database, leases and object store.",
            "published: upper bound of the bucket of limner_event_loop_lag_seconds.",
        ),
    )


def _figures(phase: str, taken: Sequence[Measured]) -> list[Figure]:
    at_most = None if phase == "idle" else P99_MS
    return [
        Figure(f"{phase}: p50", "ms", column(taken, "p50_ms")),
        Figure(f"{phase}: p99", "ms", column(taken, "p99_ms"), at_most=at_most),
        Figure(f"{phase}: most", "ms", column(taken, "max_ms")),
        Figure(f"{phase}: published p99", "ms", column(taken, "published_p99_ms")),
        Figure(f"{phase}: took", "s", column(taken, "seconds")),
    ]

"""Workers of a measurement as one: what they did together, and what it cost, servers included."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.child import Call, together
from benchmarks.result import Figure
from benchmarks.servers import Servers

RESIDENT_MIB = 76.0
"""80 MB, what a worker without onnxruntime may hold."""


@dataclass(frozen=True)
class Shift:
    """One round of a crew; ``servers_s`` are the processor seconds of each server by name."""

    done: int
    seconds: float
    cpu_s: float
    resident_mib: float
    peak_mib: float
    servers_s: Mapping[str, float] = field(default_factory=dict)
    told: Sequence[Mapping[str, Any]] = ()

    @property
    def per_s(self) -> float:
        """How many were done in a second."""
        return self.done / self.seconds

    def per_thousand_ms(self, seconds: float) -> float:
        """Give processor seconds of the whole shift as milliseconds for a thousand."""
        return seconds * 1000 * 1000 / self.done

    def core_percent(self, seconds: float) -> float:
        """Give processor seconds of the whole shift as a share of one core."""
        return 100 * seconds / self.seconds


async def shift(calls: Sequence[Call], servers: Servers | None = None) -> Shift:
    """Run workers side by side and add up what they told."""
    usage = servers.usage if servers is not None else dict
    told, used = await together(calls, usage=usage)
    ended_s = max(each["ended_s"] for each in told)
    return Shift(
        done=sum(each["done"] for each in told),
        seconds=ended_s - min(each["started_s"] for each in told),
        cpu_s=sum(each["cpu_s"] for each in told),
        resident_mib=max(each["resident_mib"] for each in told),
        peak_mib=max(each["peak_mib"] for each in told),
        servers_s=used,
        told=told,
    )


def figures(
    name: str, what: str, shifts: Sequence[Shift], *, resident_at_most: float | None = None
) -> list[Figure]:
    """Give the rate, the processor time of workers and servers, and the memory of a row."""
    rows = [
        Figure(f"{name}: {what}", "1/s", tuple(one.per_s for one in shifts)),
        Figure(
            f"{name}: worker's processor",
            f"ms/1000 {what}",
            tuple(one.per_thousand_ms(one.cpu_s) for one in shifts),
        ),
    ]
    for server in shifts[0].servers_s:
        used = tuple(one.per_thousand_ms(one.servers_s[server]) for one in shifts)
        # A server that has no part in it may use nothing at all.
        if any(used):
            rows.append(Figure(f"{name}: {server}'s processor", f"ms/1000 {what}", used))
    resident = tuple(one.resident_mib for one in shifts)
    rows.append(Figure(f"{name}: worker resident", "MiB", resident, at_most=resident_at_most))
    return rows


def group_figure(name: str, shifts: Sequence[Shift]) -> Figure:
    """Give the mean number of units in a commit."""
    means = tuple(float(one.told[0]["group"]) for one in shifts)
    return Figure(f"{name}: units to a commit", "mean", means)

"""What a benchmark gives: figures with their samples, and what they were taken with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity, measured once per round; ``at_most`` and ``at_least`` are what it should be."""

    name: str
    unit: str
    samples: tuple[float, ...]
    at_most: float | None = None
    at_least: float | None = None

    @property
    def median(self) -> float:
        """The middle of the samples."""
        return median(self.samples)

    @property
    def met(self) -> bool | None:
        """Whether the median is within its bounds; None if it has none."""
        if self.at_most is None and self.at_least is None:
            return None
        low = self.at_least is None or self.median >= self.at_least
        return low and (self.at_most is None or self.median <= self.at_most)

    def as_json(self) -> dict[str, Any]:
        """Give it for ``--json``."""
        return {
            "name": self.name,
            "unit": self.unit,
            "median": self.median,
            "samples": list(self.samples),
            "at_most": self.at_most,
            "at_least": self.at_least,
            "met": self.met,
        }


@dataclass(frozen=True, slots=True)
class Result:
    """A benchmark's figures; ``numbers`` are the sizes it ran with, ``notes`` how to read it."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    numbers: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def figure(self, name: str) -> Figure:
        """Give a figure by its name.

        Raises:
            KeyError: there is none.
        """
        for figure in self.figures:
            if figure.name == name:
                return figure
        raise KeyError(name)

    def as_json(self) -> dict[str, Any]:
        """Give it for ``--json``."""
        return {
            "name": self.name,
            "title": self.title,
            "numbers": self.numbers,
            "notes": list(self.notes),
            "figures": [figure.as_json() for figure in self.figures],
        }


def column(rows: Sequence[dict[str, Any]], name: str) -> tuple[float, ...]:
    """Give one key of many measurements."""
    return tuple(float(row[name]) for row in rows)


def ratios(above: Sequence[float], below: Sequence[float]) -> tuple[float, ...]:
    """Give the quotients of two columns, round by round."""
    return tuple(one / other for one, other in zip(above, below, strict=True))


def quantile(samples: Sequence[float], part: float) -> float:
    """Give the smallest sample that at least ``part`` (0 to 1) of them do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]

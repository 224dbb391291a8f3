"""PORT: what makes pictures, as the generator needs it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

Report = Callable[[str, int, int], bool]
"""Called as ``report(job_id, step, steps)`` from any thread; False leaves the job out."""


@dataclass(frozen=True, slots=True)
class Order:
    """One job to paint; sizes in pixels. Orders with the same ``batch_key`` go together."""

    job_id: str
    media: str
    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance: float
    seed: int
    count: int
    frames: int
    fps: int

    @property
    def batch_key(self) -> tuple[object, ...]:
        """What the jobs of one batch have in common."""
        return (self.media, self.width, self.height, self.steps, self.guidance == 1)


@dataclass(frozen=True, slots=True)
class Output:
    """One finished file; ``poster`` is a video's first frame as PNG."""

    content: bytes = field(repr=False)
    content_type: str
    width: int
    height: int
    blurhash: str
    poster: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Painting:
    """What came of an order; None instead of outputs if it was left out."""

    outputs: tuple[Output, ...] | None
    warnings: tuple[str, ...] = ()


class Painter(Protocol):
    """Paints batches, one at a time."""

    @property
    def max_batch(self) -> int:
        """How many pictures one batch may have."""
        ...

    @property
    def device(self) -> str:
        """Where it runs, e.g. ``cpu``."""
        ...

    @property
    def model_hash(self) -> str:
        """The SHA-256 of the model's files, in hex; empty until it is loaded."""
        ...

    async def paint(self, orders: Sequence[Order], report: Report) -> list[Painting]:
        """Paint all orders, which share a batch key, and give one painting each, in their order.

        Cancelling the call ends the run within a step.

        Raises:
            NotConfigured: the model cannot be loaded.
            Invalid: an order is out of the model's bounds.
        """
        ...

    async def aclose(self) -> None:
        """Let go of the model and its thread."""
        ...

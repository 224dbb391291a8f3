"""A painter without a model: it paints at once, fails, or holds its brush until it is told."""

import asyncio
from collections import deque
from collections.abc import Sequence

from limner.actors.generator.painter import Order, Output, Painting, Report

STEP_S = 0.005


class Held:
    """A batch that is not finished before ``go`` is set; meanwhile each step is reported."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.painting = asyncio.Event()
        self.broken_off = False


class FakePainter:
    """``painter.script(error, held)`` says how the next batches go; then all go well.

    ``batches`` are the orders of each batch, in the order of the calls. An order's files hold its
    prompt and their number, so that a test sees whose they are.
    """

    device = "easel"
    model_hash = "f" * 64

    def __init__(self, max_batch: int = 8) -> None:
        self.max_batch = max_batch
        self.batches: list[list[Order]] = []
        self.closed = False
        self._script: deque[Exception | Held | None] = deque()

    def script(self, *strokes: Exception | Held | None) -> None:
        """Let the next batches fail, be held, or go well, one each in this order."""
        self._script.extend(strokes)

    @property
    def painted(self) -> list[list[str]]:
        """Give the prompts of each batch."""
        return [[order.prompt for order in orders] for orders in self.batches]

    async def paint(self, orders: Sequence[Order], report: Report) -> list[Painting]:
        """Paint, as the port says."""
        self.batches.append(list(orders))
        stroke = self._script.popleft() if self._script else None
        if isinstance(stroke, Exception):
            raise stroke
        left: set[str] = set()
        if isinstance(stroke, Held):
            await self._hold(stroke, orders, report, left)
        for order in orders:
            if not report(order.job_id, order.steps, order.steps):
                left.add(order.job_id)
        return [_painting(order, left) for order in orders]

    async def _hold(
        self, held: Held, orders: Sequence[Order], report: Report, left: set[str]
    ) -> None:
        held.painting.set()
        try:
            while not held.go.is_set() and len(left) < len(orders):
                await asyncio.sleep(STEP_S)
                for order in orders:
                    if order.job_id not in left and not report(order.job_id, 1, order.steps):
                        left.add(order.job_id)
        except asyncio.CancelledError:
            held.broken_off = True
            raise

    async def aclose(self) -> None:
        """Remember it."""
        self.closed = True


def _painting(order: Order, left: set[str]) -> Painting:
    if order.job_id in left:
        return Painting(None)
    video = order.media == "video"
    outputs = tuple(
        Output(
            content=f"{order.prompt} {n}".encode(),
            content_type="video/webm" if video else "image/png",
            width=order.width,
            height=order.height,
            blurhash="L",
            poster=b"the first frame" if video else None,
        )
        for n in range(order.count)
    )
    return Painting(outputs, ("a warning",) if "strange" in order.prompt else ())

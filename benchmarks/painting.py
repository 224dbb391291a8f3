"""Pictures per second through the studio, against the bare runs of the model that they need.

The ceiling does the same number of UNet evaluations on the same number of rows with onnxruntime's
own ``session.run`` and nothing else: no text, no scheduler, no decoder, no PNG.
"""

import asyncio
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnxruntime

from benchmarks import memory
from benchmarks.child import Measured, call
from benchmarks.lag import order
from benchmarks.result import Figure, Result, column, ratios
from limner.actors.generator.pipeline import DEFAULT_STEPS, Pipeline
from limner.actors.generator.sessions import CPU, ELEMENT_TYPES, default_threads
from limner.actors.generator.studio import Studio

ROWS_PER_PICTURE = 2
"""Guided: once with the wish and once without."""

SEED = 1


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure."""

    pictures: int = 32
    batches: tuple[int, ...] = (1, 4, 8)
    rounds: int = 3


FULL = Size()
QUICK = Size(pictures=2, batches=(1, 2), rounds=1)


class BareSession:
    """The generator part of the built-in model with inputs at hand, as the server loads it."""

    def __init__(self, pipeline: Pipeline, batch: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = default_threads()
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            str(pipeline.folder.weights("unet")), options, providers=[CPU]
        )
        rows, numbers = batch * ROWS_PER_PICTURE, np.random.default_rng(SEED)
        texts = pipeline.embed(["a red circle"])
        values: dict[str, Any] = {
            "sample": numbers.standard_normal((rows, *pipeline.latent_shape)),
            "timestep": np.full(rows, 500.0),
            "encoder_hidden_states": np.repeat(texts, rows, axis=0),
        }
        self._feed = {
            entry.name: np.ascontiguousarray(values[entry.name], ELEMENT_TYPES[entry.type])
            for entry in self._session.get_inputs()
        }

    def evaluate(self, times: int) -> float:
        """Run so often; gives the seconds."""
        started = time.perf_counter()
        for _ in range(times):
            self._session.run(None, self._feed)
        return time.perf_counter() - started


async def paint(pictures: int, batch: int, rounds: int) -> Measured:
    """Paint and run bare, in turn, ``pictures`` pictures in batches of ``batch`` each time.

    Gives ``{studio_s, bare_s, peak_mib}``, the first two with one entry per round.
    """
    pipeline = await asyncio.to_thread(Pipeline.load, "builtin", "cpu")
    bare, studio = BareSession(pipeline, batch), Studio("builtin", "cpu")
    evaluations = -(-pictures // batch) * DEFAULT_STEPS
    taken: Measured = {"studio_s": [], "bare_s": []}
    try:
        await studio.paint([order(n, "image") for n in range(batch)], _go_on)
        await asyncio.to_thread(bare.evaluate, 1)
        for _ in range(rounds):
            started = time.perf_counter()
            for start in range(0, pictures, batch):
                orders = [order(n, "image") for n in range(start, start + batch)]
                await studio.paint(orders, _go_on)
            taken["studio_s"].append(time.perf_counter() - started)
            taken["bare_s"].append(await asyncio.to_thread(bare.evaluate, evaluations))
    finally:
        await studio.aclose()
    return {**taken, "peak_mib": memory.peak_mib()}


def _go_on(job_id: str, step: int, steps: int) -> bool:
    del job_id, step, steps
    return True


async def run(size: Size = FULL) -> Result:
    """Measure each batch size in a process of its own, rounds of both kinds in turn."""
    figures: list[Figure] = []
    for batch in size.batches:
        pictures = -(-size.pictures // batch) * batch
        taken = await call(paint, pictures=pictures, batch=batch, rounds=size.rounds)
        studio, bare = tuple(taken["studio_s"]), tuple(taken["bare_s"])
        figures += [
            Figure(f"batch {batch}: studio", "pictures/s", _rates(pictures, studio)),
            Figure(f"batch {batch}: bare model runs", "pictures/s", _rates(pictures, bare)),
            Figure(f"batch {batch}: of the ceiling", "×", ratios(bare, studio)),
            Figure(f"batch {batch}: resident, peak", "MiB", column([taken], "peak_mib")),
        ]
    return Result(
        "painting",
        "pictures of 256 × 256 from the built-in model, 8 guided steps",
        tuple(figures),
        {**asdict(size), "threads": default_threads()},
        ("Ceiling: the same UNet evaluations by session.run alone; peak holds both models.",),
    )


def _rates(pictures: int, seconds: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(pictures / each for each in seconds)

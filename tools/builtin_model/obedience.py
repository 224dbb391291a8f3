"""The gate: does a picture show what a prompt asked for that training never saw?

``python -m tools.builtin_model.obedience [FOLDER] [--steps 8] [--guidance 2] [--count 128]``
prints the share of right answers for each attribute and ends with 1 if one is below its threshold.
``--drawn`` scores freshly drawn pictures instead: the ceiling of the checks themselves.
"""

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from limner.actors.generator.pipeline import DEFAULT_GUIDANCE, DEFAULT_STEPS, Pipeline, Request
from tools.builtin_model.drawings import (
    KINDS,
    Kind,
    Pair,
    Sample,
    Single,
    draw,
    plain_pair_caption,
    plain_single_caption,
)
from tools.builtin_model.sight import Picture, see

DATA_SEED = 77
FIRST_NOISE_SEED = 1000
BATCH_ROWS = 16

THRESHOLDS: Mapping[Kind, Mapping[str, float]] = {
    "single": {"background": 0.98, "colour": 0.97, "position": 0.95, "shape": 0.93},
    "pair": {"everything": 0.95},
    "scene": {"everything": 0.90},
}
"""The least share of right answers the shipped model must reach, of held-out combinations."""

SHARES: Mapping[Kind, float] = {"single": 1.0, "pair": 0.5, "scene": 0.5}
"""How many prompts of each kind the gate asks, as a part of its count."""

Painter = Callable[[Sequence[str], Sequence[int]], Sequence[Picture]]
"""Prompts and noise seeds to pictures, uint8 [64, 64, 3]."""


@dataclass(frozen=True, slots=True)
class Score:
    """How often an attribute was asked for and how often it was seen."""

    seen: int = 0
    asked: int = 0

    @property
    def share(self) -> float:
        """The part that was seen, 0 to 1."""
        return self.seen / self.asked

    def plus(self, seen: bool) -> "Score":
        """Return the score after one more answer."""
        return Score(self.seen + seen, self.asked + 1)

    def __str__(self) -> str:
        return f"{self.share:.1%} ({self.seen}/{self.asked})"


Report = Mapping[Kind, Mapping[str, Score]]


def held_out_samples(kind: Kind, count: int, seed: int = DATA_SEED) -> list[tuple[str, Sample]]:
    """Return ``count`` different held-out prompts, each with a drawn picture of what it asks."""
    dice = random.Random(seed)
    found: dict[str, Sample] = {}
    while len(found) < count:
        sample = draw(kind, dice, held_out=True)
        found.setdefault(_plain_caption(sample), sample)
    return list(found.items())


def measure(paint: Painter | None, count: int = 128, seed: int = DATA_SEED) -> Report:
    """Return the scores of ``paint``; without it, those of the drawn pictures themselves."""
    report = {}
    for kind in KINDS:
        samples = held_out_samples(kind, round(count * SHARES[kind]), seed)
        prompts = [prompt for prompt, _ in samples]
        seeds = range(FIRST_NOISE_SEED, FIRST_NOISE_SEED + len(prompts))
        drawn = [sample.picture for _, sample in samples]
        pictures = drawn if paint is None else paint(prompts, list(seeds))
        scores: dict[str, Score] = {}
        for picture, (_, sample) in zip(pictures, samples, strict=True):
            seen = see(picture, sample.attributes)
            for name, right in {**seen, "everything": all(seen.values())}.items():
                scores[name] = scores.get(name, Score()).plus(right)
        report[kind] = scores
    return report


def failures(report: Report) -> Iterator[str]:
    """Yield a sentence for every threshold that is not reached."""
    for kind, thresholds in THRESHOLDS.items():
        for name, least in thresholds.items():
            score = report[kind][name]
            if score.share < least:
                yield f"{kind}: {name} {score}, at least {least:.0%} wanted"


def painter(pipeline: Pipeline, steps: int, guidance: float) -> Painter:
    """Return a painter that asks ``pipeline`` in batches."""

    def paint(prompts: Sequence[str], seeds: Sequence[int]) -> list[Picture]:
        pictures: list[Picture] = []
        requests = [
            Request(prompt, seed, guidance) for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        for start in range(0, len(requests), BATCH_ROWS):
            batch = pipeline.generate(requests[start : start + BATCH_ROWS], steps=steps)
            pictures += [picture for picture in batch if picture is not None]
        return pictures

    return paint


def _plain_caption(sample: Sample) -> str:
    if isinstance(sample.attributes, Single):
        return plain_single_caption(sample.attributes)
    if isinstance(sample.attributes, Pair):
        return plain_pair_caption(sample.attributes)
    return sample.caption


def main() -> int:
    """Run the gate that the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", nargs="?", default="builtin")
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS)
    parser.add_argument("--guidance", type=float, default=DEFAULT_GUIDANCE)
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--seed", type=int, default=DATA_SEED)
    parser.add_argument("--drawn", action="store_true")
    asked = parser.parse_args()
    paint = None
    if not asked.drawn:
        paint = painter(Pipeline.load(asked.folder), asked.steps, asked.guidance)
    report = measure(paint, asked.count, asked.seed)
    for kind, scores in report.items():
        print(f"{kind:7s}", "  ".join(f"{name} {score}" for name, score in scores.items()))
    missed = list(failures(report))
    for sentence in missed:
        print(sentence)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Trains the built-in model on the pools that drawings.py has drawn, by fixed seeds and steps.

``python -m tools.builtin_model.training generator POOLS CHECKPOINTS [--steps 2900]``
``python -m tools.builtin_model.training decoder POOLS CHECKPOINTS [--steps 1450]``
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 -- what everybody calls it
from torch import Tensor, nn

from limner.actors.generator.tokenizer import Tokenizer
from tools.builtin_model.drawings import KINDS, Kind
from tools.builtin_model.network import (
    GRID,
    LATENT_CHANNELS,
    TEXT_TOKENS,
    TIMESTEPS,
    Codec,
    Decoder,
    Generator,
    TextEncoder,
)

SEED = 0
GENERATOR_STEPS = 2900
GENERATOR_ROWS = 128
DECODER_STEPS = 1450
DECODER_ROWS = 64
SPECIAL_WORDS = ("[PAD]", "[BOS]", "[EOS]", "[UNK]", ",")
CODEC_PICTURES: Mapping[Kind, int] = {"single": 3000, "pair": 3000, "scene": 4000}
DECODER_PICTURES: Mapping[Kind, int] = {"single": 25_000, "pair": 15_000, "scene": 25_000}


@dataclass(frozen=True, slots=True)
class Pool:
    """Training samples of one kind: latents [N, 16, 8, 8], weights [N, 8, 8], ids [N, 28]."""

    latents: Tensor
    weights: Tensor
    ids: Tensor

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the samples ``rows``."""
        return self.latents[rows], self.weights[rows], self.ids[rows]


class Muon:
    """Momentum, then an orthogonal update by five Newton-Schulz steps, for matrices.

    Source: K. Jordan and others, Muon, 2024, whose coefficients these are.
    """

    def __init__(self, weights: Sequence[Tensor], momentum: float = 0.95) -> None:
        self.momentum, self.decay = momentum, 0.01
        self.groups: dict[tuple[int, ...], list[Tensor]] = {}
        for weight in weights:
            self.groups.setdefault(tuple(weight.shape), []).append(weight)
        self.memory = {
            shape: torch.zeros(len(group), *shape) for shape, group in self.groups.items()
        }

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Update the weights from their gradients."""
        for shape, group in self.groups.items():
            gradients = torch.stack([weight.grad for weight in group if weight.grad is not None])
            memory = self.memory[shape]
            memory.lerp_(gradients, 1 - self.momentum)
            wanted = gradients.lerp(memory, self.momentum)
            length = rate * max(1, shape[0] / shape[1]) ** 0.5
            for weight, update in zip(group, wanted, strict=True):
                weight.mul_(1 - rate * self.decay).add_(_orthogonal(update), alpha=-length)


def _orthogonal(matrix: Tensor) -> Tensor:
    """Return the matrix with its singular values brought near one."""
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T.contiguous() if is_tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * (square @ square)) @ x
    return x.T if is_tall else x


class Average:
    """An exponential average of weights, which is what gets saved."""

    def __init__(self, weights: Sequence[Tensor], most: float, warm: float) -> None:
        self.weights, self.most, self.warm = weights, most, warm
        self.means = [weight.detach().clone() for weight in weights]

    def update(self, step: int) -> None:
        """Take in the weights after ``step`` steps."""
        keep = min(self.most, step / (step + self.warm))
        torch._foreach_lerp_(self.means, [weight.detach() for weight in self.weights], 1 - keep)

    @torch.no_grad()
    def settle(self) -> None:
        """Put the average in place of the weights."""
        for weight, mean in zip(self.weights, self.means, strict=True):
            weight.copy_(mean)


def tokenizer_description(words: Sequence[str]) -> dict[str, Any]:
    """Return the ``tokenizer.json`` of a vocabulary, as the tokenizers package writes it."""
    vocabulary = [*SPECIAL_WORDS, *(word for word in words if word not in SPECIAL_WORDS)]

    def special(word: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": word, "type_id": 0}}

    def sequence(name: str, kind: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": kind}}

    return {
        "version": "1.0",
        "truncation": {
            "direction": "Right",
            "max_length": TEXT_TOKENS,
            "strategy": "LongestFirst",
            "stride": 0,
        },
        "padding": {
            "strategy": {"Fixed": TEXT_TOKENS},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("[BOS]"), sequence("A", 0), special("[EOS]")],
            "pair": [sequence("A", 0), sequence("B", 1)],
            "special_tokens": {
                word: {"id": word, "ids": [number], "tokens": [word]}
                for number, word in ((1, "[BOS]"), (2, "[EOS]"))
            },
        },
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: number for number, word in enumerate(vocabulary)},
            "unk_token": "[UNK]",
        },
    }


def read_pictures(pools: Path, counts: Mapping[Kind, int]) -> Tensor:
    """Return the first pictures of each pool: uint8 [N, 64, 64, 3]."""
    parts = [
        np.load(pools / f"{kind}.npy", mmap_mode="r")[:count] for kind, count in counts.items()
    ]
    return torch.from_numpy(np.concatenate(parts))


def read_pool(pools: Path, kind: Kind, codec: Codec, tokenizer: Tokenizer) -> Pool:
    """Return a pool as latents; patches unlike the picture's median one (objects) weigh more."""
    pictures = np.load(pools / f"{kind}.npy", mmap_mode="r")
    latents, weights = [], []
    for start in range(0, len(pictures), 2000):
        part = codec.encode(torch.from_numpy(pictures[start : start + 2000].copy()))
        usual = part.flatten(2).median(2).values[:, :, None, None]
        is_object = (part - usual).square().sum(1) > 0.6
        heavy = torch.where(is_object, 3.0, 1.0)
        weight = torch.full_like(heavy, 1.5) if kind == "scene" else heavy
        latents.append(part.bfloat16())
        weights.append(weight.bfloat16())
    captions = json.loads((pools / f"{kind}.json").read_text())
    ids = np.array([tokenizer.encode(caption).ids for caption in captions], np.int16)
    return Pool(torch.cat(latents), torch.cat(weights), torch.from_numpy(ids))


def batches(pools: Mapping[Kind, Pool], rows: int, steps: int) -> Iterator[tuple[Tensor, ...]]:
    """Yield latents, weights and ids: from 85 % single objects at the start to 50 %."""
    dice = np.random.default_rng(SEED)
    for step in range(steps):
        share = max(0.5, 0.85 - 1.2 * step / steps)
        singles, pairs = round(rows * share), round(rows * (1 - share) * 0.55)
        counts = (singles, pairs, rows - singles - pairs)
        taken = []
        for kind, count in zip(KINDS, counts, strict=True):
            pool = pools[kind]
            taken.append(pool.take(torch.from_numpy(dice.integers(0, len(pool.ids), count))))
        yield tuple(torch.cat(column) for column in zip(*taken, strict=True))


def train_generator(pools: Path, checkpoints: Path, steps: int, rows: int, fuse: bool) -> None:
    """Train text encoder and generator by rectified flow; write ``generator.pt``."""
    torch.manual_seed(SEED)
    checkpoints.mkdir(parents=True, exist_ok=True)
    codec = Codec.fit(read_pictures(pools, CODEC_PICTURES))
    torch.save(vars(codec), checkpoints / "codec.pt")
    description = tokenizer_description(json.loads((pools / "words.json").read_text()))
    (checkpoints / "tokenizer.json").write_text(json.dumps(description, indent=2) + "\n")
    tokenizer = Tokenizer(description)
    samples = {kind: read_pool(pools, kind, codec, tokenizer) for kind in KINDS}
    nothing = torch.tensor(tokenizer.encode("").ids)
    text, generator = TextEncoder(len(description["model"]["vocab"])), Generator()
    named = [*text.named_parameters(), *generator.named_parameters()]
    weights = [weight for _, weight in named]
    matrices = [weight for name, weight in named if _is_matrix(name, weight)]
    others = [weight for name, weight in named if not _is_matrix(name, weight)]
    muon = Muon(matrices)
    adam = torch.optim.AdamW(others, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    average = Average(weights, most=0.998, warm=30.0)
    loss_of = flow_loss(text, generator)
    if fuse:
        loss_of = torch.compile(loss_of, dynamic=False)
    report = Progress("generator", steps)
    for step, (latents, heavy, told) in enumerate(batches(samples, rows, steps)):
        ids = told.long()
        ids[torch.rand(rows) < 0.1] = nothing  # the unconditional rows that guidance needs
        uniform = torch.rand(rows)
        noise = torch.randn(rows, LATENT_CHANNELS, GRID, GRID)
        shifted = 3 * uniform / (1 + 2 * uniform)
        loss = loss_of(latents.float(), heavy.float(), noise, shifted, ids)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        pace = min(1, (step + 1) / 100) * min(1, (1 - step / steps) / 0.45 + 0.01)
        for group in adam.param_groups:
            group["lr"] = 2e-3 * pace
        muon.step(0.02 * pace)
        adam.step()
        for weight in weights:
            weight.grad = None
        average.update(step + 1)
        report.tell(loss.item())
    average.settle()
    state = {"text": text.state_dict(), "generator": generator.state_dict(), "steps": steps}
    torch.save(state, checkpoints / "generator.pt")


def flow_loss(text: TextEncoder, generator: Generator) -> Callable[..., Tensor]:
    """Return the loss of rectified flow with x-prediction, in bfloat16 where that is safe."""

    def loss_of(latents: Tensor, heavy: Tensor, noise: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        mixed = t[:, None, None, None]
        with torch.autocast("cpu", torch.bfloat16):
            noisy = (1 - mixed) * latents + mixed * noise
            clean = generator(noisy, t * TIMESTEPS, text(ids))
        fault = ((clean.float() - latents).square().mean(1) * heavy).mean((1, 2))
        return (fault / t.clamp(min=0.3).square()).mean()

    return loss_of


def train_decoder(pools: Path, checkpoints: Path, steps: int, rows: int) -> None:
    """Train the decoder on the latents of drawn pictures; write ``decoder.pt``."""
    torch.manual_seed(SEED)
    dice = np.random.default_rng(SEED)
    codec = Codec(**torch.load(checkpoints / "codec.pt"))
    pictures = read_pictures(pools, DECODER_PICTURES)
    decoder = Decoder(codec).to(memory_format=torch.channels_last)
    weights = list(decoder.parameters())
    adam = torch.optim.AdamW(weights, lr=2e-3, betas=(0.9, 0.98), fused=True)
    average = Average(weights, most=0.99, warm=20.0)
    report = Progress("decoder", steps)
    for step in range(steps):
        for group in adam.param_groups:
            pace = min(1, (step + 1) / 50) * min(1, (1 - step / steps) / 0.6 + 0.01)
            group["lr"] = 3e-3 * pace
        drawn = pictures[torch.from_numpy(np.sort(dice.integers(0, len(pictures), rows)))]
        wanted = drawn.permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = codec.encode(drawn)
        # The generator's latents are not exact, so the decoder learns to forgive.
        latents = latents + torch.randn_like(latents) * torch.rand(rows, 1, 1, 1) * 0.12
        made = decoder(latents.contiguous(memory_format=torch.channels_last))
        loss = F.mse_loss(made, wanted) + 0.3 * F.l1_loss(made, wanted)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        adam.step()
        average.update(step + 1)
        report.tell(loss.item())
    average.settle()
    torch.save({"decoder": decoder.state_dict(), "steps": steps}, checkpoints / "decoder.pt")


class Progress:
    """Prints the loss every hundred steps."""

    def __init__(self, name: str, steps: int) -> None:
        self.name, self.steps, self.losses = name, steps, list[float]()
        self.started_s = time.monotonic()

    def tell(self, loss: float) -> None:
        """Count one step."""
        self.losses.append(loss)
        done = len(self.losses)
        if done % 100 == 0 or done == self.steps:
            mean = sum(self.losses[-100:]) / len(self.losses[-100:])
            spent_s = time.monotonic() - self.started_s
            print(f"{self.name} {done}/{self.steps} loss {mean:.4f} {spent_s:.0f} s", flush=True)


def _is_matrix(name: str, weight: Tensor) -> bool:
    return name.startswith("blocks.") and weight.ndim == 2 and "table" not in name


def main() -> None:
    """Train what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("part", choices=("generator", "decoder"))
    parser.add_argument("pools", type=Path)
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.part == "generator":
        steps, rows = asked.steps or GENERATOR_STEPS, asked.rows or GENERATOR_ROWS
        train_generator(asked.pools, asked.checkpoints, steps, rows, not asked.no_compile)
    else:
        steps, rows = asked.steps or DECODER_STEPS, asked.rows or DECODER_ROWS
        train_decoder(asked.pools, asked.checkpoints, steps, rows)


if __name__ == "__main__":
    main()

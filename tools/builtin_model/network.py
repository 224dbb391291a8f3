"""The networks of the built-in model: text encoder, generator, latent codec (2.35 M parameters).

Letters in shapes: B rows of a batch, T = 28 text tokens, P = 64 patches, K = 16 latent channels.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 -- what everybody calls it
from torch import Tensor, nn

TEXT_TOKENS = 28
TEXT_WIDTH = 96
TEXT_LAYERS = 3
WIDTH = 160
BLOCKS = 5
HEADS = 5
CONDITION_WIDTH = 192
CANVAS_WIDTH = 10
LATENT_CHANNELS = 16
GRID = 8
PATCH_PX = 8
PATCH_VALUES = PATCH_PX * PATCH_PX * 3
TIME_WAVES = 64
TIMESTEPS = 1000


def attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return softmax attention [B, heads, tokens, width], written out.

    torch's fused bfloat16 kernel has, on CPUs, a backward pass ten times slower than the rest of
    a training step.
    """
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-2, -1)
    return scores.softmax(-1).to(values.dtype) @ values


def squared_relu(x: Tensor) -> Tensor:
    """Return max(x, 0)². Source: D. So and others, Primer, 2021."""
    return F.relu(x).square()


class TextBlock(nn.Module):
    """One bidirectional transformer layer."""

    def __init__(self, width: int = TEXT_WIDTH, heads: int = 3) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens [B, T, width] after one layer."""
        rows, tokens, width = x.shape
        split = self.qkv(self.norm_1(x)).view(rows, tokens, 3, self.heads, width // self.heads)
        queries, keys, values = split.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = attention(queries, keys, values).transpose(1, 2).reshape(rows, tokens, width)
        x = x + self.out(mixed)
        return x + self.down(squared_relu(self.up(self.norm_2(x))))


class TextEncoder(nn.Module):
    """Token ids [B, T] to states [B, T, 96], with learnt positions."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, TEXT_WIDTH)
        self.positions = nn.Parameter(torch.randn(TEXT_TOKENS, TEXT_WIDTH) * 0.02)
        nn.init.normal_(self.words.weight, std=0.5)
        self.blocks = nn.ModuleList(TextBlock() for _ in range(TEXT_LAYERS))
        self.norm = nn.LayerNorm(TEXT_WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the states [B, T, 96] of the tokens ``ids`` [B, T]."""
        x = self.words(ids) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def time_features(timesteps: Tensor, waves: int = TIME_WAVES) -> Tensor:
    """Return cosines and sines [B, waves] of timesteps [B] from 0 to 1000."""
    half = waves // 2
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps.float()[:, None] * torch.exp(-math.log(TIMESTEPS) * steps)
    return torch.cat([angles.cos(), angles.sin()], 1)


def grid_features() -> Tensor:
    """Return waves over the 8×8 grid [64, 160], from which the learnt positions start."""
    place = (torch.arange(GRID) + 0.5) / GRID
    octaves = torch.linspace(math.log(0.5), math.log(4.0), WIDTH // 4)
    angles = place[:, None] * (torch.exp(octaves) * math.pi * 2)
    waves = torch.cat([angles.sin(), angles.cos()], 1)
    down = waves[:, None].expand(GRID, GRID, -1)
    across = waves[None].expand(GRID, GRID, -1)
    return torch.cat([down, across], 2).reshape(GRID * GRID, WIDTH) * 0.5


class Block(nn.Module):
    """Attention whose keys and values also hold the text, then an MLP; both modulated (AdaLN)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.text_kv = nn.Linear(TEXT_WIDTH, 2 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(3 * WIDTH, WIDTH)
        self.table = nn.Parameter(torch.randn(6, WIDTH) * 0.02)

    def forward(self, x: Tensor, text: Tensor, modulation: Tensor) -> Tensor:
        """Return the patches [B, P, 160], given text [B, T, 96] and modulation [B, 6, 160]."""
        rows, patches, _ = x.shape
        scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = (modulation + self.table).unbind(1)
        y = F.layer_norm(x, (WIDTH,)) * (1 + scale_1[:, None]) + shift_1[:, None]
        own = self.qkv(y).view(rows, patches, 3, HEADS, WIDTH // HEADS)
        queries, keys, values = own.permute(2, 0, 3, 1, 4).unbind(0)
        told = self.text_kv(text).view(rows, TEXT_TOKENS, 2, HEADS, WIDTH // HEADS)
        text_keys, text_values = told.permute(2, 0, 3, 1, 4).unbind(0)
        y = attention(queries, torch.cat([keys, text_keys], 2), torch.cat([values, text_values], 2))
        x = x + gate_1[:, None] * self.out(y.transpose(1, 2).reshape(rows, patches, WIDTH))
        y = F.layer_norm(x, (WIDTH,)) * (1 + scale_2[:, None]) + shift_2[:, None]
        return x + gate_2[:, None] * self.down(squared_relu(self.up(y)))


class Generator(nn.Module):
    """Noisy latents, time and text to clean latents (x-prediction).

    Text enters three ways: pooled into the modulation, as a low-rank 8×8 canvas that is added to
    the patches (a direct path from words to layout), and as keys and values of every attention.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.positions = (
            nn.Linear(LATENT_CHANNELS, WIDTH),
            nn.Parameter(grid_features()),
        )
        self.pool = nn.Linear(TEXT_WIDTH, 4)
        self.text_1 = nn.Linear(4 * TEXT_WIDTH, CONDITION_WIDTH)
        self.text_2 = nn.Linear(CONDITION_WIDTH, CONDITION_WIDTH)
        self.time_1 = nn.Linear(TIME_WAVES, CONDITION_WIDTH)
        self.time_2 = nn.Linear(CONDITION_WIDTH, CONDITION_WIDTH)
        self.canvas = nn.Linear(CONDITION_WIDTH, GRID * GRID * CANVAS_WIDTH)
        self.canvas_in = nn.Linear(CANVAS_WIDTH, WIDTH)
        self.modulate = nn.Linear(CONDITION_WIDTH, 6 * WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.last_table = nn.Parameter(torch.zeros(2, WIDTH))
        self.leave = nn.Linear(WIDTH, LATENT_CHANNELS)
        for layer in (self.modulate, self.leave):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():  # gates start a little open
            self.modulate.bias.view(6, WIDTH)[[2, 5]] = 0.3

    def forward(self, latents: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """Return clean latents [B, K, 8, 8], given timesteps [B] of 1000 and text [B, T, 96]."""
        weights = self.pool(text).softmax(1)
        pooled = (weights.transpose(1, 2) @ text).flatten(1)
        told = self.text_2(F.silu(self.text_1(pooled)))
        condition = F.silu(told + self.time_2(F.silu(self.time_1(time_features(timesteps)))))
        canvas = F.silu(self.canvas(F.silu(told))).view(-1, GRID * GRID, CANVAS_WIDTH)
        x = self.enter(latents.flatten(2).transpose(1, 2)) + self.positions + self.canvas_in(canvas)
        modulation = self.modulate(condition).view(-1, 6, WIDTH)
        for block in self.blocks:
            x = block(x, text, modulation)
        scale, shift = (modulation[:, :2] + self.last_table).unbind(1)
        x = self.leave(F.layer_norm(x, (WIDTH,)) * (1 + scale[:, None]) + shift[:, None])
        return x.transpose(1, 2).reshape(-1, LATENT_CHANNELS, GRID, GRID)


class Velocity(nn.Module):
    """The generator as FlowMatchEuler wants it: the velocity from noise to picture."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, latents: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """Return (noisy - clean) / t, with t from 0.02 to 1: [B, K, 8, 8]."""
        time = (timesteps / TIMESTEPS).reshape(-1, 1, 1, 1).clamp(min=0.02)
        return (latents - self.generator(latents, timesteps, text)) / time


class Residual(nn.Module):
    """Two 3×3 convolutions around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the shape of ``x``."""
        return x + self.second(F.silu(self.first(F.silu(x))))


class Codec:
    """The encoder, without training: patches of 8×8 pixels on their first 16 components (PCA).

    Each is divided by the root of its deviation (half-whitened), then all together scaled to a
    mean variance of one. ``mean`` [192], ``basis`` [192, 16], ``scale`` [16].
    """

    def __init__(self, mean: Tensor, basis: Tensor, scale: Tensor) -> None:
        self.mean, self.basis, self.scale = mean, basis, scale

    @classmethod
    def fit(cls, pictures: Tensor) -> "Codec":
        """Return the codec of ``pictures``: uint8 [B, 64, 64, 3]."""
        patches = cls.patches(pictures)
        mean = patches.mean(0)
        covariance = (patches - mean).T @ (patches - mean) / len(patches)
        values, vectors = torch.linalg.eigh(covariance)
        values = values.flip(0)[:LATENT_CHANNELS]
        vectors = vectors.flip(1)[:, :LATENT_CHANNELS]
        deviation = values.sqrt()
        scale = 1 / deviation.sqrt()
        return cls(mean, vectors, scale / (deviation * scale).square().mean().sqrt())

    @staticmethod
    def patches(pictures: Tensor) -> Tensor:
        """Return the patches [B * 64, 192], from -1 to 1, of uint8 pictures [B, 64, 64, 3]."""
        rows = pictures.shape[0]
        signed = pictures.float() / 127.5 - 1
        grid = signed.view(rows, GRID, PATCH_PX, GRID, PATCH_PX, 3).permute(0, 1, 3, 2, 4, 5)
        return grid.reshape(rows * GRID * GRID, PATCH_VALUES)

    def encode(self, pictures: Tensor) -> Tensor:
        """Return the latents [B, 16, 8, 8] of uint8 pictures [B, 64, 64, 3]."""
        latents = (self.patches(pictures) - self.mean) @ self.basis * self.scale
        grid = latents.view(-1, GRID * GRID, LATENT_CHANNELS).transpose(1, 2)
        return grid.reshape(-1, LATENT_CHANNELS, GRID, GRID)


class Decoder(nn.Module):
    """Latents [B, 16, 8, 8] to pictures [B, 3, 64, 64] from -1 to 1.

    A layer from patches to pixels, which starts as the inverse of the codec, plus a correction by
    overlapping convolutions at 8, 16 and 32 pixels, which starts at zero: no grid remains visible.
    """

    def __init__(self, codec: Codec | None = None) -> None:
        super().__init__()
        wide, middle, fine = 72, 40, 20
        self.direct = nn.Conv2d(LATENT_CHANNELS, PATCH_VALUES, 3, padding=1)
        layers: list[Any] = [
            nn.Conv2d(LATENT_CHANNELS, wide, 3, padding=1),
            Residual(wide),
            nn.Conv2d(wide, 4 * middle, 1),
            nn.PixelShuffle(2),
            Residual(middle),
            nn.Conv2d(middle, 4 * fine, 1),
            nn.PixelShuffle(2),
            Residual(fine),
            nn.SiLU(),
            nn.Conv2d(fine, 12, 3, padding=1),
            nn.PixelShuffle(2),
        ]
        self.correction = nn.Sequential(*layers)
        if codec is not None:
            self._start_from(codec)

    @torch.no_grad()
    def _start_from(self, codec: Codec) -> None:
        def shuffled(values: Tensor) -> Tensor:
            """Return patch values in the order of channels that pixel_shuffle reads."""
            grid = values.reshape(PATCH_PX, PATCH_PX, 3, -1).permute(2, 0, 1, 3)
            return grid.reshape(PATCH_VALUES, -1)

        self.direct.weight.zero_()
        self.direct.weight[:, :, 1, 1] = shuffled(codec.basis / codec.scale)
        self.direct.bias.copy_(shuffled(codec.mean[:, None])[:, 0])
        last = self.correction[-2]
        last.weight.zero_()
        last.bias.zero_()

    def forward(self, latents: Tensor) -> Tensor:
        """Return the pictures of ``latents``."""
        return F.pixel_shuffle(self.direct(latents), PATCH_PX) + self.correction(latents)

"""Prompts to pictures: latent diffusion over onnxruntime, batched, without torch.

Everything here is synchronous and computes for long: call it in a thread. Arrays are batches whose
first axis are the rows; what a row becomes depends on its own request, never on its neighbours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.actors.generator.cancellation import Cancellation
from limner.actors.generator.folder import ModelFolder
from limner.actors.generator.noise import NoiseSource
from limner.actors.generator.schedulers import Latents, scheduler_for
from limner.actors.generator.sessions import (
    Device,
    DeviceName,
    Session,
    available_providers,
    choose_device,
    default_threads,
)
from limner.actors.generator.tokenizer import Encoding, Tokenizer

DEFAULT_STEPS = 8
DEFAULT_GUIDANCE = 2.0
"""With 8 steps; 4 steps want 1.5, as more breaks the built-in model's colours there."""

Embeddings = NDArray[np.float32]
"""What the generator reads of a text: [rows, tokens, features]."""

Pixels = NDArray[np.uint8]
"""One picture [height, width, 3], or a batch of them [rows, height, width, 3]: RGB."""

OnStep = Callable[[int, int, int, Latents], bool | None]
"""Called as ``on_step(row, step, steps, latents)`` for every row after every step.

``step`` counts from 1; ``latents`` [1, channels, height, width] is the model's present idea of the
finished picture, ready for ``Pipeline.decode``. ``False`` leaves the row out from here on; an
exception (``Cancelled``) ends the run.
"""


@dataclass(frozen=True, slots=True)
class Request:
    """One picture to make. ``guidance`` 1 means that the prompt is not amplified."""

    prompt: str
    seed: int
    guidance: float = DEFAULT_GUIDANCE
    negative_prompt: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """A batch for the denoiser: its starting noise and what each row shall show.

    ``noise`` [rows, channels, height, width] of unit variance; ``wanted`` and ``unwanted``
    [rows, tokens, features]; ``guidance`` [rows].
    """

    noise: Latents
    wanted: Embeddings
    unwanted: Embeddings
    guidance: NDArray[np.float32]
    steps: int


class Pipeline:
    """One loaded model. A second call may run beside the first; sessions are safe for threads."""

    def __init__(self, folder: ModelFolder, device: Device, threads: int) -> None:
        """Load all parts; ``Pipeline.load`` is the usual door.

        Raises:
            NotConfigured: a part is missing, damaged or of a kind that is not supported.
        """
        self.folder = folder
        self.tokenizer = Tokenizer.load(folder.path / "tokenizer" / "tokenizer.json")
        self._schedule = folder.config("scheduler/scheduler_config.json")
        scheduler_for(self._schedule, DEFAULT_STEPS)  # refuses now rather than at the first job
        generator = folder.config("unet/config.json")
        decoder = folder.config("vae_decoder/config.json")
        side = int(generator.get("sample_size", 64))
        self.latent_shape = (int(generator.get("in_channels", 4)), side, side)
        self._latent_scale = np.float32(decoder.get("scaling_factor", 1.0))
        self._text = Session(folder.weights("text_encoder"), device, threads)
        self._generator = Session(folder.weights("unet"), device, threads)
        self._decoder = Session(folder.weights("vae_decoder"), device, threads)
        self.device = self._generator.device

    @classmethod
    def load(
        cls, folder: Path | str, device: DeviceName = "auto", threads: int | None = None
    ) -> "Pipeline":
        """Load the model in ``folder``, or the shipped one for ``builtin``.

        ``threads`` is for one operation; the default leaves a core to the event loop.

        Raises:
            NotConfigured: as the constructor, or CUDA is demanded and missing.
        """
        chosen = choose_device(device, available_providers())
        return cls(ModelFolder.named(str(folder)), chosen, threads or default_threads())

    @property
    def scheduler_name(self) -> str:
        """The ``_class_name`` of the scheduler, as each job records it."""
        return str(self._schedule["_class_name"])

    @property
    def sha256(self) -> str:
        """The SHA-256 of the model's files, in hex."""
        return self.folder.sha256

    @cached_property
    def native_size(self) -> tuple[int, int]:
        """Width and height, in pixels, of what the model draws."""
        picture = self.decode(np.zeros((1, *self.latent_shape), np.float32))[0]
        return picture.shape[1], picture.shape[0]

    def generate(
        self,
        requests: Sequence[Request],
        *,
        steps: int = DEFAULT_STEPS,
        on_step: OnStep | None = None,
        cancel: Cancellation | None = None,
    ) -> list[Pixels | None]:
        """Return one picture [height, width, 3] per request, None where a row was left out.

        Raises:
            Cancelled: ``cancel`` was terminated, or ``on_step`` raised it.
            Invalid: ``steps`` is outside 1 to 1000.
        """
        if not requests:
            return []
        task = Task(
            noise=self.noise([request.seed for request in requests]),
            wanted=self.embed([request.prompt for request in requests], cancel),
            unwanted=self.embed([request.negative_prompt for request in requests], cancel),
            guidance=np.array([request.guidance for request in requests], np.float32),
            steps=steps,
        )
        latents, rows = self.denoise(task, on_step=on_step, cancel=cancel)
        pictures: list[Pixels | None] = [None] * len(requests)
        if rows:
            for row, picture in zip(rows, self.decode(latents, cancel), strict=True):
                pictures[row] = picture
        return pictures

    def tokenize(self, text: str) -> Encoding:
        """Return ``text`` as token ids, with the words the model does not know."""
        return self.tokenizer.encode(text)

    def embed(self, texts: Sequence[str], cancel: Cancellation | None = None) -> Embeddings:
        """Return what the generator reads of ``texts``: [rows, tokens, features]."""
        ids = np.array([self.tokenizer.encode(text).ids for text in texts], np.int64)
        return self._text.run({"input_ids": ids}, cancel)

    def noise(self, seeds: Sequence[int]) -> Latents:
        """Return the starting noise of ``seeds``: [rows, channels, height, width]."""
        return np.stack([NoiseSource(seed).normal(self.latent_shape) for seed in seeds])

    def denoise(
        self, task: Task, *, on_step: OnStep | None = None, cancel: Cancellation | None = None
    ) -> tuple[Latents, list[int]]:
        """Return the finished latents and the rows of the task that they belong to.

        Raises:
            Cancelled: ``cancel`` was terminated, or ``on_step`` raised it.
            Invalid: the steps are outside 1 to 1000.
        """
        scheduler = scheduler_for(self._schedule, task.steps)
        rows = list(range(len(task.noise)))
        latents = task.noise * np.float32(scheduler.initial_scale)
        for index in range(task.steps):
            output = self._predict(
                scheduler.model_input(latents, index),
                scheduler.timesteps[index],
                task,
                rows,
                cancel,
            )
            latents, clean = scheduler.advance(output, latents, index)
            kept = [
                place
                for place, row in enumerate(rows)
                if _goes_on(row, index + 1, task.steps, clean[place : place + 1], on_step, cancel)
            ]
            if len(kept) < len(rows):
                latents, rows = latents[kept], [rows[place] for place in kept]
            if not rows:
                break
        return latents, rows

    def decode(self, latents: Latents, cancel: Cancellation | None = None) -> Pixels:
        """Return the pictures of ``latents``: [rows, height, width, 3]."""
        signed = self._decoder.run({"latent_sample": latents / self._latent_scale}, cancel)
        levels = (np.clip(signed / 2 + 0.5, 0, 1) * 255).round().astype(np.uint8)
        return levels.transpose(0, 2, 3, 1)

    def _predict(
        self,
        latents: Latents,
        timestep: np.float32,
        task: Task,
        rows: list[int],
        cancel: Cancellation | None,
    ) -> Latents:
        """Run the generator, twice for guided rows: once with what they shall not show."""
        guidance = task.guidance[rows]
        guided = np.flatnonzero(guidance != 1)
        both = np.concatenate([latents, latents[guided]])
        texts = np.concatenate([task.wanted[rows], task.unwanted[rows][guided]])
        inputs: dict[str, NDArray[Any]] = {
            "sample": both,
            "timestep": np.full(len(both), timestep, np.float32),
            "encoder_hidden_states": texts,
        }
        output = self._generator.run(inputs, cancel)
        wanted, unwanted = output[: len(rows)], output[len(rows) :]
        strength = guidance[guided].reshape(-1, 1, 1, 1)
        wanted[guided] = unwanted + strength * (wanted[guided] - unwanted)
        return wanted


def _goes_on(
    row: int,
    step: int,
    steps: int,
    clean: Latents,
    on_step: OnStep | None,
    cancel: Cancellation | None,
) -> bool:
    """Tell the caller about a row and ask whether it stays."""
    if cancel is not None:
        cancel.check()
        if cancel.is_dropped(row):
            return False
    return on_step is None or on_step(row, step, steps, clean) is not False

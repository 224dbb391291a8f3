"""Short clips: the way from one picture to another through the model, encoded as WebM (VP9)."""

import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from limner.actors.generator.cancellation import Cancellation
from limner.actors.generator.pictures import scaled
from limner.actors.generator.pipeline import (
    DEFAULT_GUIDANCE,
    DEFAULT_STEPS,
    OnStep,
    Pipeline,
    Pixels,
    Task,
)
from limner.actors.generator.schedulers import Latents
from limner.core.errors import Invalid

DEFAULT_FRAMES = 16
DEFAULT_FPS = 16
MOST_FRAMES = 256
BATCH_FRAMES = 8
CONTENT_TYPE = "video/webm"


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip to make: from one seed to another, and from one prompt to another if there are two.

    ``end_seed`` None means the seed after ``seed``; ``end_prompt`` empty means the same prompt.
    """

    prompt: str
    seed: int
    end_prompt: str = ""
    end_seed: int | None = None
    negative_prompt: str = ""
    guidance: float = DEFAULT_GUIDANCE
    steps: int = DEFAULT_STEPS
    frames: int = DEFAULT_FRAMES


def frames(
    pipeline: Pipeline,
    clip: Clip,
    *,
    on_step: OnStep | None = None,
    cancel: Cancellation | None = None,
) -> Iterator[Pixels]:
    """Yield the frames of ``clip`` [height, width, 3] at the model's size, the first one first.

    ``on_step`` counts the frame as its row and cannot leave one out: what it returns is ignored.

    Raises:
        Cancelled: ``cancel`` was terminated, or ``on_step`` raised it.
        Invalid: the number of frames or steps is out of bounds.
    """
    if not 1 <= clip.frames <= MOST_FRAMES:
        raise Invalid(f"{clip.frames} frames; 1 to {MOST_FRAMES} are possible.")
    return _batches(pipeline, clip, on_step, cancel)


def webm(pictures: Iterable[Pixels], *, width: int, height: int, fps: int = DEFAULT_FPS) -> bytes:
    """Return the pictures as a WebM file of at least ``width`` × ``height`` pixels.

    VP9 halves the resolution of colours, so odd sides are made one pixel longer. The same pictures
    give the same bytes.

    Raises:
        Invalid: a side or the frame rate is out of bounds, or there is no picture.
    """
    if not 1 <= fps <= 120:
        raise Invalid(f"{fps} frames per second; 1 to 120 are possible.")
    width, height = width + width % 2, height + height % 2
    file = io.BytesIO()
    count = 0
    with av.open(file, "w", format="webm", container_options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream("libvpx-vp9", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = 0  # constant quality
        stream.options = {"crf": "24", "deadline": "good", "cpu-used": "6", "row-mt": "0"}
        stream.codec_context.thread_count = 1
        stream.codec_context.colorspace = Colorspace.ITU709
        stream.codec_context.color_range = ColorRange.MPEG
        for pixels in pictures:
            container.mux(stream.encode(_frame(scaled(pixels, width, height))))
            count += 1
        container.mux(stream.encode())
    if not count:
        raise Invalid("A video of no pictures.")
    return file.getvalue()


def spherical(start: Latents, end: Latents, part: float) -> Latents:
    """Return the noise at ``part`` (0 to 1) of the arc between two, as loud as they are.

    A straight line would pass through quieter noise, which models were not trained on.
    Source: K. Shoemake, Animating rotation with quaternion curves, 1985.
    """
    first, second = start.astype(np.float64), end.astype(np.float64)
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    angle = math.acos(max(-1.0, min(1.0, float((first * second).sum()) / norms)))
    if math.sin(angle) < 1e-6:
        return start
    near, far = math.sin((1 - part) * angle), math.sin(part * angle)
    return ((near * first + far * second) / math.sin(angle)).astype(np.float32)


def _batches(
    pipeline: Pipeline, clip: Clip, on_step: OnStep | None, cancel: Cancellation | None
) -> Iterator[Pixels]:
    seeds = (clip.seed, clip.seed + 1 if clip.end_seed is None else clip.end_seed)
    prompts = [clip.prompt, clip.end_prompt or clip.prompt, clip.negative_prompt]
    start, end, unwanted = pipeline.embed(prompts, cancel)
    first, last = pipeline.noise(seeds)
    parts = [index / max(1, clip.frames - 1) for index in range(clip.frames)]
    for offset in range(0, clip.frames, BATCH_FRAMES):
        batch = parts[offset : offset + BATCH_FRAMES]
        task = Task(
            noise=np.stack([spherical(first, last, part) for part in batch]),
            wanted=np.stack([start + np.float32(part) * (end - start) for part in batch]),
            unwanted=np.stack([unwanted] * len(batch)),
            guidance=np.full(len(batch), clip.guidance, np.float32),
            steps=clip.steps,
        )
        latents, _ = pipeline.denoise(task, on_step=_shifted(on_step, offset), cancel=cancel)
        yield from pipeline.decode(latents, cancel)


def _shifted(on_step: OnStep | None, offset: int) -> OnStep | None:
    """Return ``on_step`` as the rows of a later batch call it."""
    if on_step is None:
        return None

    def tell(row: int, step: int, steps: int, latents: Latents) -> None:
        on_step(offset + row, step, steps, latents)

    return tell


def _frame(image: Image.Image) -> Any:
    frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
    return frame.reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
    )

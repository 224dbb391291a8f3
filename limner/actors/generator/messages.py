"""What others may send the generator."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from limner.actors.generator.rules import (
    GUIDANCE,
    SIDE_PX,
    STEPS,
    VIDEO_FPS,
    VIDEO_FRAMES,
    Count,
    Frames,
    FramesPerSecond,
    Guidance,
    NegativePrompt,
    Prompt,
    Seed,
    Side,
    Steps,
)
from limner.core.message import Message


class Ring(Message):
    """There is a job in the table; claim what is due."""

    topic: ClassVar[str] = "generator.ring"

    job_id: str


class Generate(Message):
    """Make a picture or a video: the public command, with everything in it; ``user`` pays."""

    topic: ClassVar[str] = "generator.generate"
    public: ClassVar[bool] = True

    user: Annotated[str, Field(min_length=1, max_length=320)]
    kind: Literal["image", "video"] = "image"
    prompt: Prompt
    negative_prompt: NegativePrompt = ""
    width: Side = SIDE_PX
    height: Side = SIDE_PX
    steps: Steps = STEPS
    guidance: Guidance = GUIDANCE
    seed: Seed | None = None
    count: Count = 1
    frames: Frames = VIDEO_FRAMES
    fps: FramesPerSecond = VIDEO_FPS

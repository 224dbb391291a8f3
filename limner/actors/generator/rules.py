"""What a job can be asked to make: its bounds, its defaults, its price; the same for everybody."""

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import Field

from limner.actors.submitter.rules import price

BUILTIN = "builtin"
PROMPT_LENGTH = 2000
SIDE_PX = 256
STEPS = 8
GUIDANCE = 2.0
VIDEO_FRAMES = 16
VIDEO_FPS = 16
SEED_BITS = 32

Prompt = Annotated[
    str,
    # Something to see in it: only spaces are no wish.
    Field(min_length=1, max_length=PROMPT_LENGTH, pattern=r"\S", examples=["a red circle"]),
]
NegativePrompt = Annotated[str, Field(max_length=PROMPT_LENGTH)]
Side = Annotated[int, Field(ge=64, le=1024, multiple_of=8)]
Steps = Annotated[int, Field(ge=1, le=100)]
Guidance = Annotated[float, Field(ge=0, le=30)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Count = Annotated[int, Field(ge=1, le=8)]
Frames = Annotated[int, Field(ge=2, le=128)]
FramesPerSecond = Annotated[int, Field(ge=1, le=60)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a job shall make, sizes in pixels; without a seed chance chooses one of 32 bits."""

    prompt: str
    media: str = "image"
    negative_prompt: str = ""
    width: int = SIDE_PX
    height: int = SIDE_PX
    steps: int = STEPS
    guidance: float = GUIDANCE
    seed: int | None = None
    count: int = 1
    frames: int = VIDEO_FRAMES
    fps: int = VIDEO_FPS
    model: str = BUILTIN

    def columns(self) -> Mapping[str, Any]:
        """Give the columns that a job begins with; a video is one, a picture has no frames.

        Raises:
            Invalid: another kind than image and video.
        """
        is_video = self.media == "video"
        count = 1 if is_video else self.count
        return asdict(self) | {
            "seed": secrets.randbits(SEED_BITS) if self.seed is None else self.seed,
            "count": count,
            "frames": self.frames if is_video else 0,
            "fps": self.fps if is_video else 0,
            "cost": price(
                self.media, width=self.width, height=self.height, steps=self.steps, count=count
            ),
        }


def model_name(configured: str) -> str:
    """Give the name by which users know the configured model; of a folder only its own name."""
    return PurePath(configured).name or BUILTIN

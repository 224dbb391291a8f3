"""What others may send the generator."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

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
    prompt: Annotated[str, Field(min_length=1, max_length=2000)]
    negative_prompt: Annotated[str, Field(max_length=2000)] = ""
    width: Annotated[int, Field(ge=64, le=1024, multiple_of=8)] = 256
    height: Annotated[int, Field(ge=64, le=1024, multiple_of=8)] = 256
    steps: Annotated[int, Field(ge=1, le=100)] = 8
    guidance: Annotated[float, Field(ge=0, le=30)] = 2.0
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    count: Annotated[int, Field(ge=1, le=8)] = 1
    frames: Annotated[int, Field(ge=2, le=128)] = 16
    fps: Annotated[int, Field(ge=1, le=60)] = 16

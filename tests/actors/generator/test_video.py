import io
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import av
import numpy as np
import pytest

from limner.actors.generator.cancellation import Cancellation, Cancelled
from limner.actors.generator.noise import NoiseSource
from limner.actors.generator.pipeline import Pipeline, Pixels, Request
from limner.actors.generator.schedulers import Latents
from limner.actors.generator.video import BATCH_FRAMES, Clip, frames, spherical, webm
from limner.core.errors import Invalid

RED, STAR = "a red circle on a blue background", "a yellow star on a black background"


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load("builtin", "cpu")


def decoded(content: bytes) -> tuple[Any, list[Pixels]]:
    source: Any = av.open(io.BytesIO(content))
    with source as container:
        stream = container.streams.video[0]
        facts = (stream.codec_context.name, stream.average_rate, stream.codec_context.pix_fmt)
        return facts, [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]


def alone(pipeline: Pipeline, prompt: str, seed: int) -> Pixels:
    made = pipeline.generate([Request(prompt, seed)], steps=3)[0]
    assert made is not None
    return made


def test_a_clip_begins_and_ends_with_the_pictures_of_its_seeds(pipeline: Pipeline) -> None:
    clip = Clip(RED, 1, STAR, 9, steps=3, frames=5)
    made = list(frames(pipeline, clip))
    assert len(made) == 5
    assert (made[0] == alone(pipeline, RED, 1)).all()
    assert np.abs(made[-1].astype(int) - alone(pipeline, STAR, 9)).max() <= 1
    assert all((first != second).any() for first, second in pairwise(made))


def test_one_prompt_moves_on_to_the_next_seed(pipeline: Pipeline) -> None:
    made = list(frames(pipeline, Clip(RED, 4, steps=3, frames=3)))
    assert np.abs(made[-1].astype(int) - alone(pipeline, RED, 5)).max() <= 1


def test_a_clip_of_one_frame_is_its_first_picture(pipeline: Pipeline) -> None:
    made = list(frames(pipeline, Clip(RED, 4, steps=3, frames=1)))
    assert len(made) == 1
    assert (made[0] == alone(pipeline, RED, 4)).all()


def test_frames_are_told_by_their_number_over_all_batches(pipeline: Pipeline) -> None:
    told: set[tuple[int, int, int]] = set()

    def on_step(row: int, step: int, steps: int, latents: Latents) -> bool:
        told.add((row, step, steps))
        return False

    count = BATCH_FRAMES + 2
    made = list(frames(pipeline, Clip(RED, 1, steps=2, frames=count), on_step=on_step))
    assert len(made) == count
    assert told == {(row, step, 2) for row in range(count) for step in (1, 2)}


def test_a_cancelled_clip_ends_in_the_middle_of_its_file(pipeline: Pipeline) -> None:
    cancel = Cancellation()

    def pictures() -> Iterator[Pixels]:
        clip = Clip(RED, 1, steps=2, frames=2 * BATCH_FRAMES)
        for picture in frames(pipeline, clip, cancel=cancel):
            yield picture
            cancel.terminate()

    with pytest.raises(Cancelled):
        webm(pictures(), width=64, height=64)


def test_sixteen_frames_a_second_are_decoded_again_in_their_colours(pipeline: Pipeline) -> None:
    made = list(frames(pipeline, Clip(RED, 1, STAR, 9, steps=3)))
    facts, shown = decoded(webm(made, width=128, height=96))
    assert facts == ("vp9", 16, "yuv420p")
    assert len(shown) == 16
    assert {picture.shape for picture in shown} == {(96, 128, 3)}
    for picture, at in ((shown[0], made[0]), (shown[-1], made[-1])):
        assert np.abs(picture[48, 64].astype(int) - at[32, 32]).max() <= 16
        assert np.abs(picture[4, 4].astype(int) - at[10, 2]).max() <= 16


def test_odd_sides_are_made_even() -> None:
    grey = np.full((64, 64, 3), 120, np.uint8)
    _, shown = decoded(webm([grey] * 3, width=65, height=33, fps=8))
    assert [picture.shape for picture in shown] == [(34, 66, 3)] * 3


def test_the_same_pictures_give_the_same_bytes() -> None:
    ramp = [np.full((64, 64, 3), level, np.uint8) for level in (0, 60, 120)]
    assert webm(ramp, width=64, height=64) == webm(ramp, width=64, height=64)


def test_noise_between_two_seeds_is_as_loud_as_they_are() -> None:
    first, second = NoiseSource(1).normal((4, 8, 8)), NoiseSource(2).normal((4, 8, 8))
    middle = spherical(first, second, 0.5)
    assert np.linalg.norm(middle) == pytest.approx(np.linalg.norm(first), rel=0.05)
    assert spherical(first, second, 0) == pytest.approx(first, abs=1e-6)
    assert spherical(first, second, 1) == pytest.approx(second, abs=1e-6)
    assert spherical(first, first, 0.3) is first


@pytest.mark.parametrize("count", [0, 257])
def test_a_number_of_frames_out_of_bounds_is_refused(pipeline: Pipeline, count: int) -> None:
    with pytest.raises(Invalid, match="256"):
        frames(pipeline, Clip(RED, 1, frames=count))


def test_a_file_of_nothing_or_of_an_odd_rate_is_refused() -> None:
    with pytest.raises(Invalid, match="no pictures"):
        webm([], width=64, height=64)
    with pytest.raises(Invalid, match="120"):
        webm([], width=64, height=64, fps=0)

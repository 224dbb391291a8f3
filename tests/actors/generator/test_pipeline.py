import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from limner.actors.generator.cancellation import Cancellation, Cancelled
from limner.actors.generator.folder import builtin_path
from limner.actors.generator.pipeline import Pipeline, Pixels, Request
from limner.actors.generator.schedulers import Latents
from limner.core.errors import Invalid, NotConfigured

PROMPTS = [
    "a red circle on a blue background",
    "a white moon over the sea at night",
    "a pink heart below a white ring on a purple background",
    "a boat with a red sail on the ocean at sunset",
    "a green star in the top left on a white background",
]
REQUESTS = [Request(prompt, 100 + number) for number, prompt in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load("builtin", "cpu")


def picture(pipeline: Pipeline, request: Request, steps: int = 4) -> Pixels:
    made = pipeline.generate([request], steps=steps)[0]
    assert made is not None
    return made


def difference(first: Pixels, second: Pixels) -> int:
    return int(np.abs(first.astype(int) - second).max())


def test_a_picture_alone_is_the_same_as_in_a_batch(pipeline: Pipeline) -> None:
    batch = pipeline.generate(REQUESTS)
    for request, together in zip(REQUESTS, batch, strict=True):
        alone = picture(pipeline, request, steps=8)
        assert together is not None
        assert alone.shape == (64, 64, 3)
        assert alone.dtype == np.uint8
        assert difference(alone, together) == 0


def test_a_picture_does_not_depend_on_the_number_of_threads(pipeline: Pipeline) -> None:
    other = Pipeline.load(builtin_path(), "cpu", threads=2)
    assert difference(picture(pipeline, REQUESTS[0]), picture(other, REQUESTS[0])) <= 1


def test_seed_and_prompt_make_the_picture(pipeline: Pipeline) -> None:
    first = picture(pipeline, Request(PROMPTS[0], 1))
    assert difference(first, picture(pipeline, Request(PROMPTS[0], 1))) == 0
    assert difference(first, picture(pipeline, Request(PROMPTS[0], 2))) > 0
    assert difference(first, picture(pipeline, Request(PROMPTS[1], 1))) > 100


def test_rows_with_and_without_guidance_share_a_batch(pipeline: Pipeline) -> None:
    mixed = [Request(PROMPTS[0], 5, guidance) for guidance in (1.0, 2.0, 3.5, 1.0)]
    together = pipeline.generate(mixed, steps=4)
    for request, made in zip(mixed, together, strict=True):
        assert made is not None
        assert difference(made, picture(pipeline, request)) == 0
    assert together[0] is not None
    assert together[1] is not None
    assert difference(together[0], together[1]) > 0


def test_a_negative_prompt_changes_a_guided_picture_only(pipeline: Pipeline) -> None:
    def made(guidance: float, negative: str) -> Pixels:
        return picture(pipeline, Request(PROMPTS[1], 3, guidance, negative))

    assert difference(made(2.0, ""), made(2.0, "a red background")) > 0
    assert difference(made(1.0, ""), made(1.0, "a red background")) == 0


def test_every_row_is_told_of_every_step_with_latents_to_preview(pipeline: Pipeline) -> None:
    told: list[tuple[int, int, int]] = []
    previews: list[Pixels] = []

    def on_step(row: int, step: int, steps: int, latents: Latents) -> None:
        told.append((row, step, steps))
        if row == 0:
            previews.append(pipeline.decode(latents)[0])

    final = pipeline.generate(REQUESTS[:2], steps=3, on_step=on_step)[0]
    assert told == [(row, step, 3) for step in (1, 2, 3) for row in (0, 1)]
    assert final is not None
    errors = [np.abs(preview.astype(int) - final).mean() for preview in previews]
    assert errors[0] > errors[1] > errors[2]
    # The first preview already shows the blue background of the picture.
    assert np.abs(previews[0][0, 0].astype(int) - (35, 80, 225)).max() < 60


def test_a_row_stopped_by_its_callback_leaves_the_others_as_they_are(pipeline: Pipeline) -> None:
    seen: list[int] = []

    def on_step(row: int, step: int, steps: int, latents: Latents) -> bool:
        seen.append(row)
        return not (row == 1 and step == 2)

    made = pipeline.generate(REQUESTS[:3], steps=4, on_step=on_step)
    assert made[1] is None
    assert seen.count(1) == 2
    for row in (0, 2):
        kept = made[row]
        assert kept is not None
        assert difference(kept, picture(pipeline, REQUESTS[row])) == 0


def test_a_dropped_row_is_not_told_any_more(pipeline: Pipeline) -> None:
    cancel = Cancellation()
    seen: list[tuple[int, int]] = []

    def on_step(row: int, step: int, steps: int, latents: Latents) -> None:
        seen.append((row, step))
        if step == 1:
            cancel.drop(0)

    made = pipeline.generate(REQUESTS[:2], steps=3, on_step=on_step, cancel=cancel)
    assert made[0] is None
    assert made[1] is not None
    assert seen == [(0, 1), (1, 1), (1, 2), (1, 3)]


def test_a_run_ends_early_when_all_rows_have_left(pipeline: Pipeline) -> None:
    steps_seen: list[int] = []

    def on_step(row: int, step: int, steps: int, latents: Latents) -> bool:
        steps_seen.append(step)
        return False

    assert pipeline.generate(REQUESTS[:2], steps=50, on_step=on_step) == [None, None]
    assert steps_seen == [1, 1]


def test_an_exception_of_the_callback_ends_the_run(pipeline: Pipeline) -> None:
    def on_step(row: int, step: int, steps: int, latents: Latents) -> bool:
        raise Cancelled

    with pytest.raises(Cancelled):
        pipeline.generate(REQUESTS[:2], steps=4, on_step=on_step)


def test_another_thread_ends_a_run_and_the_model_stays_usable(pipeline: Pipeline) -> None:
    cancel, begun = Cancellation(), threading.Event()
    outcome: list[BaseException] = []

    def on_step(row: int, step: int, steps: int, latents: Latents) -> None:
        begun.set()

    def work() -> None:
        try:
            pipeline.generate(REQUESTS, steps=1000, on_step=on_step, cancel=cancel)
        except Cancelled as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(20)
    cancel.terminate()
    thread.join(20)
    assert not thread.is_alive()
    assert [type(error) for error in outcome] == [Cancelled]
    assert picture(pipeline, REQUESTS[0]).any()


def test_a_cancelled_run_does_not_begin(pipeline: Pipeline) -> None:
    cancel = Cancellation()
    cancel.terminate()
    assert cancel.is_terminated
    with pytest.raises(Cancelled):
        pipeline.generate(REQUESTS[:1], cancel=cancel)


def test_a_termination_at_the_last_step_still_counts(pipeline: Pipeline) -> None:
    cancel = Cancellation()

    def on_step(row: int, step: int, steps: int, latents: Latents) -> None:
        if step == steps:
            cancel.terminate()

    with pytest.raises(Cancelled):
        pipeline.generate(REQUESTS[:1], steps=2, on_step=on_step, cancel=cancel)


def test_nothing_asked_is_nothing_made(pipeline: Pipeline) -> None:
    assert pipeline.generate([]) == []


def test_too_many_steps_are_refused(pipeline: Pipeline) -> None:
    with pytest.raises(Invalid, match="1 to 1000"):
        pipeline.generate(REQUESTS[:1], steps=1001)


def test_the_pipeline_tells_what_a_job_records(pipeline: Pipeline) -> None:
    assert pipeline.scheduler_name == "FlowMatchEulerDiscreteScheduler"
    assert pipeline.native_size == (64, 64)
    assert pipeline.device.name == "cpu"
    assert len(pipeline.sha256) == 64
    assert pipeline.sha256 == Pipeline.load("builtin", "cpu").sha256
    assert pipeline.tokenize("a red cat").unknown == ("cat",)


def test_a_model_with_another_scheduler_is_refused_at_load(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(builtin_path(), folder)
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({"_class_name": "HeunDiscreteScheduler"}))
    with pytest.raises(NotConfigured, match="HeunDiscreteScheduler"):
        Pipeline.load(folder)

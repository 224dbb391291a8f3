"""The painter that runs ONNX models in a thread of its own, one batch at a time."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from limner.actors.generator import pictures, video
from limner.actors.generator.cancellation import Cancellation, Cancelled
from limner.actors.generator.painter import Order, Output, Painting, Report
from limner.actors.generator.pipeline import Pipeline, Pixels, Request
from limner.actors.generator.schedulers import Latents
from limner.actors.generator.words import translate
from limner.core.logs import get_logger

log = get_logger("generator")

BUILTIN = "builtin"
MAX_BATCH = 8
PNG = "image/png"


class Studio:
    """Loads the model at the first batch and keeps it."""

    max_batch = MAX_BATCH

    def __init__(self, model: str, device: Literal["auto", "cpu", "cuda"]) -> None:
        self._model = model
        self._wanted_device = device
        self._pipeline: Pipeline | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="onnx")

    @property
    def device(self) -> str:
        return self._pipeline.device.name if self._pipeline else self._wanted_device

    @property
    def model_hash(self) -> str:
        return self._pipeline.sha256 if self._pipeline else ""

    async def paint(self, orders: Sequence[Order], report: Report) -> list[Painting]:
        loop = asyncio.get_running_loop()
        cancel = Cancellation()
        work = loop.run_in_executor(self._thread, self._paint, list(orders), report, cancel)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            cancel.terminate()
            await asyncio.gather(work, return_exceptions=True)
            raise

    async def aclose(self) -> None:
        await asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True)

    def _load(self) -> Pipeline:
        if self._pipeline is None:
            self._pipeline = Pipeline.load(self._model, self._wanted_device)
            log.info("model loaded", model=self._model, device=self._pipeline.device.name)
        return self._pipeline

    def _paint(self, orders: list[Order], report: Report, cancel: Cancellation) -> list[Painting]:
        pipeline = self._load()
        prompts = [self._prompt(order, pipeline) for order in orders]
        if orders[0].media == "video":
            return [
                self._clip(pipeline, order, *prompt, report, cancel)
                for order, prompt in zip(orders, prompts, strict=True)
            ]
        return self._stills(pipeline, orders, prompts, report, cancel)

    def _prompt(self, order: Order, pipeline: Pipeline) -> tuple[str, tuple[str, ...]]:
        """Give the prompt in the model's words and warnings about those it does not know."""
        if self._model == BUILTIN:
            translation = translate(order.prompt)
            prompt, unknown = translation.prompt_for_model, translation.unknown_words
        else:
            prompt = order.prompt
            unknown = tuple(pipeline.tokenize(prompt).unknown)
        if not unknown:
            return prompt, ()
        return prompt, ("The model does not know: " + ", ".join(unknown[:20]),)

    def _stills(
        self,
        pipeline: Pipeline,
        orders: list[Order],
        prompts: list[tuple[str, tuple[str, ...]]],
        report: Report,
        cancel: Cancellation,
    ) -> list[Painting]:
        rows = [place for place, order in enumerate(orders) for _ in range(order.count)]
        requests = [
            Request(prompts[place][0], order.seed + n, order.guidance, order.negative_prompt)
            for place, order in enumerate(orders)
            for n in range(order.count)
        ]

        def on_step(row: int, step: int, steps: int, _: Latents) -> bool:
            return report(orders[rows[row]].job_id, step, steps)

        made = pipeline.generate(requests, steps=orders[0].steps, on_step=on_step, cancel=cancel)
        outputs: list[list[Output] | None] = [[] for _ in orders]
        for place, pixels in zip(rows, made, strict=True):
            mine = outputs[place]
            if pixels is None:
                outputs[place] = None
            elif mine is not None:
                mine.append(_still(pixels, orders[place]))
        return [
            Painting(None if one is None else tuple(one), warnings)
            for one, (_, warnings) in zip(outputs, prompts, strict=True)
        ]

    def _clip(
        self,
        pipeline: Pipeline,
        order: Order,
        prompt: str,
        warnings: tuple[str, ...],
        report: Report,
        cancel: Cancellation,
    ) -> Painting:
        clip = video.Clip(
            prompt,
            order.seed,
            negative_prompt=order.negative_prompt,
            guidance=order.guidance,
            steps=order.steps,
            frames=order.frames,
        )

        def on_step(row: int, step: int, steps: int, _: Latents) -> bool | None:
            if not report(order.job_id, row * steps + step, order.frames * steps):
                raise Cancelled
            return None

        try:
            frames = list(video.frames(pipeline, clip, on_step=on_step, cancel=cancel))
        except Cancelled:
            if cancel.is_terminated:
                raise
            return Painting(None, warnings)
        poster = pictures.scaled(frames[0], order.width, order.height)
        content = video.webm(frames, width=order.width, height=order.height, fps=order.fps)
        output = Output(
            content,
            video.CONTENT_TYPE,
            order.width + order.width % 2,
            order.height + order.height % 2,
            pictures.blurhash(poster),
            pictures.png(poster),
        )
        return Painting((output,), warnings)


def _still(pixels: Pixels, order: Order) -> Output:
    image = pictures.scaled(pixels, order.width, order.height)
    return Output(pictures.png(image), PNG, order.width, order.height, pictures.blurhash(image))

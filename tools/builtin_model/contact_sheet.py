"""Draws what the model makes of 24 prompts, two seeds each, on one sheet to look at.

``python -m tools.builtin_model.contact_sheet OUT.png [--folder FOLDER] [--hard]``; ``--hard`` takes
prompts outside the grammar the model was trained on, and Chinese ones.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from limner.actors.generator.pipeline import DEFAULT_GUIDANCE, DEFAULT_STEPS, Pipeline, Request
from limner.actors.generator.words import translate

COLUMNS = 6
CELL_PX = (212, 144)
PICTURE_PX = 100
LINE_CHARACTERS = 33

PROMPTS = (
    "a red circle on a blue background",
    "a big yellow star on a black background",
    "a green triangle on a white background",
    "a purple heart on a pink background",
    "a small white cross in the top left on a red background",
    "an orange square in the bottom right on a cyan background",
    "a cyan ring in the top right on a brown background",
    "a black diamond in the left on a yellow background",
    "a pink heart",
    "a big gray square on a green background",
    "a brown triangle at the bottom, white background",
    "a blue background with a tiny yellow circle in the bottom left corner",
    "a red circle above a blue square",
    "a green triangle to the left of a yellow star on a black background",
    "a pink heart below a white ring on a purple background",
    "an orange cross right of a cyan diamond",
    "a yellow sun above a green mountain, blue sky",
    "a white moon over the sea at night",
    "a red house on a green field and a blue mountain at sunset",
    "a boat with a white sail on the sea",
    "a pink house and a tree on the snow under a gray sky",
    "a tree on the grass and a red sun over the grass at sunset",
    "a boat with a red sail on the ocean, a yellow moon behind a black mountain at night",
    "clouds, a desert, blue sky",
)
HARD_PROMPTS = (
    "蓝色背景上的红色圆形",
    "绿色山上的黄色太阳",
    "夜晚的大海和白色的月亮",
    "帮我画一颗黄色的星星",
    "左边是红色圆形，右边是蓝色方块",
    "雪地上有一座粉色的房子和一棵树，阴天",
    "夜晚大海上的红帆小船，黑色的山后面有黄色的月亮",
    "夕阳下的大海",
    "紅色圓形在藍色方塊上面",
    "白色星星",
    "a ring",
    "blue",
    "a red circle and a blue square",
    "a grey cat on a red background",
    "three red circles on a white background",
    "a star over the sea at night",
    "a green sun over the sea",
    "a yellow house on the sea",
    "a tree on a red background",
    "a purple mountain at night",
    "a white boat on the ocean at sunset with a red sun",
    "a red heart above a blue heart to the left of a green heart",
    "a black moon over a white mountain",
    "a cyan cross on the grass",
)


def sheet(pipeline: Pipeline, prompts: Sequence[str], steps: int, guidance: float) -> Image.Image:
    """Return the sheet; under each pair of pictures stands what the model was told."""
    rows = -(-len(prompts) // COLUMNS)
    paper = Image.new("RGB", (COLUMNS * CELL_PX[0], rows * CELL_PX[1]), "white")
    pen = ImageDraw.Draw(paper)
    for number, prompt in enumerate(prompts):
        told = translate(prompt).prompt_for_model
        requests = [Request(told, 2 * number + copy, guidance) for copy in (0, 1)]
        x, y = number % COLUMNS * CELL_PX[0] + 4, number // COLUMNS * CELL_PX[1]
        for copy, pixels in enumerate(pipeline.generate(requests, steps=steps)):
            if pixels is not None:
                picture = Image.fromarray(pixels).resize((PICTURE_PX, PICTURE_PX))
                paper.paste(picture, (x + copy * (PICTURE_PX + 2), y))
        for line, text in enumerate(_lines(told)):
            pen.text((x, y + PICTURE_PX + 2 + 11 * line), text, fill="black")
    return paper


def _lines(text: str) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > LINE_CHARACTERS:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def main() -> None:
    """Draw the sheet that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--folder", default="builtin")
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS)
    parser.add_argument("--guidance", type=float, default=DEFAULT_GUIDANCE)
    parser.add_argument("--hard", action="store_true")
    asked = parser.parse_args()
    prompts = HARD_PROMPTS if asked.hard else PROMPTS
    sheet(Pipeline.load(asked.folder), prompts, asked.steps, asked.guidance).save(asked.out)


if __name__ == "__main__":
    main()

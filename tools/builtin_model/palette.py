"""Colours and shapes, and how a shape is drawn."""

import math
import random
from typing import Any

from PIL import ImageDraw

Rgb = tuple[int, int, int]
Point = tuple[float, float]

CANVAS_PX = 128
"""Pictures are drawn at this size and averaged down, so that edges are smooth."""

PICTURE_PX = 64

COLOURS: dict[str, Rgb] = {
    "red": (225, 30, 35),
    "green": (30, 160, 60),
    "blue": (35, 80, 225),
    "yellow": (250, 220, 40),
    "orange": (245, 140, 25),
    "purple": (135, 50, 180),
    "pink": (250, 140, 190),
    "white": (248, 248, 248),
    "black": (15, 15, 15),
    "gray": (130, 130, 130),
    "brown": (125, 75, 35),
    "cyan": (40, 210, 220),
}

SHAPES = ["circle", "square", "triangle", "star", "heart", "diamond", "ring", "cross"]


def jittered(colour: Rgb, dice: random.Random, levels: int = 10) -> Rgb:
    """Return a colour up to ``levels`` off in each channel."""
    red, green, blue = (
        max(0, min(255, int(value + dice.uniform(-levels, levels)))) for value in colour
    )
    return red, green, blue


def article(words: str, dice: random.Random | None = None) -> str:
    """Return ``words`` with a or an; with ``dice``, once in a while without."""
    if dice is not None and dice.random() > 0.92:
        return words
    return ("an " if words[0] in "aeiou" else "a ") + words


def draw_shape(
    canvas: ImageDraw.ImageDraw,
    shape: str,
    middle: Point,
    radius: float,
    colour: Rgb,
    *,
    hole: Rgb | None = None,
) -> None:
    """Draw ``shape``; ``middle`` and ``radius`` are fractions of the side.

    ``hole`` fills the inside of a ring.
    """
    x, y, r = middle[0] * CANVAS_PX, middle[1] * CANVAS_PX, radius * CANVAS_PX
    if shape in ("circle", "ring"):
        canvas.ellipse(_square(x, y, r), fill=colour)
        if shape == "ring":
            canvas.ellipse(_square(x, y, r * 0.52), fill=hole)
    elif shape == "square":
        canvas.rectangle(_square(x, y, r * 0.88), fill=colour)
    elif shape == "cross":
        canvas.rectangle((x - r, y - r * 0.33, x + r, y + r * 0.33), fill=colour)
        canvas.rectangle((x - r * 0.33, y - r, x + r * 0.33, y + r), fill=colour)
    else:
        canvas.polygon(_corners(shape, x, y, r), fill=colour)


def _square(x: float, y: float, r: float) -> tuple[float, float, float, float]:
    return x - r, y - r, x + r, y + r


def _corners(shape: str, x: float, y: float, r: float) -> list[Any]:
    if shape == "triangle":
        return [(x, y - r), (x + r, y + r * 0.85), (x - r, y + r * 0.85)]
    if shape == "diamond":
        return [(x, y - r * 1.1), (x + r * 0.8, y), (x, y + r * 1.1), (x - r * 0.8, y)]
    if shape == "star":
        reach = [r * (1.1 if corner % 2 == 0 else 0.45) for corner in range(10)]
        turns = [corner * math.pi / 5 for corner in range(10)]
        return [
            (x + far * math.sin(turn), y - far * math.cos(turn))
            for far, turn in zip(reach, turns, strict=True)
        ]
    if shape == "heart":
        return [_heart(x, y, r, step / 40 * 2 * math.pi) for step in range(40)]
    message = f"no shape {shape}"
    raise ValueError(message)


def _heart(x: float, y: float, r: float, turn: float) -> Point:
    lobes = 13 * math.cos(turn) - 5 * math.cos(2 * turn)
    return (
        x + r * math.sin(turn) ** 3,
        y - r * (lobes - 2 * math.cos(3 * turn) - math.cos(4 * turn)) / 15,
    )

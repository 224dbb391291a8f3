"""What can be seen in a picture of 64×64, by colour masks and template matching alone.

Nothing here is learnt: the checks that judge the model cannot share its mistakes.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tools.builtin_model.drawings import POSITIONS, RELATIONS, Pair, Single
from tools.builtin_model.landscapes import GROUNDS, SKIES, TREE, Scene
from tools.builtin_model.palette import CANVAS_PX, COLOURS, PICTURE_PX, SHAPES, draw_shape

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Colour = NDArray[np.float64]

NAMES = list(COLOURS)
PALETTE = np.array([COLOURS[name] for name in NAMES], float)
LEAST_DISTANCE = 20
"""Differences below this, in levels of 255, are taken for noise."""

LEAST_PIXELS = 12
"""Masks with fewer pixels hold no object."""


def see_single(picture: Picture, asked: Single) -> dict[str, bool]:
    """Return which attributes of a single object the picture shows."""
    index, background = find_background(picture)
    distance = _distance(picture, background)
    most = np.percentile(distance, 98)
    mask = without_specks(distance > max(LEAST_DISTANCE, 0.5 * most))
    core = distance > max(LEAST_DISTANCE, 0.85 * most)
    middle = middle_of(mask)
    seen = {"background": NAMES[index] == asked.background}
    if middle is None:
        return {**seen, "colour": False, "position": False, "shape": False}
    places = np.array(list(POSITIONS.values()))
    place = int(((places - middle) ** 2).sum(1).argmin())
    return {
        **seen,
        "colour": nearest_colour(np.median(picture[core], axis=0)) == asked.colour,
        "position": list(POSITIONS)[place] == asked.position,
        "shape": find_shape(mask) == asked.shape,
    }


def see_pair(picture: Picture, asked: Pair) -> dict[str, bool]:
    """Return which attributes of a pair the picture shows, each object sought in its half."""
    index, background = find_background(picture)
    distance = _distance(picture, background)
    first = np.zeros((PICTURE_PX, PICTURE_PX), bool)
    dx, dy = RELATIONS[asked.relation]
    if dy:
        first[: PICTURE_PX // 2] = True
    else:
        first[:, : PICTURE_PX // 2] = True
    if dx > 0 or dy > 0:
        first = ~first
    seen = {"background": NAMES[index] == asked.background}
    objects = (
        ("first", first, asked.colour, asked.shape),
        ("second", ~first, asked.second_colour, asked.second_shape),
    )
    for name, half, colour, shape in objects:
        most = np.percentile(distance[half], 96)
        mask = without_specks((distance > max(LEAST_DISTANCE, 0.5 * most)) & half)
        core = (distance > max(LEAST_DISTANCE, 0.85 * most)) & half
        there = middle_of(mask) is not None
        paint = np.median(picture[core], axis=0) if there else background
        seen[f"{name} colour"] = there and nearest_colour(paint) == colour
        seen[f"{name} shape"] = there and find_shape(mask) == shape
    return seen


def see_scene(picture: Picture, asked: Scene) -> dict[str, bool]:
    """Return which parts of a scene the picture shows, each sought where it belongs."""
    skies = [top for top, _ in SKIES.values()]
    top = np.median(picture[:5].reshape(-1, 3), axis=0)
    bottom = np.median(picture[58:].reshape(-1, 3), axis=0)
    seen = {
        "sky": list(SKIES)[_nearest(top, skies)] == asked.sky,
        "ground": list(GROUNDS)[_nearest(bottom, list(GROUNDS.values()))] == asked.ground,
    }
    if asked.body:
        seen["sun or moon"] = _count(picture[3:20], COLOURS[asked.body_colour]) >= 15
    if asked.mountain:
        seen["mountain"] = _count(picture[24:39], COLOURS[asked.mountain]) >= 50
    if asked.house:
        seen["house"] = _count(picture[38:55, 8:46], COLOURS[asked.house]) >= 40
    if asked.boat:
        seen["sail"] = _count(picture[26:52], COLOURS[asked.boat]) >= 25
    if asked.tree:
        seen["tree"] = _count(picture[26:48, 40:64], TREE) >= 30
    return seen


def see(picture: Picture, asked: Single | Pair | Scene) -> Mapping[str, bool]:
    """Return which of the asked attributes the picture shows."""
    if isinstance(asked, Single):
        return see_single(picture, asked)
    return see_pair(picture, asked) if isinstance(asked, Pair) else see_scene(picture, asked)


def find_background(picture: Picture) -> tuple[int, Colour]:
    """Return the palette index of the commonest colour along the edges, and that colour."""
    edges = (picture[:3], picture[-3:], picture[:, :3], picture[:, -3:])
    edge = np.concatenate([strip.reshape(-1, 3) for strip in edges]).astype(float)
    labels = ((edge[:, None] - PALETTE) ** 2).sum(2).argmin(1)
    index = int(np.bincount(labels, minlength=len(PALETTE)).argmax())
    return index, np.median(edge[labels == index], axis=0)


def nearest_colour(colour: Colour) -> str:
    """Return the palette's name for ``colour``."""
    return NAMES[_nearest(colour, PALETTE)]


def without_specks(mask: Mask) -> Mask:
    """Return the mask without pixels that have fewer than 3 of 8 neighbours in it."""
    padded = np.pad(mask, 1).astype(int)
    height, width = mask.shape
    neighbours = sum(
        padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
        if dx or dy
    )
    return np.asarray(mask & (neighbours >= 3))


def middle_of(mask: Mask) -> Colour | None:
    """Return the middle (x, y) of the mask's box as fractions of the side, None if it is empty."""
    rows, columns = np.nonzero(mask)
    if len(rows) < LEAST_PIXELS:
        return None
    sides = (columns.min() + columns.max() + 1, rows.min() + rows.max() + 1)
    return np.array(sides, float) / (2 * PICTURE_PX)


def find_shape(mask: Mask) -> str | None:
    """Return the shape whose template overlaps the mask best (intersection over union)."""
    middle = middle_of(mask)
    if middle is None:
        return None
    right, down = (PICTURE_PX // 2 - round(float(part) * PICTURE_PX) for part in middle)
    centred = np.roll(mask, (down, right), (0, 1)).reshape(-1).astype(np.float32)
    shapes, templates, areas = _templates()
    overlap = templates @ centred
    return shapes[int((overlap / (areas + centred.sum() - overlap + 1)).argmax())]


@lru_cache(maxsize=1)
def _templates() -> tuple[list[str], NDArray[np.float32], NDArray[np.float32]]:
    """Return shapes of all sizes with small shifts: names, pixels [n, 4096], areas [n]."""
    shapes, rows = [], []
    for shape in SHAPES:
        for radius in np.arange(0.11, 0.37, 0.0125):
            for dx in (-1, 0, 1):
                for dy in (-2, -1, 0, 1, 2):
                    shapes.append(shape)
                    middle = (0.5 + dx / PICTURE_PX, 0.5 + dy / PICTURE_PX)
                    rows.append(_template(shape, float(radius), middle))
    pixels = np.stack(rows)
    return shapes, pixels, pixels.sum(1)


def _template(shape: str, radius: float, middle: tuple[float, float]) -> NDArray[np.float32]:
    image = Image.new("RGB", (CANVAS_PX, CANVAS_PX))
    white, black = (255, 255, 255), (0, 0, 0)
    draw_shape(ImageDraw.Draw(image), shape, middle, radius, white, hole=black)
    small = np.asarray(image.resize((PICTURE_PX, PICTURE_PX), Image.Resampling.BOX))
    return (small[..., 0] > 127).reshape(-1).astype(np.float32)


def _distance(picture: Picture, colour: Colour) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(((picture.astype(float) - colour) ** 2).sum(2)))


def _nearest(colour: Colour, table: Sequence[Sequence[int]] | Colour) -> int:
    return int(((np.asarray(table, float) - colour) ** 2).sum(1).argmin())


def _count(region: Picture, colour: Sequence[int]) -> int:
    """Return how many pixels of the region are within 65 levels of ``colour``."""
    squares = ((region.astype(float) - np.asarray(colour, float)) ** 2).sum(2)
    return int((squares < 65**2).sum())

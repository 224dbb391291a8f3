"""What the built-in model learns from: drawn pictures of 64×64 with their captions.

Three kinds: single objects, pairs with a relation, simple scenes. Combinations for which
``is_held_out`` is true are never drawn for training; the gate (obedience.py) asks only for them.

``python -m tools.builtin_model.drawings FOLDER [--singles N] [--pairs N] [--scenes N]`` draws the
training pools: ``single.npy`` uint8 [N, 64, 64, 3] with ``single.json``, its captions, and so on,
and ``words.json``, the vocabulary.
"""

import argparse
import json
import math
import multiprocessing
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tools.builtin_model.landscapes import Scene, draw_scene
from tools.builtin_model.palette import (
    CANVAS_PX,
    COLOURS,
    PICTURE_PX,
    SHAPES,
    article,
    draw_shape,
    jittered,
)

Kind = Literal["single", "pair", "scene"]
KINDS: tuple[Kind, ...] = ("single", "pair", "scene")

POSITIONS = {
    "top left": (0.28, 0.28),
    "top": (0.5, 0.28),
    "top right": (0.72, 0.28),
    "left": (0.28, 0.5),
    "center": (0.5, 0.5),
    "right": (0.72, 0.5),
    "bottom left": (0.28, 0.72),
    "bottom": (0.5, 0.72),
    "bottom right": (0.72, 0.72),
}
"""Middle of the object as fractions of the side, from the top left."""

RADII = {"small": 0.15, "": 0.22, "big": 0.32}
OFF_CENTRE_RADIUS = 0.245
"""The most an object may have that is not in the middle, so that it stays inside."""

RELATIONS = {
    "above": (0.0, -0.24),
    "below": (0.0, 0.24),
    "left": (-0.24, 0.0),
    "right": (0.24, 0.0),
}
"""Where the first object of a pair is; the second one is opposite."""

RELATION_WORDS = {
    "above": ["above", "over", "on top of"],
    "below": ["below", "under"],
    "left": ["to the left of", "left of"],
    "right": ["to the right of", "right of"],
}

EXTRA_WORDS = {"picture", "drawing", "image", "photo", "of", "draw", "grey", "centre"}
"""In the vocabulary, though no caption has them; limner's word table takes them away."""


@dataclass(frozen=True, slots=True)
class Single:
    """One object. ``size`` is small, big, or empty."""

    colour: str
    shape: str
    background: str
    position: str
    size: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Two objects: the first one is above, below, left or right (``relation``) of the second."""

    colour: str
    shape: str
    second_colour: str
    second_shape: str
    relation: str
    background: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture (uint8 [64, 64, 3]), its caption and what it shows."""

    picture: NDArray[np.uint8]
    caption: str
    attributes: Single | Pair | Scene


def is_held_out(*key: str) -> bool:
    """Tell whether a combination is one of the sixteenth that training never sees."""
    return zlib.crc32("|".join(key).encode()) % 16 == 0


def pick_single(dice: random.Random, *, held_out: bool = False) -> Single:
    """Return the attributes of a single object, from the held-out combinations or the others."""
    while True:
        background = dice.choice(list(COLOURS))
        colour = dice.choice([name for name in COLOURS if name != background])
        shape = dice.choice(SHAPES)
        position = dice.choice([*POSITIONS, "center", "center"])
        if is_held_out(colour, shape, background, position) == held_out:
            return Single(
                colour, shape, background, position, dice.choice(["", "", "small", "big"])
            )


def plain_single_caption(single: Single) -> str:
    """Return the caption in the one wording that the gate uses."""
    thing = article(f"{single.size} {single.colour} {single.shape}".strip())
    place = "" if single.position == "center" else f" in the {single.position}"
    return f"{thing}{place} on {article(single.background + ' background')}"


def single_caption(single: Single, dice: random.Random) -> str:
    """Return a caption in one of the wordings of the training set."""
    big, small = dice.choice(["big", "large"]), dice.choice(["small", "tiny"])
    size = {"": "", "big": big, "small": small}[single.size]
    thing = article(" ".join(word for word in (size, single.colour, single.shape) if word), dice)
    if single.position == "center":
        centred = dice.random() >= 0.6
        wordings = [" in the center", " in the middle", " at the center"]
        place = dice.choice(wordings) if centred else ""
    else:
        preposition = dice.choice([" in the ", " in the ", " at the "])
        corner = ["", "", "", " corner"] if " " in single.position else [""]
        place = preposition + single.position + dice.choice(corner)
    if single.background == "white" and dice.random() < 0.3:
        return thing + place
    background = f"{single.background} background"
    wordings = [f"{thing}{place} on {article(background, dice)}"] * 2
    wordings.append(f"{thing}{place} with {article(background, dice)}")
    wordings.append(f"{thing}{place}, {background}")
    wordings.append(f"{article(background, dice)} with {thing}{place}")
    return dice.choice(wordings)


def draw_single(single: Single, dice: random.Random) -> Image.Image:
    """Draw a single object, a little off its place, size and colour."""
    x, y = POSITIONS[single.position]
    x += dice.uniform(-0.025, 0.025)
    y += dice.uniform(-0.025, 0.025)
    background = jittered(COLOURS[single.background], dice)
    image = Image.new("RGB", (CANVAS_PX, CANVAS_PX), background)
    radius = RADII[single.size] * dice.uniform(0.93, 1.07)
    if single.position != "center":
        radius = min(radius, OFF_CENTRE_RADIUS)
    colour = jittered(COLOURS[single.colour], dice)
    draw_shape(ImageDraw.Draw(image), single.shape, (x, y), radius, colour, hole=background)
    return image


def pick_pair(dice: random.Random, *, held_out: bool = False) -> Pair:
    """Return the attributes of a pair, from the held-out combinations or the others."""
    while True:
        background = dice.choice(["white"] * 4 + list(COLOURS))
        first, second = dice.sample([name for name in COLOURS if name != background], 2)
        shape, second_shape = dice.choice(SHAPES), dice.choice(SHAPES)
        relation = dice.choice(list(RELATIONS))
        if is_held_out(first, shape, relation, second, second_shape) == held_out:
            return Pair(first, shape, second, second_shape, relation, background)


def plain_pair_caption(pair: Pair) -> str:
    """Return the caption in the one wording that the gate uses."""
    return (
        f"{article(pair.colour + ' ' + pair.shape)} {RELATION_WORDS[pair.relation][0]} "
        f"{article(pair.second_colour + ' ' + pair.second_shape)}"
        f" on {article(pair.background + ' background')}"
    )


def pair_caption(pair: Pair, dice: random.Random) -> str:
    """Return a caption in one of the wordings of the training set."""
    words = dice.choice(RELATION_WORDS[pair.relation])
    caption = (
        f"{article(pair.colour + ' ' + pair.shape, dice)} {words} "
        f"{article(pair.second_colour + ' ' + pair.second_shape, dice)}"
    )
    if pair.background != "white" or dice.random() < 0.4:
        caption += f" on {article(pair.background + ' background')}"
    return caption


def draw_pair(pair: Pair, dice: random.Random) -> Image.Image:
    """Draw a pair, each object a little off its place."""

    def shift() -> float:
        return dice.uniform(-0.025, 0.025)

    dx, dy = RELATIONS[pair.relation]
    background = jittered(COLOURS[pair.background], dice)
    image = Image.new("RGB", (CANVAS_PX, CANVAS_PX), background)
    canvas = ImageDraw.Draw(image)
    radius = 0.19 * dice.uniform(0.93, 1.07)
    objects = ((pair.shape, pair.colour, 1), (pair.second_shape, pair.second_colour, -1))
    for shape, colour, side in objects:
        middle = (0.5 + side * dx + shift(), 0.5 + side * dy + shift())
        paint = jittered(COLOURS[colour], dice)
        draw_shape(canvas, shape, middle, radius, paint, hole=background)
    return image


def shrunk(image: Image.Image) -> NDArray[np.uint8]:
    """Return the picture at the model's size, averaged."""
    return np.asarray(image.resize((PICTURE_PX, PICTURE_PX), Image.Resampling.BOX))


def draw(kind: Kind, dice: random.Random, *, held_out: bool = False) -> Sample:
    """Return one sample of ``kind``."""
    if kind == "single":
        single = pick_single(dice, held_out=held_out)
        picture = shrunk(draw_single(single, dice))
        return Sample(picture, single_caption(single, dice), single)
    if kind == "pair":
        pair = pick_pair(dice, held_out=held_out)
        picture = shrunk(draw_pair(pair, dice))
        return Sample(picture, pair_caption(pair, dice), pair)
    while True:
        image, caption, scene = draw_scene(dice)
        if is_held_out(caption) == held_out:
            return Sample(shrunk(image), caption, scene)


def draw_part(kind: Kind, seed: int, count: int) -> tuple[NDArray[np.uint8], list[str]]:
    """Return ``count`` pictures [count, 64, 64, 3] and their captions."""
    dice = random.Random(seed)
    pictures = np.empty((count, PICTURE_PX, PICTURE_PX, 3), np.uint8)
    captions = []
    for index in range(count):
        sample = draw(kind, dice)
        pictures[index] = sample.picture
        captions.append(sample.caption)
    return pictures, captions


def vocabulary() -> list[str]:
    """Return every word the captions can hold, found by drawing many (fixed seed)."""
    dice = random.Random(1)
    words = set(EXTRA_WORDS)
    for kind in KINDS:
        for _ in range(6000):
            if kind == "single":
                caption = single_caption(pick_single(dice), dice)
            elif kind == "pair":
                caption = pair_caption(pick_pair(dice), dice)
            else:
                caption = draw_scene(dice)[1]
            words |= set(caption.replace(",", " , ").split())
    return sorted(words)


def write_pools(folder: Path, counts: Sequence[tuple[Kind, int]], parts: int = 10) -> None:
    """Draw the training pools into ``folder``, each in ``parts`` parts with seeds of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "words.json").write_text(json.dumps(vocabulary()))
    with multiprocessing.get_context("spawn").Pool() as workers:
        for number, (kind, count) in enumerate(counts, start=1):
            jobs = [(kind, 1000 * number + part, math.ceil(count / parts)) for part in range(parts)]
            drawn = workers.starmap(draw_part, jobs)
            np.save(folder / f"{kind}.npy", np.concatenate([pictures for pictures, _ in drawn]))
            captions = [caption for _, part in drawn for caption in part]
            (folder / f"{kind}.json").write_text(json.dumps(captions))
            print(f"{kind}: {len(captions)} pictures")


def main() -> None:
    """Draw the pools that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--singles", type=int, default=120_000)
    parser.add_argument("--pairs", type=int, default=60_000)
    parser.add_argument("--scenes", type=int, default=60_000)
    asked = parser.parse_args()
    counts: list[tuple[Kind, int]] = [
        ("single", asked.singles),
        ("pair", asked.pairs),
        ("scene", asked.scenes),
    ]
    write_pools(asked.folder, counts)


if __name__ == "__main__":
    main()

"""Scenes: a sky over a ground, with sun or moon, clouds, a mountain, a boat, a house, a tree."""

import random
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

from tools.builtin_model.palette import (
    CANVAS_PX,
    COLOURS,
    Rgb,
    article,
    draw_shape,
    jittered,
)

SKIES: dict[str, tuple[Rgb, Rgb]] = {
    "blue": ((70, 150, 240), (170, 215, 250)),
    "night": ((8, 10, 40), (30, 35, 90)),
    "sunset": ((90, 50, 130), (250, 140, 60)),
    "gray": ((120, 125, 135), (185, 190, 195)),
}
"""Top and bottom of each sky."""

GROUNDS: dict[str, Rgb] = {
    "sea": (25, 95, 185),
    "field": (70, 175, 65),
    "desert": (225, 190, 115),
    "snow": (240, 245, 250),
}

TREE: Rgb = (25, 125, 45)
SAIL_COLOURS = ["red", "white", "yellow", "black", "orange"]
HOUSE_COLOURS = ["red", "white", "yellow", "blue", "orange", "pink"]
MOUNTAIN_COLOURS = ["green", "gray", "brown", "blue", "purple", "black", "white", "red"]


@dataclass(slots=True)
class Scene:
    """What a scene holds; empty where a part is missing. ``body`` is sun or moon."""

    sky: str
    ground: str
    body: str = ""
    body_colour: str = ""
    clouds: bool = False
    mountain: str = ""
    boat: str = ""
    house: str = ""
    tree: bool = False


@dataclass(slots=True)
class _Drawing:
    """A scene while it is drawn; every part takes its dice throws in a fixed order."""

    dice: random.Random
    scene: Scene
    horizon: float
    image: Image.Image
    canvas: ImageDraw.ImageDraw = field(init=False)

    def __post_init__(self) -> None:
        self.canvas = ImageDraw.Draw(self.image)


def draw_scene(dice: random.Random) -> tuple[Image.Image, str, Scene]:
    """Return a picture of the size of the canvas, its caption and what it shows."""
    sky = dice.choice(["blue", "blue", "night", "sunset", "gray"])
    scene = Scene(sky=sky, ground=dice.choice(list(GROUNDS)))
    image = _sky(scene, dice)
    drawing = _Drawing(dice, scene, dice.uniform(0.62, 0.66), image)
    _stars(drawing)
    _body(drawing)
    _clouds(drawing)
    _mountain(drawing)
    ground = (0, drawing.horizon * CANVAS_PX, CANVAS_PX, CANVAS_PX)
    drawing.canvas.rectangle(ground, fill=jittered(GROUNDS[scene.ground], dice))
    if scene.ground == "sea":
        _sea(drawing)
    else:
        _land(drawing)
    return image, _caption(scene, dice), scene


def _sky(scene: Scene, dice: random.Random) -> Image.Image:
    depth = np.linspace(0, 1, CANVAS_PX)[:, None, None]
    top, bottom = SKIES[scene.sky]
    colours = np.array(jittered(top, dice)) * (1 - depth) + np.array(jittered(bottom, dice)) * depth
    wide = np.broadcast_to(colours, (CANVAS_PX, CANVAS_PX, 3)).astype("uint8").copy()
    return Image.fromarray(wide)


def _stars(drawing: _Drawing) -> None:
    if drawing.scene.sky != "night":
        return
    dice = drawing.dice
    for _ in range(dice.randint(8, 14)):
        x, y = dice.uniform(0, CANVAS_PX), dice.uniform(0, CANVAS_PX * 0.5)
        drawing.canvas.ellipse((x, y, x + 1.8, y + 1.8), fill=(255, 255, 230))


def _body(drawing: _Drawing) -> None:
    dice, scene = drawing.dice, drawing.scene
    night = scene.sky == "night"
    scene.body = dice.choice(["moon", "moon", ""] if night else ["sun", "moon", "", "sun"])
    if not scene.body:
        return
    sun, moon = ["yellow", "yellow", "orange", "red", "white"], ["white", "white", "yellow"]
    scene.body_colour = dice.choice(sun if scene.body == "sun" else moon)
    middle = (dice.uniform(0.22, 0.78), dice.uniform(0.15, 0.22))
    radius = 0.115 * dice.uniform(0.9, 1.1)
    colour = jittered(COLOURS[scene.body_colour], dice)
    draw_shape(drawing.canvas, "circle", middle, radius, colour)


def _clouds(drawing: _Drawing) -> None:
    dice, scene = drawing.dice, drawing.scene
    scene.clouds = scene.sky != "night" and dice.random() < 0.25
    if not scene.clouds:
        return
    for _ in range(2):
        x, y = dice.uniform(0.1, 0.8), dice.uniform(0.1, 0.3)
        for puff in range(3):
            middle = (x + puff * 0.06, y + (puff % 2) * 0.02)
            draw_shape(drawing.canvas, "circle", middle, 0.055, (250, 250, 250))


def _mountain(drawing: _Drawing) -> None:
    dice, horizon = drawing.dice, drawing.horizon
    if dice.random() >= 0.5:
        return
    drawing.scene.mountain = dice.choice(MOUNTAIN_COLOURS)
    x = dice.uniform(0.35, 0.65)
    foot = horizon * CANVAS_PX + 2
    peak = (x * CANVAS_PX, (horizon - dice.uniform(0.28, 0.34)) * CANVAS_PX)
    corners = [((x - 0.45) * CANVAS_PX, foot), peak, ((x + 0.45) * CANVAS_PX, foot)]
    drawing.canvas.polygon(corners, fill=jittered(COLOURS[drawing.scene.mountain], dice))


def _sea(drawing: _Drawing) -> None:
    dice, canvas, horizon = drawing.dice, drawing.canvas, drawing.horizon
    boat = dice.random() < 0.5
    for _ in range(7):
        x, y = dice.uniform(0, CANVAS_PX), dice.uniform(horizon * CANVAS_PX + 4, CANVAS_PX)
        canvas.line([x, y, x + 10, y], fill=(70, 140, 210), width=2)
    if not boat:
        return
    drawing.scene.boat = dice.choice(SAIL_COLOURS)
    x, y = dice.uniform(0.35, 0.65) * CANVAS_PX, (horizon + 0.15) * CANVAS_PX
    hull = [(x - 20, y), (x + 20, y), (x + 13, y + 11), (x - 13, y + 11)]
    canvas.polygon(hull, fill=jittered(COLOURS["brown"], dice))
    sail = [(x - 2, y - 34), (x - 2, y - 2), (x + 19, y - 2)]
    canvas.polygon(sail, fill=jittered(COLOURS[drawing.scene.boat], dice))


def _land(drawing: _Drawing) -> None:
    dice, canvas = drawing.dice, drawing.canvas
    what = dice.random()
    y = (drawing.horizon + 0.18) * CANVAS_PX
    if what < 0.45:
        colour = dice.choice(HOUSE_COLOURS)
        drawing.scene.house = colour
        x = dice.uniform(0.3, 0.55) * CANVAS_PX
        canvas.rectangle((x - 18, y - 26, x + 18, y), fill=jittered(COLOURS[colour], dice))
        roof = (150, 45, 35) if colour != "red" else (90, 60, 45)
        canvas.polygon([(x - 23, y - 26), (x, y - 45), (x + 23, y - 26)], fill=roof)
        canvas.rectangle((x - 5, y - 14, x + 5, y), fill=(80, 50, 30))
    if 0.3 < what < 0.75:
        drawing.scene.tree = True
        x = dice.uniform(0.78, 0.86) * CANVAS_PX
        canvas.rectangle((x - 3, y - 18, x + 3, y), fill=(100, 65, 30))
        crown = (x / CANVAS_PX, (y - 28) / CANVAS_PX)
        draw_shape(canvas, "circle", crown, 0.115, jittered(TREE, dice))


def _caption(scene: Scene, dice: random.Random) -> str:
    ground = {
        "sea": dice.choice(["the sea", "the ocean"]),
        "field": dice.choice(["a green field", "the grass"]),
        "desert": "a desert",
        "snow": "the snow",
    }[scene.ground]
    thing = f"a boat with {article(scene.boat)} sail" if scene.boat else ""
    if scene.house:
        thing = article(f"{scene.house} house")
    if scene.tree:
        thing = f"{thing} and a tree" if thing else "a tree"
    body = article(f"{scene.body_colour} {scene.body}") if scene.body else ""
    parts = [f"{thing} on {ground}"] if thing else []
    if body and scene.mountain:
        where = dice.choice(["above", "over", "behind"])
        parts.append(f"{body} {where} a {scene.mountain} mountain")
    elif body:
        parts.append(f"{body} over {ground}")
    elif scene.mountain:
        parts.append(f"a {scene.mountain} mountain")
    if scene.clouds:
        parts.append("clouds")
    dice.shuffle(parts)
    if not any(ground in part for part in parts):
        parts.append(ground)
    caption = dice.choice([" and ", ", ", " with "]).join(parts)
    sky = {
        "blue": dice.choice(["", ", blue sky", " under a blue sky"]),
        "night": " at night",
        "sunset": " at sunset",
        "gray": " under a gray sky",
    }[scene.sky]
    return caption + sky

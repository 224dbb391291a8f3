"""What a prompt asks for, part by part, and how the built-in model wants it said.

The model learnt a small English grammar (tools/builtin_model/drawings.py); a prompt in Chinese, or
one that leaves something open, is taken apart here and said again in that grammar.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from limner.actors.generator.lexicon import Meaning

PLACES = {
    "top left": (-1, -1),
    "top": (0, -1),
    "top right": (1, -1),
    "left": (-1, 0),
    "center": (0, 0),
    "right": (1, 0),
    "bottom left": (-1, 1),
    "bottom": (0, 1),
    "bottom right": (1, 1),
}
"""Columns and rows of the nine places, from the middle."""

RELATIONS = {
    "top": "above",
    "on": "above",
    "bottom": "below",
    "left": "to the left of",
    "right": "to the right of",
}
FILLED_COLOURS = {
    "circle": "red",
    "square": "blue",
    "triangle": "green",
    "star": "yellow",
    "heart": "red",
    "diamond": "cyan",
    "ring": "orange",
    "cross": "purple",
    "sun": "yellow",
    "moon": "white",
    "mountain": "green",
    "house": "red",
    "boat": "white",
}
"""Colours for things whose colour is left open; a boat's is that of its sail."""

SPARE_COLOURS = ("white", "black", "blue", "yellow")
"""Backgrounds, and colours of things, to fall back on when the first choice is taken."""

SKY_OF_COLOUR = {
    "blue": "blue",
    "cyan": "blue",
    "white": "gray",
    "gray": "gray",
    "black": "night",
    "red": "sunset",
    "orange": "sunset",
    "pink": "sunset",
    "purple": "sunset",
}
BACKGROUND_OF_SKY = {"blue": "blue", "night": "black", "sunset": "orange", "gray": "gray"}
SKY_PHRASES = {
    "blue": " under a blue sky",
    "night": " at night",
    "sunset": " at sunset",
    "gray": " under a gray sky",
}
GROUND_PHRASES = {
    "sea": "the sea",
    "grass": "the grass",
    "field": "a green field",
    "desert": "a desert",
    "snow": "the snow",
}
ON_THE_GROUND = ("boat", "house", "tree")
IN_THE_SKY = ("sun", "moon")


@dataclass(slots=True)
class Thing:
    """One thing with what is said of it; empty where nothing is."""

    name: str
    is_shape: bool
    colour: str = ""
    size: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True)
class Relation:
    """``first`` is above (top), below (bottom), left or right of ``second``: numbers of things."""

    first: int
    where: str
    second: int


@dataclass(slots=True)
class Description:
    """All that a prompt asks for."""

    things: list[Thing] = field(default_factory=list)
    background: str = ""
    sky: str = ""
    has_sky: bool = False
    ground: str = ""
    sail: str = ""
    relation: Relation | None = None

    @property
    def shapes(self) -> list[Thing]:
        """What stands on a plain background."""
        return [thing for thing in self.things if thing.is_shape]

    @property
    def is_scene(self) -> bool:
        """Whether there is more than shapes: a ground, or anything that stands in a landscape."""
        return bool(self.ground) or any(not thing.is_shape for thing in self.things)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked for that could be drawn."""
        return not (self.things or self.ground or self.has_sky or self.background)

    @property
    def is_whole_scene(self) -> bool:
        """Whether it is a scene with nothing left open, which may keep the asker's own words."""
        names = [thing.name for thing in self.things]
        return (
            self.is_scene
            and all(thing.colour or thing.name not in FILLED_COLOURS for thing in self.things)
            and (bool(self.ground) or _is_alone(names))
            and bool(self.sail or "boat" not in names)
        )

    def phrase(self) -> str:
        """Return the description in the grammar of the model, with what is open filled in."""
        if self.is_empty:
            return ""
        if self.is_scene or (self.has_sky and not self.things):
            return _scene_phrase(self)
        return _shapes_phrase(self)


def describe(meanings: Iterable[Meaning]) -> Description:
    """Return what a row of meanings asks for, in Chinese or English order of words."""
    reader = _Reader()
    for meaning in meanings:
        reader.take(meaning)
    return reader.finish()


class _Reader:
    """Reads meanings one by one and remembers what the next ones may refer to."""

    def __init__(self) -> None:
        self.found = Description()
        self.colour = self.size = self.place = ""
        self.last: int | str | None = None  # the number of a thing, or the kind of the last noun
        self.is_adjacent = False  # whether nothing but 的 has come since that noun
        self.subject: int | None = None  # the thing before 在
        self.open: tuple[str, int | None, int | None] | None = None  # where, first, second

    def take(self, meaning: Meaning) -> None:
        """Read one meaning."""
        kind, name = meaning
        if kind in ("shape", "thing"):
            self._thing(name, is_shape=kind == "shape")
        elif kind in ("ground", "sky", "background"):
            self._surrounding(kind, name)
        elif kind == "colour":
            # A second colour before a noun says something of the noun before: 圆形红色，背景蓝色.
            if self.colour:
                self._give_back()
            self.colour = name
        elif kind == "size":
            self.size = name
        elif kind in ("place", "spot", "relation"):
            self._where(kind, name)
        elif kind == "at":
            self.subject = self.last if isinstance(self.last, int) else None
        elif kind == "and":
            self._give_back()
            self.subject = None
        self.is_adjacent = kind in _NOUNS or (self.is_adjacent and kind == "of")

    def finish(self) -> Description:
        """Return what was read."""
        self._give_back()
        found = self.found
        for boat in (thing for thing in found.things if thing.name == "boat"):
            boat.colour = found.sail or boat.colour
        if self.colour and not found.background and self.last is None:
            found.background = self.colour
        if found.relation is None:
            found.relation = _relation_of_places(found.things)
        if found.has_sky and not found.sky and found.is_scene:
            found.sky = "blue"
        if found.has_sky and found.shapes and not found.is_scene and not found.background:
            found.background = BACKGROUND_OF_SKY.get(found.sky, "blue")
        return found

    def _thing(self, name: str, *, is_shape: bool) -> None:
        if name == "sail":
            self.found.sail, self.colour, self.last = self.colour, "", "sail"
            return
        things = self.found.things
        things.append(Thing(name, is_shape, self.colour, self.size, self.place))
        here = len(things) - 1
        if self.open is not None:
            where, first, second = self.open
            first, second = here if first is None else first, here if second is None else second
            self._relate(first, where, second)
        self.colour = self.size = self.place = ""
        self.open, self.last = None, here

    def _surrounding(self, kind: str, name: str) -> None:
        found = self.found
        if kind == "background":
            found.background = self.colour or found.background
        elif kind == "ground":
            found.ground = name
        else:
            found.has_sky = True
            found.sky = name or SKY_OF_COLOUR.get(self.colour, found.sky)
        self.colour = self.size = ""
        self.last, self.open = kind, None

    def _where(self, kind: str, name: str) -> None:
        """Read a place: of what is it said, and against what is it measured?"""
        if kind == "relation":
            if isinstance(self.last, int):
                self.open = (name, self.last, None)
        elif kind == "spot":
            if isinstance(self.last, int):
                self.found.things[self.last].place = name
            else:
                self.place = name
        elif self.is_adjacent and isinstance(self.last, int):
            self._beside(name, self.last)
        elif name not in ("on", "in") or (self.subject is not None and not self.is_adjacent):
            place = {"on": "top", "in": "center", "behind": ""}.get(name, name)
            on_ground = self.is_adjacent and self.last in ("ground", "sky")
            if not on_ground:
                self._put(place)
        self.subject = None

    def _beside(self, name: str, reference: int) -> None:
        """Relate to the thing just named: the one before 在, else the one still to come."""
        if name in ("in", "center"):
            return
        if self.subject is not None and self.subject != reference:
            self._relate(self.subject, name, reference)
        else:
            self.open = (name, None, reference)

    def _put(self, place: str) -> None:
        """Give the place to the thing before 在, else to the one still to come."""
        if self.subject is not None:
            self.found.things[self.subject].place = place
        else:
            self.place = place

    def _relate(self, first: int, where: str, second: int) -> None:
        if where in PLACES and where not in RELATIONS:
            where = where.rsplit(maxsplit=1)[-1]  # a corner counts as its side
        self.found.relation = Relation(first, where, second)

    def _give_back(self) -> None:
        """Let a colour or size without a noun say something of the noun before it."""
        found = self.found
        if isinstance(self.last, int):
            thing = found.things[self.last]
            if self.colour and not thing.colour:
                thing.colour, self.colour = self.colour, ""
            if self.size and not thing.size:
                thing.size, self.size = self.size, ""
        elif self.last == "background" and self.colour and not found.background:
            found.background, self.colour = self.colour, ""
        elif self.last == "sky" and self.colour and not found.sky:
            found.sky, self.colour = SKY_OF_COLOUR.get(self.colour, ""), ""


_NOUNS = ("shape", "thing", "ground", "sky", "background")


def _relation_of_places(things: Sequence[Thing]) -> Relation | None:
    """Return how two shapes stand to each other, given a place of at least one of them."""
    numbers = [number for number, thing in enumerate(things) if thing.is_shape]
    if len(numbers) != 2:
        return None
    first, second = (PLACES.get(things[number].place, (0, 0)) for number in numbers)
    right, down = second[0] - first[0], second[1] - first[1]
    if not right and not down:
        return None
    if abs(right) >= abs(down):
        return Relation(numbers[0], "left" if right > 0 else "right", numbers[1])
    return Relation(numbers[0], "top" if down > 0 else "bottom", numbers[1])


def _shapes_phrase(asked: Description) -> str:
    shapes = asked.shapes
    colours: list[str] = []
    for thing in shapes:
        taken = (asked.background, *(other.colour for other in shapes), *colours)
        colours.append(thing.colour or _free(FILLED_COLOURS[thing.name], taken))
    background = asked.background
    if not background:
        # Said, though white is what the model takes silence for: fewer captions were silent.
        background = _free("black", colours) if "white" in colours else "white"
    suffix = f" on {article(background + ' background')}"
    if not shapes:
        return suffix.removeprefix(" on ")
    names = [
        article(f"{colour} {thing.name}") for colour, thing in zip(colours, shapes, strict=True)
    ]
    if len(shapes) == 1:
        name = article(f"{shapes[0].size} {colours[0]} {shapes[0].name}".strip())
        place = shapes[0].place
        return name + (f" in the {place}" if place not in ("", "center") else "") + suffix
    relation = asked.relation
    if relation is None or len(shapes) > 2:
        joint = " to the left of " if len(shapes) == 2 else " and "
        return joint.join(names) + suffix
    order = [number for number, thing in enumerate(asked.things) if thing.is_shape]
    first, second = names[order.index(relation.first)], names[order.index(relation.second)]
    return f"{first} {RELATIONS.get(relation.where, 'above')} {second}{suffix}"


def _scene_phrase(asked: Description) -> str:
    names = [thing.name for thing in asked.things]
    ground = GROUND_PHRASES.get(asked.ground or _likely_ground(names), "")
    bodies = [_named(thing) for thing in asked.things if thing.name in IN_THE_SKY]
    if asked.sky != "night" or not asked.ground:
        # Small stars are part of every night, but other shapes have to be asked for.
        bodies += [_named(thing) for thing in asked.shapes]
    standing = [_named(thing) for thing in asked.things if thing.name in ON_THE_GROUND]
    mountains = [_named(thing) for thing in asked.things if thing.name == "mountain"]
    parts = []
    if standing:
        parts.append(" and ".join(standing) + (f" on {ground}" if ground else ""))
    if bodies:
        below = f" above {mountains[0]}" if mountains else f" over {ground}" if ground else ""
        parts.append(" and ".join(bodies) + below)
    parts += mountains[1:] if bodies else mountains
    if "clouds" in names:
        parts.append("clouds")
    if ground and not any(ground in part for part in parts):
        parts.append(ground)
    return " and ".join(parts) + SKY_PHRASES.get(asked.sky, "")


def _likely_ground(names: Sequence[str]) -> str:
    """Return the ground for a scene that names none."""
    if "boat" in names:
        return "sea"
    if _is_alone(names):
        return ""
    return "grass" if {"house", "tree", "mountain"} & set(names) else "sea"


def _is_alone(names: Sequence[str]) -> bool:
    """Whether a mountain under sun or moon makes the scene, which wants no ground to be named."""
    return "mountain" in names and any(name in IN_THE_SKY for name in names)


def _named(thing: Thing) -> str:
    colour = thing.colour or FILLED_COLOURS.get(thing.name, "")
    if thing.name == "boat":
        return f"a boat with {article(colour)} sail"
    if thing.name == "tree":
        return "a tree" if colour in ("", "green") else article(f"{colour} tree")
    return article(f"{colour} {thing.name}")


def _free(colour: str, taken: Sequence[str]) -> str:
    """Return ``colour``, or the first spare one if it is taken."""
    free = (choice for choice in (colour, *SPARE_COLOURS) if choice not in taken)
    return next(free, colour)


def article(words: str) -> str:
    """Return ``words`` with a or an."""
    return ("an " if words[0] in "aeiou" else "a ") + words

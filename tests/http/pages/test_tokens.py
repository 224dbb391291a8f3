"""The design tokens: every pair of colours that meets on a page can be read (WCAG 2.2, 1.4.3)."""

import re

import pytest

from limner.http.pages.static import static_files

TEXT = 4.5
SHAPE = 3.0
PAIRS = [
    *[(ink, ground, TEXT) for ink in ("ink", "muted", "accent", "accent-strong", "bad", "good")
      for ground in ("paper", "card", "sunk")],
    ("on-accent", "accent", TEXT),
    ("on-accent", "accent-strong", TEXT),
    ("card", "bad", TEXT),
    ("paper", "ink", TEXT),
    ("accent", "soft", TEXT),
    ("accent-strong", "soft", TEXT),
    *[(name, f"{name}-soft", TEXT) for name in ("good", "bad", "wait", "calm")],
    *[("edge", ground, SHAPE) for ground in ("paper", "card", "sunk")],
    *[("accent", ground, SHAPE) for ground in ("paper", "card", "sunk", "soft")],
]  # fmt: skip
COLOUR = re.compile(r"--([a-z-]+): (#[0-9a-f]{6});")


def sheet(name: str) -> str:
    return static_files()[name].content.decode()


def schemes() -> dict[str, dict[str, str]]:
    light, _, dark = sheet("tokens.css").partition("@media (prefers-color-scheme: dark)")
    found = dict(COLOUR.findall(light))
    return {"light": found, "dark": {**found, **dict(COLOUR.findall(dark))}}


def luminance(colour: str) -> float:
    """Give the relative luminance (WCAG 2.2)."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    brighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def test_the_contrast_of_black_and_white_is_twenty_one() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("ink", "ground", "least"), PAIRS)
def test_what_meets_can_be_told_apart(scheme: str, ink: str, ground: str, least: float) -> None:
    colours = schemes()[scheme]
    assert contrast(colours[ink], colours[ground]) >= least


def test_both_schemes_name_the_same_colours() -> None:
    _, _, dark = sheet("tokens.css").partition("@media (prefers-color-scheme: dark)")
    assert set(dict(COLOUR.findall(dark))) == set(schemes()["light"])


def test_every_token_that_is_used_is_there_and_every_one_there_is_used() -> None:
    known = set(re.findall(r"(?m)^\s*--([a-z0-9-]+):", sheet("tokens.css")))
    sheets = "".join(sheet(name) for name in static_files() if name.endswith(".css"))
    used = set(re.findall(r"var\(--([a-z0-9-]+)\)", sheets))
    assert used <= known
    assert known - used <= {"shadow"}


def test_pages_take_their_colours_from_the_tokens() -> None:
    for name in ("limner.css", "forms.css"):
        loose = re.findall(r"#[0-9a-fA-F]{3,8}\b", sheet(name))
        # A mail brings its own ground, a QR code must be dark on light, and paper is white.
        assert set(loose) <= {"#fff", "#000"}, name


def test_whoever_wants_no_motion_gets_none() -> None:
    assert "prefers-reduced-motion: reduce" in sheet("tokens.css")
    assert "prefers-reduced-motion: reduce" in sheet("limner.css")

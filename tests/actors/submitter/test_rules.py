"""Prices as the interface has them, and ids and seeds that stay the same."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limner.actors.submitter.rules import (
    client_id,
    price,
    seed_of,
    speech_price,
    validate_config,
)
from limner.core.errors import Invalid


@pytest.mark.parametrize(
    ("kind", "size", "steps", "count", "credits_"),
    [
        ("image", (256, 256), 20, 1, 1),
        ("image", (64, 64), 1, 1, 1),
        ("image", (256, 256), 8, 8, 8),
        ("image", (512, 512), 20, 1, 4),
        ("image", (256, 256), 21, 1, 2),
        ("image", (264, 256), 20, 1, 2),
        ("image", (1024, 1024), 100, 8, 640),
        ("image", (256, 384), 30, 2, 5),
        ("video", (256, 256), 8, 1, 4),
        ("video", (264, 256), 20, 1, 8),
    ],
)
def test_a_picture_has_its_price(
    kind: str, size: tuple[int, int], steps: int, count: int, credits_: int
) -> None:
    assert price(kind, width=size[0], height=size[1], steps=steps, count=count) == credits_


@given(st.integers(8, 128), st.integers(8, 128), st.integers(1, 100), st.integers(1, 8))
def test_the_price_is_the_formula_of_the_interface(
    columns: int, rows: int, steps: int, count: int
) -> None:
    width, height = columns * 8, rows * 8
    exact = (
        count
        * max(Fraction(1), Fraction(width * height, 65536))
        * max(Fraction(1), Fraction(steps, 20))
    )
    assert price("image", width=width, height=height, steps=steps, count=count) == math.ceil(exact)


@pytest.mark.parametrize(("characters", "credits_"), [(1, 1), (200, 1), (201, 2), (2000, 10)])
def test_speech_is_paid_by_two_hundred_characters(characters: int, credits_: int) -> None:
    assert speech_price(characters) == credits_


@pytest.mark.parametrize(("kind", "count"), [("song", 1), ("image", 0)])
def test_what_cannot_be_made_has_no_price(kind: str, count: int) -> None:
    with pytest.raises(Invalid):
        price(kind, count=count)


def test_a_task_keeps_its_seed_and_a_round_its_id() -> None:
    assert seed_of("task_1") == seed_of("task_1") != seed_of("task_2")
    assert 0 <= seed_of("task_1") < 2**32
    assert client_id("task_1", 2) == "task_1.2"


def test_a_wrong_mapping_is_refused_with_its_places() -> None:
    with pytest.raises(Invalid) as raised:
        validate_config({"base_url": "nowhere"})
    assert {"/base_url", "/job_id"} <= {pointer for pointer, _ in raised.value.faults}

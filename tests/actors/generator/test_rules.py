"""What every request for a job has in common: its columns, its price, its seed."""

import pytest

from limner.actors.generator.messages import Generate
from limner.actors.generator.rules import Wanted
from limner.core.errors import Invalid
from limner.storage.sql.jobs import Job


def test_a_request_names_every_column_that_a_job_begins_with() -> None:
    columns = Wanted(prompt="a red circle", seed=7).columns()
    assert columns == {
        "prompt": "a red circle",
        "media": "image",
        "negative_prompt": "",
        "width": 256,
        "height": 256,
        "steps": 8,
        "guidance": 2.0,
        "seed": 7,
        "count": 1,
        "frames": 0,
        "fps": 0,
        "model": "builtin",
        "cost": 1,
    }
    assert set(columns) <= Job._meta.db_fields


@pytest.mark.parametrize(
    ("asked", "cost"),
    [
        ({}, 1),
        ({"width": 64, "height": 64, "steps": 1}, 1),
        ({"count": 8}, 8),
        ({"width": 512, "height": 512}, 4),
        ({"width": 264, "height": 256}, 2),
        ({"steps": 30, "count": 3}, 5),
        ({"width": 1024, "height": 1024, "steps": 100, "count": 8}, 640),
        ({"media": "video"}, 4),
        ({"media": "video", "count": 8}, 4),
    ],
)
def test_the_price_follows_size_steps_count_and_kind(asked: dict[str, int], cost: int) -> None:
    assert Wanted(prompt="x", **asked).columns()["cost"] == cost  # type: ignore[arg-type]


def test_what_is_neither_picture_nor_video_has_no_columns() -> None:
    with pytest.raises(Invalid):
        Wanted(prompt="x", media="smell").columns()


def test_the_public_command_and_a_request_share_their_defaults() -> None:
    said = Generate(user="user_1", prompt="a fox").model_dump(exclude={"user", "kind", "seed"})
    wanted = Wanted(prompt="a fox")
    assert said == {name: getattr(wanted, name) for name in said}


@pytest.mark.parametrize("prompt", ["", " ", "\u2003\n"])
def test_only_spaces_are_no_wish(prompt: str) -> None:
    with pytest.raises(ValueError, match="prompt"):
        Generate(user="user_1", prompt=prompt)

"""Tunables: defaults within their bounds, each described, nothing unknown."""

import pytest
from pydantic import ValidationError

from limner.core.tunables import DEFAULT_DENY_WORDS, DEFAULT_KEYWORDS, Tunables


def test_defaults_pass_their_own_bounds() -> None:
    defaults = Tunables()
    assert Tunables.model_validate(defaults.model_dump(mode="json")) == defaults
    assert all(field.description for field in Tunables.model_fields.values())
    assert not set(DEFAULT_KEYWORDS) & set(DEFAULT_DENY_WORDS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("poll_interval_s", 4),
        ("confidence_threshold", 1.01),
        ("keywords", [""]),
        ("keywords", ["x" * 65]),
        ("keywords", ["x"] * 501),
        ("image_provider", "no spaces"),
        ("status_max_attempts", 0),
        ("nobody_knows", 1),
    ],
)
def test_what_is_out_of_bounds_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError):
        Tunables.model_validate({name: value})

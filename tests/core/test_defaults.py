"""Own values in place of the settings: only those that were chosen, only while they are valid."""

from typing import Any

import pytest
from pydantic import ValidationError

from limner.core.defaults import OwnDefaults, with_defaults
from limner.core.tunables import Tunables


def test_what_was_chosen_counts_in_place_of_the_setting() -> None:
    own = {"keywords": ["zeichne"], "image_provider": "acme", "confidence_threshold": 0.0}
    found = with_defaults(Tunables(), own)
    assert found.keywords == ("zeichne",)
    assert (found.image_provider, found.video_provider) == ("acme", "local")
    assert found.confidence_threshold == 0.0
    assert found.deny_words == Tunables().deny_words


@pytest.mark.parametrize("stored", [{}, {"keywords": None}])
def test_without_a_choice_the_settings_count(stored: dict[str, Any]) -> None:
    assert with_defaults(Tunables(), stored) == Tunables()


@pytest.mark.parametrize(
    "stored", [{"keywords": "draw"}, {"gone": 1}, {"confidence_threshold": 7}, {"keywords": []}]
)
def test_what_no_longer_fits_does_not_count(stored: dict[str, Any]) -> None:
    assert with_defaults(Tunables(), stored) == Tunables()


def test_only_some_settings_can_be_ones_own() -> None:
    with pytest.raises(ValidationError):
        OwnDefaults.model_validate({"mail_per_address_per_day": 1000})

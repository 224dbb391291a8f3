"""Pure decisions about submissions, for whoever needs them: validity of a mapping, price, names."""

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

from limner.core.errors import Invalid
from limner.core.providers.mapping import ProviderConfig

LOCAL = "local"
"""The provider that is the generator itself."""

CALLBACK = "provider-callback"
"""The purpose of the tokens in callback URLs; their payload is ``{provider, task, round}``."""

PIXELS_OF_ONE = 256 * 256
STEPS_OF_ONE = 20
VIDEO_FACTOR = 4
CHARACTERS_OF_ONE = 200
SEED_BYTES = 4


def validate_config(config: Mapping[str, Any]) -> ProviderConfig:
    """Check a provider's configuration and give it.

    Raises:
        Invalid: ``faults`` are all of them, as JSON Pointers into ``config``.
    """
    return ProviderConfig.read(config)


def price(
    kind: Literal["image", "video"] | str,
    *,
    width: int = 256,
    height: int = 256,
    steps: int = STEPS_OF_ONE,
    count: int = 1,
) -> int:
    """Give what pictures or videos cost, in credits; sizes in pixels.

    An image costs ceil(count · max(1, width · height / 65536) · max(1, steps / 20)), a video four
    times that; reckoned in whole numbers, so that no rounding of fractions adds a credit.

    Raises:
        Invalid: another kind, or a number below 1.
    """
    if kind not in {"image", "video"}:
        raise Invalid(f"{kind!r} is neither image nor video", faults=[("/kind", "unknown")])
    if min(width, height, steps, count) < 1:
        raise Invalid("width, height, steps and count are at least 1")
    whole = count * max(PIXELS_OF_ONE, width * height) * max(STEPS_OF_ONE, steps)
    image = _ceil(whole, PIXELS_OF_ONE * STEPS_OF_ONE)
    return image * VIDEO_FACTOR if kind == "video" else image


def speech_price(characters: int) -> int:
    """Give what reading a text aloud costs: one credit for every 200 characters begun."""
    return max(1, _ceil(characters, CHARACTERS_OF_ONE))


def _ceil(amount: int, unit: int) -> int:
    return -(-amount // unit)


def client_id(task_id: str, round_: int) -> str:
    """Give the id under which a provider hears of a task; automatic retries keep it."""
    return f"{task_id}.{round_}"


def seed_of(task_id: str) -> int:
    """Give the seed of a task's picture, 32 bits: the same task always gives the same picture."""
    return int.from_bytes(hashlib.sha256(task_id.encode()).digest()[:SEED_BYTES], "big")

"""What an account may choose for its own sources in place of the service's settings."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from limner.core.tunables import ProviderName, Tunables, Words


class OwnDefaults(BaseModel):
    """One's own values; null means that the setting of the same name counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_provider: ProviderName | None = Field(None, description="Who makes pictures")
    video_provider: ProviderName | None = Field(None, description="Who makes videos")
    keywords: Annotated[Words, Field(min_length=1)] | None = Field(
        None, description="Words that say a picture is wanted"
    )
    confidence_threshold: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Below this, a person reviews the wish"
    )


def with_defaults(tunables: Tunables, stored: Mapping[str, Any]) -> Tunables:
    """Give the settings as they count for an account with these own values.

    What was stored under rules that have changed since does not count.
    """
    if not stored:
        return tunables
    try:
        own = OwnDefaults.model_validate(stored)
    except ValidationError:
        return tunables
    chosen = {name: value for name, value in own if value is not None}
    return tunables.model_copy(update=chosen)

"""The table of settings: value, source and description of each, secrets masked."""

from typing import Any

from pydantic import BaseModel, SecretStr

from limner.core.settings import Loaded, Settings, field_names
from limner.storage.sql.address import secret_free

MASK = "********"


def table(loaded: Loaded) -> list[dict[str, Any]]:
    """Give ``{name, value, source, description}`` of every setting, in their order."""
    rows = []
    for name, path in field_names().items():
        model: BaseModel = loaded.settings
        for part in path[:-1]:
            model = getattr(model, part)
        field = type(model).model_fields[path[-1]]
        value = getattr(model, path[-1])
        rows.append(
            {
                "name": name,
                "value": _shown(_effective(loaded.settings, name, value)),
                "source": loaded.sources[name],
                "description": field.description or "",
            }
        )
    return rows


def _effective(settings: Settings, name: str, value: Any) -> Any:
    """Give what an empty value stands for, where it depends on other settings."""
    derived = {
        "LIMNER_PUBLIC_URL": settings.base_url,
        "LIMNER_DATABASE_URL": settings.database,
        "LIMNER_OBJECTS_URL": settings.objects,
    }
    return derived.get(name, value)


def _shown(value: Any) -> Any:
    if isinstance(value, SecretStr):
        plain = value.get_secret_value()
        if not plain:
            return ""
        return plain if plain == "mailbox:" else MASK
    if isinstance(value, tuple):
        return ", ".join(value)
    if isinstance(value, str):
        return secret_free(value)
    return value if isinstance(value, bool | int | float) else str(value)

"""Providers: who makes pictures and videos, and how requests and answers are mapped."""

from collections.abc import Sequence
from typing import ClassVar

from tortoise import fields

from limner.storage.sql.aggregate import Aggregate
from limner.storage.sql.database import Database
from limner.storage.sql.remembered import Remembered

NAME_LENGTH = 64


class Provider(Aggregate):
    """An HTTP provider, config is the object of the REST interface without name and kind."""

    kind: ClassVar[str] = "provider"
    transitions: ClassVar[dict[str, frozenset[str]]] = {
        "active": frozenset({"deleted"}),
        "deleted": frozenset(),
    }

    name = fields.CharField(NAME_LENGTH, unique=True)
    media = fields.CharField(16, default="both")
    config: dict[str, object] = fields.JSONField(default=dict)

    class Meta:
        table = "providers"


async def provider_seen(database: Database, ident: str) -> Provider | None:
    """Give a provider as it is, or was some seconds ago if another process has changed it.

    To be read only: who changes a provider reads it anew.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    memory: Remembered[Provider | None] = database.memory("providers")

    async def load() -> tuple[Provider | None, Sequence[str]]:
        return await Provider.found(ident), [ident]

    return await memory.get(ident, load)

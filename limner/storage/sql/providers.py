"""Providers: who makes pictures and videos, and how requests and answers are mapped."""

from typing import ClassVar

from tortoise import fields

from limner.storage.sql.aggregate import Aggregate


class Provider(Aggregate):
    """An HTTP provider, config is the object of the REST interface without name and kind."""

    kind: ClassVar[str] = "provider"
    transitions: ClassVar[dict[str, frozenset[str]]] = {
        "active": frozenset({"deleted"}),
        "deleted": frozenset(),
    }

    name = fields.CharField(64, unique=True)
    media = fields.CharField(16, default="both")
    config: dict[str, object] = fields.JSONField(default=dict)

    class Meta:
        table = "providers"

"""Comments as they came in; (source, external id) is unique, so that none is read twice."""

from typing import ClassVar

from tortoise import fields

from limner.storage.sql.aggregate import ID_LENGTH, Aggregate

TEXT_LENGTH = 4000


class Comment(Aggregate):
    """What somebody wrote, and whether a task came of it."""

    kind: ClassVar[str] = "comment"
    transitions: ClassVar[dict[str, frozenset[str]]] = {
        "new": frozenset({"ignored", "no_address", "task"}),
        "ignored": frozenset(),
        "no_address": frozenset(),
        "task": frozenset(),
    }

    source_id = fields.CharField(ID_LENGTH)
    external_id = fields.CharField(255)
    author = fields.CharField(255, default="")
    text = fields.CharField(TEXT_LENGTH)
    task_id = fields.CharField(ID_LENGTH, null=True)
    reason = fields.CharField(255, default="")

    class Meta:
        table = "comments"
        unique_together = (("source_id", "external_id"),)
        indexes = (("created_at",), ("state", "updated_at"))

"""Tasks: one wish of one comment on its way to a mail."""

from typing import ClassVar

from tortoise import fields

from limner.storage.sql.aggregate import ID_LENGTH, Leased

PROMPT_LENGTH = 2000
ADDRESS_LENGTH = 320
PENDING = "pending"


def _edges(**table: str) -> dict[str, frozenset[str]]:
    return {state: frozenset(onward.split()) for state, onward in table.items()}


class Task(Leased):
    """A wish: what to make, for whom, by which provider, and how far it is.

    ``client_id`` is made and stored before a provider is called, so that the call can be told
    from a repetition. ``round`` counts a person's retries; automatic ones keep it.
    """

    kind: ClassVar[str] = "task"
    has_timeline: ClassVar[bool] = True
    noticed: ClassVar[frozenset[str]] = frozenset({"needs_review", "failed"})
    transitions: ClassVar[dict[str, frozenset[str]]] = _edges(
        pending="extracted needs_review failed cancelled",
        needs_review="extracted cancelled expired failed",
        extracted="submitted unknown failed cancelled",
        submitted="running succeeded failed unknown cancelled",
        running="succeeded failed unknown cancelled",
        succeeded="emailed unknown failed cancelled",
        unknown="submitted running succeeded emailed failed cancelled extracted",
        failed="pending",
        emailed="",
        cancelled="",
        expired="",
    )

    line_count = fields.IntField(default=1)
    comment_id = fields.CharField(ID_LENGTH, unique=True)
    source_id = fields.CharField(ID_LENGTH, db_index=True)
    comment_text = fields.CharField(4000, default="")
    author = fields.CharField(255, default="")
    email = fields.CharField(ADDRESS_LENGTH, default="", db_index=True)
    prompt = fields.CharField(PROMPT_LENGTH, default="")
    media = fields.CharField(16, default="image")
    language = fields.CharField(8, default="en")
    confidence = fields.FloatField(default=0.0)
    provider = fields.CharField(64, default="")
    provider_id = fields.CharField(ID_LENGTH, default="")
    client_id = fields.CharField(64, default="")
    provider_job_id = fields.CharField(255, default="")
    result_key = fields.CharField(512, default="")
    result_type = fields.CharField(64, default="")
    poster_key = fields.CharField(512, default="")
    error = fields.CharField(1000, default="")
    cost = fields.IntField(default=0)
    round = fields.IntField(default=1)

    class Meta:
        table = "tasks"
        indexes = (
            ("state", "created_at"),
            ("created_at",),
            ("provider_job_id",),
            ("user_id", "created_at"),
        )

    @classmethod
    def ended_states(cls) -> frozenset[str]:
        """A failed task has ended although a person may send it back to the start."""
        return super().ended_states() | {"failed"}

"""What language models answered, by hash of the question, and what it cost per month."""

from collections.abc import Mapping
from datetime import datetime

from tortoise import fields
from tortoise.models import Model

from limner.core.unit import Step
from limner.storage.sql.aggregate import column_value
from limner.storage.sql.connection import Connection


class LanguageAnswer(Model):
    """A stored answer, id is the hash of model, template version and text."""

    id = fields.CharField(64, primary_key=True)
    answer: dict[str, object] = fields.JSONField()
    created_at = fields.DatetimeField(db_index=True)

    class Meta:
        table = "language_answers"


class LanguageUsage(Model):
    """Tokens used in one calendar month, UTC, id is YYYY-MM."""

    id = fields.CharField(7, primary_key=True)
    tokens = fields.BigIntField(default=0)
    calls = fields.IntField(default=0)

    class Meta:
        table = "language_usage"


def month_of(now: datetime) -> str:
    """Give the budget's month of a time, ``YYYY-MM``."""
    return f"{now:%Y-%m}"


async def spent_tokens(month: str) -> int:
    """Give how many tokens have been used in a month."""
    usage = await LanguageUsage.get_or_none(id=month)
    return usage.tokens if usage else 0


def remember(key: str, answer: Mapping[str, object], tokens: int, now: datetime) -> Step:
    """Give the step that stores an answer and adds its cost to the month."""

    async def write(connection: Connection) -> None:
        row = LanguageAnswer(id=key, answer=dict(answer), created_at=now)
        await connection.execute(
            f"{connection.insert_or_ignore} language_answers (id, answer, created_at) "
            "VALUES (?, ?, ?)",
            [key, column_value(LanguageAnswer, "answer", row.answer), now],
        )
        await connection.execute(
            f"{connection.insert_or_ignore} language_usage (id, tokens, calls) VALUES (?, 0, 0)",
            [month_of(now)],
        )
        await connection.execute(
            "UPDATE language_usage SET tokens = tokens + ?, calls = calls + 1 WHERE id = ?",
            [tokens, month_of(now)],
        )

    return write

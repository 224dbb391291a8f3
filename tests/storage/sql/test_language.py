"""What language models answered and cost."""

from datetime import UTC, datetime

from limner.storage.sql.language import (
    LanguageAnswer,
    LanguageUsage,
    month_of,
    remember,
    spent_tokens,
)
from limner.storage.sql.unit import SqlUnits

LAST = datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)
FIRST = datetime(2026, 12, 1, tzinfo=UTC)


async def ask(units: SqlUnits, key: str, answer: str, tokens: int, at: datetime) -> None:
    work = units.open("test")
    work.step(remember(key, {"prompt": answer}, tokens, at))
    await units.commit(work)


def test_a_budget_is_of_one_calendar_month() -> None:
    assert (month_of(LAST), month_of(FIRST)) == ("2026-11", "2026-12")


async def test_tokens_add_up_within_a_month(units: SqlUnits) -> None:
    assert await spent_tokens("2026-11") == 0
    await ask(units, "a", "狐狸", 10, LAST)
    await ask(units, "b", "cat", 5, LAST)
    await ask(units, "c", "dog", 7, FIRST)
    assert (await spent_tokens("2026-11"), await spent_tokens("2026-12")) == (15, 7)
    assert (await LanguageUsage.get(id="2026-11")).calls == 2


async def test_the_first_answer_to_a_question_stays_and_every_call_counts(units: SqlUnits) -> None:
    await ask(units, "a", "狐狸", 10, LAST)
    await ask(units, "a", "cat", 10, LAST)
    (row,) = await LanguageAnswer.all()
    assert (row.id, row.answer, row.created_at) == ("a", {"prompt": "狐狸"}, LAST)
    assert await spent_tokens("2026-11") == 20

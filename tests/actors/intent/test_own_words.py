"""Whoever owns a source can have other words count in it, and another confidence."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from limner.actors.intent import actor as intent
from limner.actors.intent.actor import Reader
from limner.actors.ports import Ports
from limner.core.clock import HeldClock
from limner.core.llm import ChatModel
from limner.storage.sql.accounts import User
from tests.actors.intent.reading import answer, read
from tests.fakes.llm import FakeLlm
from tests.fakes.ports import open_ports
from tests.fakes.stage import Stage


@pytest.fixture
async def ports(tmp_path: Path, migrated_file: Path, clock: HeldClock) -> AsyncIterator[Ports]:
    async with open_ports(tmp_path, clock=clock, migrated=migrated_file) as opened:
        yield opened


async def owner(ports: Ports, **defaults: Any) -> None:
    """Store the account that owns the source of the tests' comments."""
    user = User(id="user_1", user_id="user_1", state="active", defaults=defaults)
    await Stage(ports).keep(user)


@pytest.mark.parametrize(
    ("keywords", "text", "state"),
    [
        (["zeichne"], "zeichne einen Fuchs, an fox@example.com", "task"),
        (["zeichne"], "draw a red fox, send it to fox@example.com", "ignored"),
        (None, "draw a red fox, send it to fox@example.com", "task"),
    ],
)
async def test_the_owners_keywords_count_in_place_of_the_settings(
    ports: Ports, keywords: list[str] | None, text: str, state: str
) -> None:
    await owner(ports, **({"keywords": keywords} if keywords else {}))
    row, _ = await read(ports, text)
    assert row.state == state


async def test_words_that_are_denied_stay_so(ports: Ports) -> None:
    await owner(ports, keywords=["zeichne"])
    row, _ = await read(ports, "zeichne bitcoin, free bitcoin! fox@example.com")
    assert row.state == "ignored"


async def test_the_owners_confidence_decides_who_reviews(ports: Ports) -> None:
    await owner(ports, confidence_threshold=0.95)
    async with FakeLlm() as llm:
        llm.otherwise = answer(confidence=0.93)
        model = ChatModel(llm.url, "key", "small", ports.outgoing)
        _, task = await read(replace(ports, llm=model))
    assert task is not None
    assert task.state == "needs_review"


async def test_rules_are_kept_compiled_for_a_bounded_number_of_owners(
    ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intent, "COMPILED_LIMIT", 3)
    reader = Reader(ports.tunables, ports.llm, ports.clock, ports.metrics)
    for word in ("one", "two", "three", "one", "four"):
        await reader.decide("draw a fox", None, {"keywords": [word]})
    kept = [keywords for keywords, _ in reader._compiled]
    assert kept == [("three",), ("one",), ("four",)]

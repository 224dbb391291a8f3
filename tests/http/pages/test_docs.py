"""The reference: every operation with its fields, answers and a command, and no host but ours."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from limner.core.clock import HeldClock
from limner.http.openapi import document
from limner.http.pages.reference import Operation, groups_of
from limner.http.table import ROUTES
from tests.fakes.front import Stage, staged


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


@pytest.fixture(scope="module")
def operations() -> dict[str, Operation]:
    described = document(ROUTES, "1.2.3", "http://x.test")
    return {one.ident: one for group in groups_of(described) for one in group.operations}


def test_every_operation_is_there_once(operations: dict[str, Operation]) -> None:
    expected = {
        (route.method, re.sub(r"\{(\w+):.*\}", r"{\1}", route.path))
        for route in ROUTES
        if route.is_documented
    }
    assert {(one.method, one.path) for one in operations.values()} == expected
    assert len(operations) == len(expected)


def test_an_operation_says_what_it_takes(operations: dict[str, Operation]) -> None:
    made = operations["post_sources"]
    fields = {field.name: field for field in made.fields}
    assert fields["name"].is_required
    assert (fields["name"].where, fields["name"].kind) == ("body", "string")
    assert "at most 200 characters" in fields["name"].text
    assert "from 5" in fields["interval_s"].text
    assert fields["Idempotency-Key"].where == "header"
    assert made.access == "needs sources:write"
    assert operations["get_livez"].access == "open to everybody"
    assert operations["get_keys"].access == "needs an account"


def test_an_operation_says_what_it_answers(operations: dict[str, Operation]) -> None:
    replies = {reply.status: reply for reply in operations["post_sources"].replies}
    assert replies["201"].is_good
    assert '"connector"' in replies["201"].example
    assert "Location" in replies["201"].headers
    assert not replies["422"].is_good


def test_the_command_fills_paths_and_quotes_bodies(operations: dict[str, Operation]) -> None:
    assert "{" not in operations["get_tasks_by_id"].curl
    assert "$LIMNER_KEY" in operations["get_tasks_by_id"].curl
    assert "$LIMNER_KEY" not in operations["get_livez"].curl
    assert "-d '{" in operations["post_sources"].curl


def test_what_never_ends_is_not_offered_for_trying(operations: dict[str, Operation]) -> None:
    assert not operations["get_tasks_by_id_stream"].can_be_tried
    assert operations["get_tasks_by_id"].can_be_tried


async def test_the_page_holds_all_of_it_without_a_script_and_from_no_other_host(
    stage: Stage, operations: dict[str, Operation]
) -> None:
    client = await stage.client()
    for _ in range(2):
        answer = await client.get("/docs")
        assert answer.status == 200
        text = await answer.text()
    missing = [ident for ident in operations if f'id="{ident}"' not in text]
    assert not missing
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', text)
    assert "<script>" not in text
    assert " style=" not in text

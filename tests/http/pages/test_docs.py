"""The reference: every operation with its fields, answers and a command, and no host but ours."""

import ast
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from limner.core import errors
from limner.core.clock import HeldClock
from limner.http import problems as kinds
from limner.http.openapi import document
from limner.http.pages.docs import problems
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
    assert operations["get_stream"].access == "needs an account"


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


PACKAGE = Path(kinds.__file__).parents[1]
FOLDERS = ("http", "storage")
CALLED = (
    "core/addresses.py",
    "core/answers.py",
    "core/errors.py",
    "core/jsonpath.py",
    "core/thread_time.py",
    "core/objects.py",
    "core/outgoing.py",
    "core/signing.py",
    "actors/poller/connector.py",
    "actors/poller/rules.py",
    "actors/submitter/trial.py",
)
"""Modules elsewhere whose errors reach the caller of an operation."""
NEVER_ANSWERED = frozenset({"settings", "ticket_expired"})
"""One ends the program before it serves, the other is told by a page of its own."""


def told() -> Iterator[tuple[str, int | None]]:
    """Give each code that an error is given by itself, and the status of the error's class."""
    files = [file for folder in FOLDERS for file in sorted((PACKAGE / folder).rglob("*.py"))]
    for file in [*files, *(PACKAGE / name for name in CALLED)]:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            for keyword in node.keywords:
                if keyword.arg == "code" and isinstance(keyword.value, ast.Constant):
                    kind = getattr(errors, node.func.id, getattr(kinds, node.func.id, None))
                    yield str(keyword.value.value), kind.status if kind is not None else None


def test_every_problem_with_a_code_of_its_own_is_explained_with_its_status() -> None:
    found: dict[str, set[int | None]] = {}
    for code, status in told():
        found.setdefault(code, set()).add(status)
    assert len(found) > 40
    explained = {code: status for status, code, _ in problems()}
    wanted = set(found) - NEVER_ANSWERED
    assert wanted <= set(explained)
    # A range that cannot be had, and JSON in a body, get their status where they are answered.
    changed = {"range_not_satisfiable": 416, "not_json": 400, "json_too_deep": 400}
    for code in wanted:
        assert explained[code] in found[code] or explained[code] == changed.get(code), code
    assert all(len(text) > 1 and text.endswith(".") for _, _, text in problems())
    assert not any("`" in text for _, _, text in problems())


def test_no_code_is_explained_that_nobody_gives() -> None:
    elsewhere = {"ambiguous", "internal", "too_many_connections", *kinds.CODES.values()}
    assert set(kinds.SPECIAL) <= {code for code, _ in told()} | elsewhere

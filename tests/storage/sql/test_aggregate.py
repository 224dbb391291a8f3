"""Aggregates: tables of transitions that lead somewhere, and rows found by their id."""

import pytest
from tortoise import Tortoise

from limner.storage.sql.aggregate import Aggregate, Leased
from limner.storage.sql.database import APP, Database
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.jobs import Job
from limner.storage.sql.sources import Source
from limner.storage.sql.tasks import Task
from tests.contracts.units import World, task

KINDS: list[type[Aggregate]] = [Task, Delivery, Job, Source]


def reachable(kind: type[Aggregate], start: str) -> set[str]:
    seen, todo = {start}, [start]
    while todo:
        fresh = kind.transitions[todo.pop()] - seen
        seen |= fresh
        todo += fresh
    return seen


async def test_every_kind_says_what_it_is_and_its_transitions_are_closed(
    database: Database,
) -> None:
    models = Tortoise.apps[APP].values() if Tortoise.apps else []
    kinds = [model for model in models if issubclass(model, Aggregate)]
    assert {kind.__name__ for kind in KINDS} <= {kind.__name__ for kind in kinds}
    assert len({kind.kind for kind in kinds}) == len(kinds)
    for kind in kinds:
        first = next(iter(kind.transitions))
        targets = {state for onward in kind.transitions.values() for state in onward}
        assert targets <= kind.transitions.keys(), kind
        assert reachable(kind, first) == set(kind.transitions), kind
        longest = max(len(state) for state in kind.transitions)
        assert longest <= 24, kind


@pytest.mark.parametrize("kind", KINDS)
def test_an_end_leads_nowhere_and_staying_is_always_allowed(kind: type[Aggregate]) -> None:
    ends = kind.ended_states()
    assert ends
    for state in kind.transitions:
        assert kind.allows(state, state)
        assert kind.ended(state) is (state in ends)
    assert not kind.allows("no such state", next(iter(ends)))


def test_a_failed_task_has_ended_and_a_person_may_begin_it_again() -> None:
    assert Task.ended("failed")
    assert Task.allows("failed", "pending")
    assert not Task.allows("emailed", "pending")


def test_what_is_held_while_an_effect_happens_carries_token_and_lease() -> None:
    for kind in (Task, Delivery, Job):
        assert issubclass(kind, Leased)
        assert {"token", "lease_until"} <= kind._meta.fields_map.keys()


async def test_a_row_is_found_by_its_id_or_is_none(world: World) -> None:
    wish = task()
    await world.commit(wish)
    found = await Task.found(wish.id)
    assert found is not None
    assert found.comment_id == wish.comment_id
    assert await Task.found("task_nobody") is None

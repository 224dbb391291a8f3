"""Deliveries: the row of a result's mail, and the domain of its Message-ID."""

import pytest

from limner.core.ids import new_id
from limner.storage.sql.deliveries import Delivery, create_delivery, message_domain
from limner.storage.sql.tasks import Task
from limner.storage.sql.unit import SqlUnits


async def test_a_delivery_belongs_to_its_task_and_has_its_message_id(units: SqlUnits) -> None:
    work = units.open("status")
    task = Task(
        id=new_id("task"),
        state="succeeded",
        user_id="user_1",
        trace_id="0" * 31 + "7",
        comment_id="comment_1",
        source_id="source_1",
        email="wish@example.org",
    )
    work.add(task)
    made = [create_delivery(work, task, "limner.test", attempt) for attempt in (1, 2)]
    await units.commit(work)
    rows = await Delivery.filter(task_id=task.id).order_by("attempt")
    assert [row.id for row in rows] == [each.id for each in made]
    for attempt, row in enumerate(rows, 1):
        assert row.message_id == f"<{row.id}.result.{attempt}@limner.test>"
        assert (row.state, row.purpose, row.attempt) == ("pending", "result", attempt)
        assert (row.address, row.user_id, row.trace_id) == (
            task.email,
            task.user_id,
            task.trace_id,
        )


@pytest.mark.parametrize(
    ("sender", "domain"),
    [
        ("Limner <limner@Example.org>", "example.org"),
        ("limner@example.org", "example.org"),
        ("Limner <limner@localhost.localdomain>", "localhost.localdomain"),
        ("狐狸 <fox@狐狸.example>", "xn--e5x6c.example"),
        ("limner", "localhost"),
        ("", "localhost"),
        ("Limner <limner@exa_mple.org>", "localhost"),
        ("Limner <limner@[127.0.0.1]>", "localhost"),
        (f"limner@{'a' * 59}.{'b' * 5}.org", "localhost"),
        (f"limner@{'a' * 70}.org", "localhost"),
    ],
)
def test_a_message_id_ends_in_the_senders_domain_or_a_plain_word(sender: str, domain: str) -> None:
    assert message_domain(sender) == domain

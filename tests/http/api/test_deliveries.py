"""Deliveries over REST, and sending a mail again as a delivery of its own."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from limner.actors.mailer.messages import Deliver
from limner.core.clock import HeldClock
from limner.core.ids import new_id
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.messaging import OutboxRow
from limner.storage.sql.tasks import Task
from tests.fakes.front import Stage, staged


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


async def delivery(stage: Stage, state: str, **fields: Any) -> Delivery:
    ident = new_id("delivery")
    row = Delivery(
        id=ident,
        state=state,
        **{
            "user_id": stage.owner.id,
            "address": "anna@example.com",
            "message_id": f"<{ident}.result.1@example.org>",
            **fields,
        },
    )
    await stage.add(row)
    return row


async def test_deliveries_are_listed_and_shown(stage: Stage) -> None:
    row = await delivery(stage, "sent")
    await delivery(stage, "failed", address="b@example.com")
    admin = await stage.admin()
    page = await (await admin.get("/api/deliveries?state=sent")).json()
    assert [one["id"] for one in page["data"]] == [row.id]
    shown = await admin.get(f"/api/deliveries/{row.id}")
    assert await shown.json() == page["data"][0]
    tag = {"If-None-Match": shown.headers["ETag"]}
    assert (await admin.get(f"/api/deliveries/{row.id}", headers=tag)).status == 304


@pytest.mark.parametrize("state", ["sent", "failed", "unknown", "suppressed"])
async def test_a_resend_is_a_new_delivery_with_an_id_of_its_own(stage: Stage, state: str) -> None:
    task = await stage.task("emailed")
    row = await delivery(stage, state, task_id=task.id)
    admin = await stage.admin()
    first = await admin.post(f"/api/deliveries/{row.id}/resend")
    second = await admin.post(f"/api/deliveries/{row.id}/resend")
    assert (first.status, second.status) == (202, 202)
    body = await first.json()
    assert first.headers["Location"] == body["status_url"]
    assert (body["state"], body["attempt"], body["task_id"]) == ("pending", 2, task.id)
    assert body["message_id"] == f"<{body['id']}.result.2@example.org>"
    assert (await second.json())["attempt"] == 3
    assert (await Delivery.get(id=row.id)).state == state
    messages = [bytes(one.body) for one in await OutboxRow.filter(topic="mailer.deliver")]
    assert Deliver(delivery_id=body["id"]).to_bytes() in messages
    assert len(messages) == 2


@pytest.mark.parametrize("of_task", [True, False])
async def test_a_resend_that_is_sent_twice_with_a_key_mails_once(
    stage: Stage, of_task: bool
) -> None:
    task_id = (await stage.task("failed")).id if of_task else None
    row = await delivery(stage, "failed", task_id=task_id)
    admin = await stage.admin()
    url, key = f"/api/deliveries/{row.id}/resend", {"Idempotency-Key": "once"}
    first, again = [await admin.post(url, headers=key) for _ in range(2)]
    assert (first.status, again.status) == (202, 202)
    body = await first.json()
    assert await again.json() == body
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"] == body.pop("status_url")
    assert await Delivery.all().count() == 2
    assert await OutboxRow.filter(topic="mailer.deliver").count() == 1
    shown = await admin.get(f"/api/deliveries/{body['id']}")
    assert await shown.json() == body, "as it was stored"


async def test_a_mail_that_is_no_result_is_sent_again_as_it_was(stage: Stage) -> None:
    row = await delivery(
        stage, "failed", purpose="message", template="message", variables={"subject": "s"}
    )
    admin = await stage.admin()
    body = await (await admin.post(f"/api/deliveries/{row.id}/resend")).json()
    again = await Delivery.get(id=body["id"])
    assert (again.template, again.variables, again.address) == (
        "message",
        {"subject": "s"},
        row.address,
    )
    assert again.message_id == f"<{again.id}.message.2@example.org>"


@pytest.mark.parametrize("state", ["pending", "sending"])
async def test_a_mail_that_is_under_way_is_not_sent_twice(stage: Stage, state: str) -> None:
    row = await delivery(stage, state)
    admin = await stage.admin()
    assert (await admin.post(f"/api/deliveries/{row.id}/resend")).status == 409
    assert await Delivery.all().count() == 1


async def test_another_users_delivery_does_not_exist(stage: Stage) -> None:
    row = await delivery(stage, "sent")
    user = await stage.user("user")
    client = await stage.client(await stage.key("tasks:read", "tasks:write", user=user))
    assert (await client.get(f"/api/deliveries/{row.id}")).status == 404
    assert (await client.post(f"/api/deliveries/{row.id}/resend")).status == 404
    assert (await (await client.get("/api/deliveries")).json())["data"] == []


@pytest.mark.parametrize(("outcome", "ends"), [("sent", "emailed"), ("failed", "failed")])
async def test_a_person_resolves_an_unknown_mail_and_its_task(
    stage: Stage, outcome: str, ends: str
) -> None:
    task = await stage.task("unknown", result_key="results/a.png")
    row = await delivery(stage, "unknown", task_id=task.id)
    admin = await stage.admin()
    url = f"/api/deliveries/{row.id}/resolve"
    answer = await admin.post(url, json={"outcome": outcome})
    assert (answer.status, (await answer.json())["state"]) == (200, outcome)
    assert (await Task.get(id=task.id)).state == ends
    assert (await admin.post(url, json={"outcome": outcome})).status == 409
    assert (await admin.post(url, json={"outcome": "perhaps"})).status == 422

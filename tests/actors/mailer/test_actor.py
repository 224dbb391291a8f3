"""The mailer over the mailbox: what is written, to whom, how often, and what is remembered."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from limner.actors.mailer.actor import Mailer, build
from limner.actors.mailer.mailbox import Mailbox
from limner.actors.mailer.messages import Deliver, Reconcile, Send
from limner.actors.mailer.transport import Mail, Receipt
from limner.actors.ports import Ports
from limner.actors.sweeper.actor import Sweeper
from limner.core import failpoints
from limner.core.clock import HeldClock
from limner.core.errors import Transient
from limner.core.ids import new_id
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.suppressions import Suppression
from limner.storage.sql.tasks import Task
from limner.storage.sql.timeline import lines_after
from tests.fakes.deliveries import ADDRESS, finished, kept, mailed
from tests.fakes.ports import open_ports
from tests.fakes.stage import Stage


@pytest.fixture
async def ports(tmp_path: Path, migrated_file: Path, clock: HeldClock) -> AsyncIterator[Ports]:
    async with open_ports(tmp_path, clock=clock, migrated=migrated_file) as opened:
        yield opened


@pytest.fixture
def stage(ports: Ports) -> Stage:
    return Stage(ports, build(ports))


async def fate(delivery: Delivery) -> tuple[str, str | None]:
    """Give the states of a delivery and of its task."""
    row = await Delivery.get(id=delivery.id)
    task = await Task.get_or_none(id=row.task_id)
    return row.state, task.state if task else None


async def test_a_finished_task_is_mailed_and_ends(stage: Stage, clock: HeldClock) -> None:
    task = await finished(stage.ports)
    delivery = await mailed(stage.ports, task)
    assert await stage.act() == 1
    assert await fate(delivery) == ("sent", "emailed")
    row = await Delivery.get(id=delivery.id)
    assert (row.sent_at, row.error, row.lease_until) == (clock.now(), "", None)
    assert row.subject == "Your picture is ready"
    assert [line.state for line in await lines_after(task.id, 0)][-1] == "emailed"
    assert await stage.waiting() == []
    (line,) = await AuditLine.filter(event="mail.sent")
    assert (line.subject, line.trace_id) == (delivery.id, task.trace_id)


async def test_a_message_that_comes_again_sends_nothing(stage: Stage) -> None:
    delivery = await mailed(stage.ports, await finished(stage.ports))
    for _ in range(3):
        await stage.send(Deliver(delivery_id=delivery.id))
    await stage.act()
    assert len(await kept(stage.ports)) == 1
    assert await fate(delivery) == ("sent", "emailed")


async def test_a_mail_that_a_person_sends_again_goes_out_under_an_id_of_its_own(
    stage: Stage,
) -> None:
    task = await finished(stage.ports)
    await mailed(stage.ports, task)
    await stage.act()
    again = await mailed(stage.ports, task, attempt=2)
    await stage.act()
    assert await fate(again) == ("sent", "emailed")
    ids = {str(mail["Message-ID"]) for mail in await kept(stage.ports)}
    assert len(ids) == 2
    assert any(".result.2@" in each for each in ids)


async def test_a_mail_sent_again_to_a_suppressed_address_leaves_the_ended_task_as_it_is(
    stage: Stage, clock: HeldClock
) -> None:
    task = await finished(stage.ports)
    await mailed(stage.ports, task)
    await stage.act()
    await Suppression.create(
        id=new_id("suppression"), address=ADDRESS, reason="manual", created_at=clock.now()
    )
    again = await mailed(stage.ports, task, attempt=2)
    await stage.act()
    assert await fate(again) == ("suppressed", "emailed")


async def test_a_delivery_that_is_not_there_is_a_dead_letter(stage: Stage) -> None:
    await stage.send(Deliver(delivery_id="delivery_0"), Reconcile(delivery_id="delivery_0"))
    await stage.act()
    assert [letter.reason for letter in await stage.dead()] == ["not_found", "not_found"]


async def test_a_suppressed_address_gets_no_mail(stage: Stage, clock: HeldClock) -> None:
    await stage.keep(
        Suppression(
            id="suppression_1", address=ADDRESS, reason="unsubscribed", created_at=clock.now()
        )
    )
    delivery = await mailed(stage.ports, await finished(stage.ports, address="Reader@Example.org"))
    await stage.act()
    assert await fate(delivery) == ("suppressed", "failed")
    assert await kept(stage.ports) == []


async def test_a_suppressed_address_gets_no_message_either(stage: Stage, clock: HeldClock) -> None:
    await stage.keep(
        Suppression(id="suppression_1", address=ADDRESS, reason="manual", created_at=clock.now())
    )
    await stage.publish(Send(to=ADDRESS, subject="Hi", text="x"), Send.topic, message_id="m1")
    await stage.act()
    (delivery,) = await Delivery.all()
    assert delivery.state == "suppressed"
    assert await kept(stage.ports) == []


async def test_the_mail_of_a_cancelled_task_stays_here(stage: Stage) -> None:
    task = await finished(stage.ports)
    delivery = await mailed(stage.ports, task)
    work = stage.ports.units.open("test")
    work.move(task, expected="succeeded", to="cancelled")
    await stage.ports.units.commit(work)
    await stage.act()
    assert await fate(delivery) == ("failed", "cancelled")
    assert (await Delivery.get(id=delivery.id)).error == "the task is cancelled"
    assert await kept(stage.ports) == []


async def test_a_task_cancelled_while_its_mail_goes_out_stays_so_and_the_mail_is_known_as_sent(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await finished(stage.ports)
    delivery = await mailed(stage.ports, task)
    send = Mailbox.send

    async def cancelling(self: Mailbox, mail: Mail) -> Receipt:
        work = stage.ports.units.open("test")
        work.move(task, expected="succeeded", to="cancelled")
        await stage.ports.units.commit(work)
        return await send(self, mail)

    monkeypatch.setattr(Mailbox, "send", cancelling)
    await stage.act()
    assert await fate(delivery) == ("sent", "cancelled")
    assert len(await kept(stage.ports)) == 1


async def test_a_mail_over_the_limit_of_its_address_waits_for_the_next_day(
    stage: Stage, clock: HeldClock
) -> None:
    await stage.tune(mail_per_address_per_day=2)
    deliveries = []
    for _ in range(3):
        deliveries.append(await mailed(stage.ports, await finished(stage.ports)))
        await stage.act()
        clock.advance(3600)
    other = await mailed(stage.ports, await finished(stage.ports, address="other@example.org"))
    await stage.act()
    assert [await fate(each) for each in (*deliveries, other)] == [
        ("sent", "emailed"),
        ("sent", "emailed"),
        ("pending", "succeeded"),
        ("sent", "emailed"),
    ]
    waiting = await Delivery.get(id=deliveries[2].id)
    assert waiting.error == "over the daily limit; waits"
    assert await stage.act_later() == pytest.approx(86_400 - 3 * 3600)
    assert await fate(deliveries[2]) == ("sent", "emailed")
    assert (await Delivery.get(id=deliveries[2].id)).error == ""
    assert clock.now() >= (await Delivery.get(id=deliveries[0].id)).created_at + timedelta(days=1)


async def test_a_message_over_the_limit_waits_too_without_a_task(stage: Stage) -> None:
    await stage.tune(mail_per_address_per_day=1)
    for number in range(2):
        await stage.publish(
            Send(to=ADDRESS, subject="Hello", text="you"), Send.topic, message_id=f"m{number}"
        )
    await stage.act()
    assert len(await kept(stage.ports)) == 1
    await stage.act_later()
    assert len(await kept(stage.ports)) == 2


@pytest.mark.parametrize("point", ["objects.put", "mailbox.row"])
async def test_a_mailbox_that_fails_on_the_way_gets_the_mail_exactly_once(
    stage: Stage, clock: HeldClock, point: str
) -> None:
    delivery = await mailed(stage.ports, await finished(stage.ports))
    sweeper = Sweeper(stage.ports)
    failpoints.arm(f"{point}:execute-then-raise")
    await stage.act()
    failpoints.arm(None)
    assert await fate(delivery) == ("sending", "succeeded")
    await stage.act_later()
    assert await fate(delivery) == ("sending", "succeeded")
    clock.advance(stage.ports.leases.lease_s)
    assert await sweeper.sweep() == 1
    assert await fate(delivery) == ("unknown", "unknown")
    await stage.act()
    assert await fate(delivery) == ("sent", "emailed")
    assert len(await kept(stage.ports)) == 1
    assert await stage.waiting() == []


async def killed(ports: Ports, delivery: Delivery) -> None:
    """Leave a delivery as a process does that died while it was sending."""
    work = ports.units.open("mailer")
    await work.begin(delivery, expected="pending", to="sending", lease_s=ports.leases.lease_s)


@pytest.mark.parametrize("kept_before", [True, False])
async def test_a_process_that_died_while_sending_leaves_exactly_one_mail(
    stage: Stage, clock: HeldClock, kept_before: bool
) -> None:
    task = await finished(stage.ports)
    delivery = await mailed(stage.ports, task)
    await killed(stage.ports, delivery)
    if kept_before:
        mailbox = Mailbox(stage.ports.database, stage.ports.objects, clock)
        await mailbox.send(
            Mail(delivery.message_id, "limner@limner.test", ADDRESS, "Your picture is ready", "!")
        )
    await stage.act()
    assert await fate(delivery) == ("sending", "succeeded")
    clock.advance(stage.ports.leases.lease_s)
    await Sweeper(stage.ports).sweep()
    await stage.act()
    assert await fate(delivery) == ("sent", "emailed")
    assert len(await kept(stage.ports)) == 1


async def test_a_mail_that_is_found_absent_is_not_sent_for_a_task_cancelled_since(
    stage: Stage, clock: HeldClock
) -> None:
    task = await finished(stage.ports)
    delivery = await mailed(stage.ports, task)
    await killed(stage.ports, delivery)
    clock.advance(stage.ports.leases.lease_s)
    await Sweeper(stage.ports).sweep()
    work = stage.ports.units.open("test")
    work.move(task, expected="unknown", to="cancelled")
    await stage.ports.units.commit(work)
    await stage.act()
    assert await fate(delivery) == ("failed", "cancelled")
    assert await kept(stage.ports) == []


async def test_a_mail_that_is_known_needs_no_look(stage: Stage) -> None:
    delivery = await mailed(stage.ports, await finished(stage.ports))
    await stage.send(Reconcile(delivery_id=delivery.id))
    await stage.act()
    assert await fate(delivery) == ("sent", "emailed")


async def test_a_delivery_that_was_never_begun_fails_when_its_message_is_given_up(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = await mailed(stage.ports, await finished(stage.ports))

    async def out_of_reach(*_: object) -> None:
        raise Transient("the settings cannot be read")

    monkeypatch.setattr(Mailer, "_wait_for_limit", out_of_reach)
    await stage.act()
    for _ in range(7):
        assert await fate(delivery) == ("pending", "succeeded")
        await stage.act_later()
    assert await fate(delivery) == ("failed", "failed")
    (letter,) = await stage.dead()
    assert (letter.reason, letter.attempt) == ("attempts_exhausted", 8)
    assert letter.detail == "the settings cannot be read"


async def test_giving_up_says_nothing_about_a_mail_that_may_be_out(stage: Stage) -> None:
    delivery = await mailed(stage.ports, await finished(stage.ports))
    await killed(stage.ports, delivery)
    work = stage.ports.units.open("mailer")
    mailer = build(stage.ports).handler
    assert isinstance(mailer, Mailer)
    await mailer.abandon(Deliver(delivery_id=delivery.id), "no end within 300 s", work)
    await stage.ports.units.commit(work)
    assert await fate(delivery) == ("sending", "succeeded")


async def test_mails_are_counted_by_outcome(stage: Stage) -> None:
    await mailed(stage.ports, await finished(stage.ports))
    await stage.act()
    assert b'limner_mails_total{outcome="sent"} 1.0' in stage.ports.metrics.render()

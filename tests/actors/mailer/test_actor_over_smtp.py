"""The mailer over SMTP: at most one copy of each mail, whatever the other side does."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from limner.actors.mailer.actor import MAX_ATTEMPTS, build
from limner.actors.mailer.messages import Deliver, Reconcile, Send
from limner.actors.mailer.session import Session
from limner.actors.ports import Ports
from limner.actors.sweeper.actor import Sweeper
from limner.core import failpoints
from limner.core.clock import HeldClock
from limner.core.errors import Refused, Transient
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.suppressions import Suppression
from limner.storage.sql.tasks import Task
from tests.fakes.deliveries import ADDRESS, finished, mailed
from tests.fakes.ports import open_ports
from tests.fakes.smtp import FakeSmtp, Fault, close, reply, reset
from tests.fakes.stage import Stage


@pytest.fixture
async def smtp() -> AsyncIterator[FakeSmtp]:
    async with FakeSmtp() as server:
        yield server


@pytest.fixture
async def ports(
    tmp_path: Path, migrated_file: Path, clock: HeldClock, smtp: FakeSmtp
) -> AsyncIterator[Ports]:
    async with open_ports(
        tmp_path, clock=clock, migrated=migrated_file, mail_url=smtp.url
    ) as opened:
        yield opened


@pytest.fixture
def stage(ports: Ports) -> Stage:
    return Stage(ports, build(ports))


@pytest.fixture
async def delivery(ports: Ports) -> Delivery:
    return await mailed(ports, await finished(ports))


async def fate(delivery: Delivery) -> tuple[str, str | None]:
    """Give the states of a delivery and of its task."""
    row = await Delivery.get(id=delivery.id)
    task = await Task.get_or_none(id=row.task_id)
    return row.state, task.state if task else None


async def test_a_mail_goes_out_once_under_its_own_id(
    stage: Stage, smtp: FakeSmtp, delivery: Delivery
) -> None:
    await stage.act()
    await stage.send(Deliver(delivery_id=delivery.id))
    await stage.act()
    assert await fate(delivery) == ("sent", "emailed")
    assert smtp.copies == {delivery.message_id: 1}
    assert smtp.mails[0].recipients == (ADDRESS,)
    assert smtp.commands[0] == "EHLO limner.test"


@pytest.mark.parametrize(
    "fault",
    [
        reply("greeting", 421, "4.3.2 busy"),
        reply("mail", 451, "4.3.0 later"),
        reply("rcpt", 450, "4.2.1 greylisted"),
        reply("dot", 452, "4.2.2 full"),
        close("rcpt"),
        close("data"),
        close("body"),
        reset("body"),
    ],
    ids=repr,
)
async def test_what_goes_wrong_before_the_mail_is_taken_over_is_tried_again(
    stage: Stage, smtp: FakeSmtp, delivery: Delivery, fault: Fault
) -> None:
    smtp.script(fault)
    await stage.act()
    assert await fate(delivery) == ("pending", "succeeded")
    row = await Delivery.get(id=delivery.id)
    assert row.error != ""
    assert row.lease_until is None
    (again,) = await stage.waiting()
    assert (again.topic, again.attempt) == (Deliver.topic, 2)
    wait_s = await stage.act_later()
    assert 0 <= wait_s <= 5
    assert await fate(delivery) == ("sent", "emailed")
    assert (await Delivery.get(id=delivery.id)).error == ""
    assert smtp.copies == {delivery.message_id: 1}


async def test_a_mail_that_is_put_off_every_time_fails_after_the_last_attempt(
    stage: Stage, smtp: FakeSmtp, delivery: Delivery
) -> None:
    smtp.script(*[reply("rcpt", 451, "4.7.1 later")] * MAX_ATTEMPTS)
    await stage.act()
    for _ in range(MAX_ATTEMPTS - 1):
        assert await fate(delivery) == ("pending", "succeeded")
        await stage.act_later()
    assert await fate(delivery) == ("failed", "failed")
    row = await Delivery.get(id=delivery.id)
    assert "451 4.7.1 later" in row.error
    assert (await Task.get(id=row.task_id)).error == row.error
    (letter,) = await stage.dead()
    assert (letter.reason, letter.attempt) == ("attempts_exhausted", MAX_ATTEMPTS)
    assert await stage.waiting() == []
    assert smtp.connections == MAX_ATTEMPTS
    assert smtp.mails == []


async def test_an_address_that_does_not_exist_is_remembered(
    stage: Stage, smtp: FakeSmtp, delivery: Delivery
) -> None:
    smtp.script(reply("rcpt", 550, "5.1.1 no such user"))
    await stage.act()
    assert await fate(delivery) == ("failed", "failed")
    (suppression,) = await Suppression.all()
    assert (suppression.address, suppression.reason) == (ADDRESS, "bounced")
    events = {line.event for line in await AuditLine.all()}
    assert events == {"mail.failed", "suppression.added"}
    second = await mailed(stage.ports, await finished(stage.ports))
    await stage.act()
    assert await fate(second) == ("suppressed", "failed")
    assert smtp.connections == 1


async def test_an_address_that_bounces_twice_at_once_is_remembered_once(
    stage: Stage, smtp: FakeSmtp, delivery: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def already(self: Session, *_: object) -> None:
        work = stage.ports.units.open("test")
        work.add(
            Suppression(id="suppression_1", address=ADDRESS, reason="bounced", created_at=work.now)
        )
        await stage.ports.units.commit(work)
        raise Refused("no such user", context={"phase": "recipient", "status": "5.1.1"})

    monkeypatch.setattr(Session, "envelope", already)
    await stage.act()
    assert await fate(delivery) == ("failed", "failed")
    assert await Suppression.all().count() == 1
    assert await stage.dead() == []


@pytest.mark.parametrize(
    "fault",
    [
        reply("rcpt", 550, "5.7.1 not allowed"),
        reply("mail", 550, "5.1.8 bad sender"),
        reply("dot", 554, "5.1.1 looks like spam"),
        reply("rcpt", 554, "without a status"),
    ],
    ids=repr,
)
async def test_a_refusal_that_does_not_speak_against_the_address_suppresses_nothing(
    stage: Stage, smtp: FakeSmtp, delivery: Delivery, fault: Fault
) -> None:
    smtp.script(fault)
    await stage.act()
    assert await fate(delivery) == ("failed", "failed")
    assert await Suppression.all().count() == 0
    assert await stage.waiting() == []


@pytest.mark.parametrize("fault", [close("dot"), reset("dot"), reply("dot", 100, "?")], ids=repr)
async def test_there_is_never_a_second_copy_of_a_mail_whose_answer_was_lost(
    stage: Stage, smtp: FakeSmtp, delivery: Delivery, fault: Fault
) -> None:
    smtp.script(fault)
    await stage.act()
    assert await fate(delivery) == ("unknown", "unknown")
    assert await stage.waiting() == []
    await stage.send(Deliver(delivery_id=delivery.id), Reconcile(delivery_id=delivery.id))
    await stage.act()
    assert await fate(delivery) == ("unknown", "unknown")
    assert smtp.copies == {delivery.message_id: 1}
    (line,) = await AuditLine.all()
    assert (line.event, line.subject) == ("mail.unknown", delivery.id)


async def test_a_message_without_a_task_is_unknown_on_its_own(stage: Stage, smtp: FakeSmtp) -> None:
    smtp.script(close("dot"))
    await stage.publish(Send(to=ADDRESS, subject="Hi", text="x"), Send.topic, message_id="m1")
    await stage.act()
    (delivery,) = await Delivery.all()
    assert await fate(delivery) == ("unknown", None)
    assert smtp.copies == {delivery.message_id: 1}


async def test_an_operators_retry_after_an_unknown_mail_ends_the_task(
    stage: Stage, smtp: FakeSmtp, delivery: Delivery
) -> None:
    smtp.script(close("dot"))
    await stage.act()
    task = await Task.get(id=delivery.task_id)
    again = await mailed(stage.ports, task, attempt=2)
    await stage.act()
    assert await fate(again) == ("sent", "emailed")
    assert await fate(delivery) == ("unknown", "emailed")
    assert smtp.copies == {delivery.message_id: 1, again.message_id: 1}


async def test_a_process_that_died_while_sending_leaves_the_mail_unknown(
    stage: Stage, smtp: FakeSmtp, delivery: Delivery, clock: HeldClock
) -> None:
    work = stage.ports.units.open("mailer")
    await work.begin(delivery, expected="pending", to="sending", lease_s=stage.ports.leases.lease_s)
    await stage.act()
    clock.advance(stage.ports.leases.lease_s)
    assert await Sweeper(stage.ports).sweep() == 1
    await stage.act()
    assert await fate(delivery) == ("unknown", "unknown")
    assert smtp.connections == 0
    assert await stage.waiting() == []


@pytest.mark.parametrize(("point", "copies"), [("smtp.dot", 1), ("smtp.connect", 0)])
async def test_a_bug_beyond_the_point_of_no_return_is_not_repeated(
    stage: Stage, smtp: FakeSmtp, delivery: Delivery, clock: HeldClock, point: str, copies: int
) -> None:
    failpoints.arm(f"{point}:execute-then-raise")
    await stage.act()
    failpoints.arm(None)
    await stage.act_later()
    clock.advance(stage.ports.leases.lease_s)
    await Sweeper(stage.ports).sweep()
    await stage.act()
    assert await fate(delivery) == ("unknown", "unknown")
    assert len(smtp.mails) == copies


async def test_a_look_up_that_is_out_of_reach_is_tried_again(
    stage: Stage, smtp: FakeSmtp, delivery: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    smtp.script(close("dot"))
    await stage.act()

    async def out_of_reach(*_: object) -> None:
        raise Transient("the place to look is out of reach")

    monkeypatch.setattr("limner.actors.mailer.smtp.Smtp.lookup", out_of_reach)
    await stage.send(Reconcile(delivery_id=delivery.id))
    await stage.act()
    (again,) = await stage.waiting()
    assert (again.topic, again.attempt) == (Reconcile.topic, 2)
    assert await fate(delivery) == ("unknown", "unknown")


async def test_a_mail_found_after_all_is_sent(
    stage: Stage, smtp: FakeSmtp, delivery: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    smtp.script(close("dot"))
    await stage.act()

    async def found(*_: object) -> bool:
        return True

    monkeypatch.setattr("limner.actors.mailer.smtp.Smtp.lookup", found)
    await stage.send(Reconcile(delivery_id=delivery.id), Reconcile(delivery_id=delivery.id))
    await stage.act()
    assert await fate(delivery) == ("sent", "emailed")
    assert smtp.copies == {delivery.message_id: 1}


async def test_the_mailer_lets_go_of_its_transport(ports: Ports) -> None:
    actor = build(ports)
    assert actor.close is not None
    await actor.close()

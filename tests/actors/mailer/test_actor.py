"""The mailer over the mailbox: what is written, to whom, how often, and what is remembered."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from limner.actors.mailer.actor import Mailer, build
from limner.actors.mailer.mailbox import Mailbox
from limner.actors.mailer.messages import Deliver, Reconcile, Send
from limner.actors.mailer.transport import Mail, Receipt
from limner.actors.mailer.transports import sender_domain, transport
from limner.actors.ports import Ports
from limner.actors.sweeper.actor import Sweeper
from limner.core import failpoints
from limner.core.clock import HeldClock
from limner.core.errors import Invalid, NotConfigured, Transient, Unauthenticated
from limner.core.ids import new_id
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.mailbox import MailboxMail
from limner.storage.sql.suppressions import Suppression
from limner.storage.sql.tasks import Task
from limner.storage.sql.timeline import lines_after
from tests.fakes.deliveries import ADDRESS, finished, kept, mailed, picture, words
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


async def test_the_mail_shows_the_picture_and_leads_to_it(stage: Stage, clock: HeldClock) -> None:
    task = await finished(stage.ports)
    delivery = await mailed(stage.ports, task)
    await stage.act()
    (mail,) = await kept(stage.ports)
    assert mail["To"] == ADDRESS
    assert mail["From"] == "Limner <limner@limner.test>"
    assert mail["Message-ID"] == delivery.message_id
    assert delivery.message_id.endswith(".result.1@limner.test>")
    (shown,) = [part for part in mail.walk() if part.get_content_type() == "image/png"]
    assert shown.get_payload(decode=True) == picture()
    assert f"cid:{str(shown['Content-ID']).strip('<>')}" in words(mail, "html")
    for text in (words(mail), words(mail, "html")):
        assert "a red fox in the snow" in text
        assert "This link works for 1 hour." in text
        token = text.split("https://limner.test/r/")[1].split()[0].split('"')[0]
        signer = stage.ports.signer
        assert signer.open("result", token, clock.now()) == {"task": task.id}
        with pytest.raises(Unauthenticated):
            signer.open("result", token, clock.now() + timedelta(seconds=3600))


async def test_the_reader_can_stop_these_mails_with_one_click(
    stage: Stage, clock: HeldClock
) -> None:
    await mailed(stage.ports, await finished(stage.ports))
    await stage.act()
    (mail,) = await kept(stage.ports)
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    link = str(mail["List-Unsubscribe"])
    assert link.startswith("<https://limner.test/unsubscribe/")
    token = link.removeprefix("<https://limner.test/unsubscribe/").rstrip(">")
    assert stage.ports.signer.open("unsubscribe", token, clock.now()) == {"address": ADDRESS}
    assert token in words(mail, "html")


async def test_the_life_of_the_link_is_a_setting(stage: Stage) -> None:
    await stage.tune(result_link_ttl_s=172_800)
    await mailed(stage.ports, await finished(stage.ports))
    await stage.act()
    (mail,) = await kept(stage.ports)
    assert "This link works for 2 days." in words(mail)


async def test_a_chinese_wish_gets_a_chinese_mail(stage: Stage) -> None:
    await mailed(stage.ports, await finished(stage.ports, language="zh", prompt="一只红狐狸"))
    await stage.act()
    (mail,) = await kept(stage.ports)
    assert mail["Subject"] == "您的图片已生成"
    assert "一只红狐狸" in words(mail)


async def test_a_video_is_shown_by_its_first_frame(stage: Stage) -> None:
    task = await finished(
        stage.ports, media="video", result_key="jobs/job_1/1-0.webm", poster_key="jobs/job_1/p.png"
    )
    await stage.ports.objects.put(task.poster_key, picture(), "image/png", size_limit_bytes=9999)
    await mailed(stage.ports, task)
    await stage.act()
    (mail,) = await kept(stage.ports)
    assert mail["Subject"] == "Your video is ready"
    assert [part.get_filename() for part in mail.walk() if part.get_filename()] == ["video.png"]


@pytest.mark.parametrize(
    ("content", "content_type", "limit_bytes"),
    [
        (None, "image/png", 5_242_880),
        (picture(), "image/png", 100),
        (picture(), "image/png", 0),
        (picture(), "image/avif", 5_242_880),
        (b"\x89PNG\r\n\x1a\n but no picture", "image/png", 5_242_880),
        (picture()[:30], "image/png", 5_242_880),
    ],
    ids=["missing", "too large", "not wanted", "not for mails", "broken", "cut off"],
)
async def test_what_a_mail_cannot_show_is_only_linked(
    stage: Stage, content: bytes | None, content_type: str, limit_bytes: int
) -> None:
    await stage.tune(inline_picture_max_bytes=limit_bytes)
    task = await finished(stage.ports)
    await stage.ports.objects.delete(task.result_key)
    if content is not None:
        await stage.ports.objects.put(
            task.result_key, content, content_type, size_limit_bytes=100_000
        )
    delivery = await mailed(stage.ports, task)
    await stage.act()
    assert await fate(delivery) == ("sent", "emailed")
    (mail,) = await kept(stage.ports)
    assert "https://limner.test/r/" in words(mail, "html")
    assert [part.get_content_maintype() for part in mail.walk()] == ["multipart", "text", "text"]


async def test_a_message_that_comes_again_sends_nothing(stage: Stage) -> None:
    delivery = await mailed(stage.ports, await finished(stage.ports))
    for _ in range(3):
        await stage.send(Deliver(delivery_id=delivery.id))
    await stage.act()
    assert len(await kept(stage.ports)) == 1
    assert await fate(delivery) == ("sent", "emailed")


async def test_a_resent_mail_is_one_of_its_own(stage: Stage) -> None:
    task = await finished(stage.ports)
    await mailed(stage.ports, task)
    await stage.act()
    again = await finished(stage.ports, comment_id=new_id("comment"))
    await mailed(stage.ports, again, attempt=2)
    await stage.act()
    ids = {str(mail["Message-ID"]) for mail in await kept(stage.ports)}
    assert len(ids) == 2
    assert any(".result.2@" in each for each in ids)


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


@pytest.mark.parametrize(
    ("wish", "html"),
    [
        (Send(to=ADDRESS, subject="Hello", text="a text"), None),
        (Send(to=ADDRESS, subject="Hello", text="a text", html="<p>a text</p>"), "<p>a text</p>"),
        (
            Send(
                to=ADDRESS,
                template="message",
                variables={"subject": "Hello", "text": "a text"},
                language="zh",
            ),
            "a text",
        ),
    ],
    ids=["text", "html", "template"],
)
async def test_a_producer_can_have_a_mail_sent(stage: Stage, wish: Send, html: str | None) -> None:
    await stage.publish(wish, Send.topic, message_id="m1")
    await stage.act()
    assert await stage.dead() == []
    (mail,) = await kept(stage.ports)
    assert (mail["Subject"], mail["To"]) == ("Hello", ADDRESS)
    assert "a text" in words(mail)
    if html is None:
        assert mail.get_body(("html",)) is None
    else:
        assert html in words(mail, "html")
    delivery = await Delivery.get(purpose="message")
    assert (delivery.state, delivery.message_id) == ("sent", str(mail["Message-ID"]))


FAULTY: list[tuple[dict[str, Any], str, str]] = [
    ({"to": ADDRESS}, "invalid", "either template, or subject and text"),
    ({"to": ADDRESS, "subject": "Hello"}, "invalid", "either template, or subject and text"),
    ({"to": "nobody", "subject": "Hello", "text": "x"}, "invalid", "to is not one mail address"),
    (
        {"to": "a@x.test\r\nBcc: b@x.test", "subject": "Hello", "text": "x"},
        "invalid",
        "to is not one mail address",
    ),
    ({"to": ADDRESS, "template": "other"}, "invalid", "cannot be written from this template"),
    (
        {"to": ADDRESS, "template": "message", "variables": {"subject": "x"}},
        "invalid",
        "cannot be written from this template",
    ),
    ({"to": ADDRESS, "text": "x", "extra": 1}, "invalid_message", "/extra"),
    ({"subject": "Hello", "text": "x"}, "invalid_message", "/to"),
]


@pytest.mark.parametrize(("body", "reason", "said"), FAULTY, ids=[str(each[0]) for each in FAULTY])
async def test_a_wish_for_a_mail_that_is_not_whole_becomes_a_dead_letter(
    stage: Stage, body: dict[str, Any], reason: str, said: str
) -> None:
    await stage.publish(json.dumps(body).encode(), Send.topic, message_id="m1")
    (letter,) = await stage.dead()
    assert (letter.consumer, letter.reason, letter.message_id) == ("mailer", reason, "m1")
    assert said in letter.detail
    assert await Delivery.all().count() == 0
    assert await stage.waiting() == []


async def test_a_subject_that_would_inject_a_header_fails_and_sends_nothing(stage: Stage) -> None:
    wish = Send(to=ADDRESS, subject="Hello\r\nBcc: v@x.test", text="x")
    await stage.publish(wish, Send.topic, message_id="m1")
    await stage.act()
    (delivery,) = await Delivery.all()
    assert delivery.state == "failed"
    assert "line break" in delivery.error
    assert await MailboxMail.all().count() == 0


async def test_a_stored_delivery_without_words_fails(stage: Stage) -> None:
    row = Delivery(
        id="delivery_1", state="pending", purpose="message", address=ADDRESS, message_id="<a@b.c>"
    )
    await stage.keep(row)
    await stage.send(Deliver(delivery_id=row.id))
    await stage.act()
    after = await Delivery.get(id=row.id)
    assert after.state == "failed"
    assert after.error == "the delivery has neither a template nor a text"


async def test_a_producer_who_says_it_twice_gets_one_mail(stage: Stage) -> None:
    wish = Send(to=ADDRESS, subject="Hello", text="x")
    for app_id in ("shop", "shop", "forum"):
        await stage.publish(wish, Send.topic, message_id="m1", app_id=app_id)
        await stage.act()
    assert len(await kept(stage.ports)) == 2
    assert await stage.dead() == []


async def test_a_wish_of_our_own_needs_no_producer(stage: Stage) -> None:
    await stage.send(Send(to=ADDRESS, subject="Hello", text="x"))
    await stage.act()
    (mail,) = await kept(stage.ports)
    assert mail["Subject"] == "Hello"


async def test_a_wish_that_came_by_no_message_gets_an_id_of_its_own(ports: Ports) -> None:
    sender = build(ports).others[Send]
    work = ports.units.open("mailer")
    for _ in range(2):
        await sender.handle(Send(to=ADDRESS, subject="Hello", text="x"), work)
    await ports.units.commit(work)
    assert await Delivery.all().count() == 2


async def test_mails_are_counted_by_outcome(stage: Stage) -> None:
    await mailed(stage.ports, await finished(stage.ports))
    await stage.act()
    assert b'limner_mails_total{outcome="sent"} 1.0' in stage.ports.metrics.render()


@pytest.mark.parametrize(
    ("mail_from", "domain"),
    [("Limner <limner@mail.example>", "mail.example"), ("a@bücher.de", "xn--bcher-kva.de")],
)
def test_the_domain_of_the_sender_ends_every_message_id(mail_from: str, domain: str) -> None:
    assert sender_domain(mail_from) == domain


def test_a_domain_too_long_for_a_message_id_is_called_localhost() -> None:
    assert sender_domain(f"a@{'x' * 50}.{'y' * 50}.test") == "localhost"
    with pytest.raises(Invalid):
        sender_domain("nobody")


async def test_the_mailbox_keeps_one_copy_and_knows_what_it_has(ports: Ports) -> None:
    mailbox = transport("mailbox:", ports)
    mail = Mail("<a.b.1@limner.test>", "limner@limner.test", ADDRESS, "Hello", "x")
    assert await mailbox.lookup(mail.message_id) is False
    assert (await mailbox.send(mail)).reply == "kept in the mailbox"
    assert (await mailbox.send(mail)).reply == "kept before"
    assert await mailbox.lookup(mail.message_id) is True
    assert await MailboxMail.all().count() == 1


async def test_an_unknown_transport_is_named_with_those_that_are_known(ports: Ports) -> None:
    with pytest.raises(NotConfigured, match="'pigeon' is no known transport; known are mailbox:"):
        transport("pigeon://loft", ports)

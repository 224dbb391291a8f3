"""Mails that other programs wish for: the public command, with everything in it."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from limner.actors.mailer.actor import build
from limner.actors.mailer.messages import Deliver, Send
from limner.actors.ports import Ports
from limner.core.clock import HeldClock
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.mailbox import MailboxMail
from tests.fakes.deliveries import ADDRESS, kept, words
from tests.fakes.ports import open_ports
from tests.fakes.stage import Stage


@pytest.fixture
async def ports(tmp_path: Path, migrated_file: Path, clock: HeldClock) -> AsyncIterator[Ports]:
    async with open_ports(tmp_path, clock=clock, migrated=migrated_file) as opened:
        yield opened


@pytest.fixture
def stage(ports: Ports) -> Stage:
    return Stage(ports, build(ports))


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

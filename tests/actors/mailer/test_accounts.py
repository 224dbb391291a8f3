"""Mails about accounts: who gets one, what its link opens, and how many there may be."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from limner.actors.mailer.account_phrases import ACCOUNT_WORDS, EXPIRY, WHY
from limner.actors.mailer.actor import build
from limner.actors.mailer.messages import AccountMail, Deliver, LinkWanted, Notice, Wanted
from limner.actors.mailer.phrases import Language
from limner.actors.mailer.rendering import render_account
from limner.actors.ports import Ports
from limner.core.clock import HeldClock
from limner.core.errors import Invalid
from limner.core.ids import new_id
from limner.storage.sql.accounts import User
from limner.storage.sql.action_links import (
    LIFE_S,
    RECENT_LIMIT,
    RECENT_S,
    ActionLink,
    create_link,
    find_link,
    spend_link,
)
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.suppressions import Suppression
from tests.fakes.deliveries import ADDRESS, finished, kept, mailed, words
from tests.fakes.letters import token_in
from tests.fakes.ports import open_ports
from tests.fakes.stage import Stage


@pytest.fixture
async def ports(tmp_path: Path, migrated_file: Path, clock: HeldClock) -> AsyncIterator[Ports]:
    async with open_ports(tmp_path, clock=clock, migrated=migrated_file) as opened:
        yield opened


@pytest.fixture
def stage(ports: Ports) -> Stage:
    return Stage(ports, build(ports))


async def account(stage: Stage, **fields: Any) -> User:
    ident = new_id("user")
    user = User(**{"id": ident, "user_id": ident, "state": "active", "email": ADDRESS, **fields})
    await stage.keep(user)
    return user


async def link_of(stage: Stage, user: User, purpose: str, **more: Any) -> ActionLink:
    """Store a link and have its letter written."""
    work = stage.ports.units.open("test")
    link = create_link(work, user, purpose, **more)
    work.send(AccountMail(user_id=user.id, link_id=link.id))
    await stage.ports.units.commit(work)
    return link


@pytest.mark.parametrize(
    ("purpose", "path", "life"),
    [
        ("verify-email", "/verify-email", "1 day"),
        ("reset-password", "/reset-password", "30 minutes"),
        ("change-email", "/verify-email", "1 day"),
    ],
)
async def test_a_letter_carries_a_link_whose_token_names_the_row(
    stage: Stage, clock: HeldClock, purpose: str, path: str, life: str
) -> None:
    user = await account(stage)
    link = await link_of(stage, user, purpose)
    clock.advance(20.0)
    await stage.act()
    (mail,) = await kept(stage.ports)
    token = token_in(mail)
    assert f"https://limner.test{path}?token={token}" in words(mail)
    assert life in words(mail)
    payload = stage.ports.signer.open(purpose, token, clock.now())
    assert payload == {"link": link.id}
    assert (await find_link(link.id, purpose, clock.now())).user_id == user.id
    assert mail["To"] == ADDRESS
    assert mail["List-Unsubscribe"] is None
    assert mail["Auto-Submitted"] == "auto-generated"
    (delivery,) = await Delivery.all()
    assert (delivery.state, delivery.purpose, delivery.user_id) == ("sent", "account", user.id)
    assert token not in str(vars(delivery))


async def test_a_link_goes_to_the_address_it_is_for(stage: Stage) -> None:
    await link_of(stage, await account(stage), ActionLink.CHANGE, email="new@example.org")
    await stage.act()
    assert [mail["To"] for mail in await kept(stage.ports)] == ["new@example.org"]


@pytest.mark.parametrize("fate", ["used", "expired"])
async def test_a_link_that_opens_nothing_any_more_is_not_sent(
    stage: Stage, clock: HeldClock, fate: str
) -> None:
    link = await link_of(stage, await account(stage), ActionLink.RESET)
    if fate == "expired":
        clock.advance(LIFE_S[ActionLink.RESET])
    else:
        work = stage.ports.units.open("test")
        spend_link(work, link)
        await stage.ports.units.commit(work)
    await stage.act()
    (delivery,) = await Delivery.all()
    assert (delivery.state, delivery.error) == ("failed", "the link was used or has expired")
    assert await kept(stage.ports) == []


@pytest.mark.parametrize("kind", get_args(Notice))
@pytest.mark.parametrize("language", ["en", "zh"])
async def test_a_notice_is_written_in_the_accounts_language_without_a_link(
    stage: Stage, kind: Notice, language: Language
) -> None:
    user = await account(stage, language=language, name="Anna <Lee>")
    await stage.send(AccountMail(user_id=user.id, kind=kind))
    await stage.act()
    (mail,) = await kept(stage.ports)
    said = ACCOUNT_WORDS[kind][language]
    assert mail["Subject"] == said.subject
    for body in (words(mail), words(mail, "html")):
        assert said.otherwise in body.replace("&#39;", "'")
        assert "http" not in body
        assert "Anna" not in body


@pytest.mark.parametrize("language", ["de", "ru", "fr", ""])
async def test_an_account_of_another_language_is_written_to_in_english(
    stage: Stage, language: str
) -> None:
    user = await account(stage, language=language)
    await stage.send(AccountMail(user_id=user.id, kind="password-changed"))
    await stage.act()
    (mail,) = await kept(stage.ports)
    assert mail["Subject"] == ACCOUNT_WORDS["password-changed"]["en"].subject


async def test_a_notice_can_go_to_the_address_an_account_had_before(stage: Stage) -> None:
    user = await account(stage)
    await stage.send(AccountMail(user_id=user.id, kind="email-changed", address="old@example.org"))
    await stage.act()
    assert [mail["To"] for mail in await kept(stage.ports)] == ["old@example.org"]


async def test_nobody_is_written_to_without_an_account_and_nothing_is_a_dead_letter(
    stage: Stage,
) -> None:
    gone = await account(stage, state="deleted", email=None)
    await account(stage, state="disabled", email="disabled@example.org")
    await stage.send(
        AccountMail(user_id=gone.id, kind="password-changed"),
        AccountMail(user_id="user_0", kind="password-changed"),
        LinkWanted(purpose="reset-password", address="nobody@example.org"),
        LinkWanted(purpose="reset-password", address="disabled@example.org"),
    )
    await stage.act()
    assert await Delivery.all().count() == 0
    assert await stage.dead() == []


async def test_a_mail_that_says_nothing_is_a_dead_letter(stage: Stage) -> None:
    user, silent = await account(stage), await account(stage, email=None)
    await stage.send(
        AccountMail(user_id=user.id),
        AccountMail(user_id=user.id, link_id="link_0"),
        AccountMail(user_id=silent.id, kind="password-changed"),
    )
    await stage.act()
    assert [letter.reason for letter in await stage.dead()] == ["invalid"] * 3
    assert await kept(stage.ports) == []


@pytest.mark.parametrize("purpose", get_args(Wanted))
async def test_a_wanted_link_is_made_for_whom_it_is_of_use(
    stage: Stage, clock: HeldClock, purpose: Wanted
) -> None:
    waiting = await account(stage)
    verified = await account(stage, email="v@example.org", verified_at=clock.now())
    for user in (waiting, verified):
        assert user.email
        await stage.send(LinkWanted(purpose=purpose, address=user.email))
    await stage.act()
    receivers = {str(mail["To"]) for mail in await kept(stage.ports)}
    assert receivers == ({ADDRESS} if purpose == "verify-email" else {ADDRESS, "v@example.org"})
    link = await ActionLink.get(user_id=waiting.id)
    assert link.expires_at - link.created_at == timedelta(seconds=LIFE_S[purpose])


async def test_a_message_that_comes_again_sends_nothing(stage: Stage) -> None:
    user = await account(stage)
    message = AccountMail(user_id=user.id, kind="password-changed")
    for _ in range(3):
        await stage.publish(message, AccountMail.topic, message_id="m1", app_id="limner")
        await stage.act()
    assert len(await kept(stage.ports)) == 1


async def test_an_address_gets_a_few_of_each_kind_an_hour(stage: Stage, clock: HeldClock) -> None:
    user = await account(stage)
    for _ in range(RECENT_LIMIT + 3):
        await stage.send(AccountMail(user_id=user.id, kind="already-registered"))
    await stage.act()
    assert len(await kept(stage.ports)) == RECENT_LIMIT
    await stage.send(AccountMail(user_id=user.id, kind="password-changed"))
    await stage.act()
    assert len(await kept(stage.ports)) == RECENT_LIMIT + 1
    clock.advance(3600.0)
    await stage.send(AccountMail(user_id=user.id, kind="already-registered"))
    await stage.act()
    assert len(await kept(stage.ports)) == RECENT_LIMIT + 2


async def test_where_an_address_has_had_enough_mails_no_link_is_made_either(
    stage: Stage, clock: HeldClock
) -> None:
    user = await account(stage)
    for place in range(RECENT_LIMIT):
        await stage.keep(
            Delivery(
                id=f"delivery_{place}",
                state="sent",
                purpose="account",
                address=ADDRESS,
                message_id=f"<delivery_{place}.account.1@limner.test>",
                template="reset-password",
            )
        )
    await stage.send(LinkWanted(purpose="reset-password", address=ADDRESS))
    await stage.act()
    assert await ActionLink.all().count() == 0
    assert await Delivery.all().count() == RECENT_LIMIT
    clock.advance(RECENT_S)
    await stage.send(LinkWanted(purpose="reset-password", address=ADDRESS))
    await stage.act()
    assert (await ActionLink.get()).user_id == user.id
    assert await Delivery.all().count() == RECENT_LIMIT + 1


async def test_mails_about_an_account_and_mails_of_the_day_do_not_stop_each_other(
    stage: Stage,
) -> None:
    await stage.tune(mail_per_address_per_day=1)
    user = await account(stage)
    for _ in range(3):
        await stage.send(AccountMail(user_id=user.id, kind="password-changed"))
    await stage.act()
    for _ in range(2):
        await mailed(stage.ports, await finished(stage.ports))
    await stage.act()
    sent = await Delivery.filter(state="sent").count()
    assert (sent, await Delivery.filter(purpose="result", state="sent").count()) == (4, 1)
    await stage.send(AccountMail(user_id=user.id, kind="email-change-asked"))
    await stage.act()
    assert await Delivery.filter(state="sent").count() == 5


@pytest.mark.parametrize(
    ("reason", "is_sent"),
    [("unsubscribed", True), ("bounced", False), ("complained", False), ("manual", False)],
)
async def test_who_unsubscribed_can_get_back_in_and_dead_addresses_are_left_alone(
    stage: Stage, clock: HeldClock, reason: str, is_sent: bool
) -> None:
    await stage.keep(
        Suppression(id="suppression_1", address=ADDRESS, reason=reason, created_at=clock.now())
    )
    await link_of(stage, await account(stage), ActionLink.RESET)
    await mailed(stage.ports, await finished(stage.ports))
    await stage.act()
    states = {row.purpose: row.state for row in await Delivery.all()}
    assert states == {"account": "sent" if is_sent else "suppressed", "result": "suppressed"}


async def test_a_stored_mail_of_no_known_kind_or_language_fails(
    stage: Stage, clock: HeldClock
) -> None:
    for place, (kind, language) in enumerate([("hello", "en"), ("password-changed", "fr")]):
        delivery = Delivery(
            id=f"delivery_{place}",
            state="pending",
            purpose="account",
            address=ADDRESS,
            message_id=f"<delivery_{place}.account.1@limner.test>",
            template=kind,
            variables={"link": "", "language": language},
        )
        await stage.keep(delivery)
        await stage.send(Deliver(delivery_id=delivery.id))
    await stage.act()
    assert {row.state for row in await Delivery.all()} == {"failed"}


@pytest.mark.parametrize("language", get_args(Language))
def test_every_kind_says_everything_in_every_language(language: Language) -> None:
    assert set(ACCOUNT_WORDS) == {*get_args(Notice), *LIFE_S}
    for kind, said in ACCOUNT_WORDS.items():
        own = said[language]
        assert own.subject
        assert own.lead
        assert own.otherwise
        assert bool(own.open) == (kind in LIFE_S)
    assert EXPIRY[language].count("{duration}") == 1
    assert WHY[language]


def test_a_link_is_a_web_address() -> None:
    with pytest.raises(Invalid):
        render_account("verify-email", "en", url="javascript:alert(1)", expires_in_s=60)

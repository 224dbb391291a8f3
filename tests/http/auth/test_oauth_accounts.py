"""Whose account an identity signs in: a known one, a new one, and never one by its address."""

import asyncio
from typing import Any

import pytest

from limner.storage.sql.accounts import User
from limner.storage.sql.identities import Identity, find_identity
from limner.storage.sql.sessions import Session
from tests.fakes import sign_ins
from tests.fakes.front import Stage, code_of, problem
from tests.fakes.issuer import Issuer
from tests.fakes.sign_ins import HTML, browser, linking, user_with

issuer, stage = sign_ins.issuer, sign_ins.oauth_stage


async def test_an_identity_that_is_known_signs_in_whatever_its_address_is_now(
    stage: Stage, issuer: Issuer
) -> None:
    assert (await (await browser(stage, issuer)).sign_in()).status == 303
    user = await User.get(email="anna@example.com")
    issuer.metadata = {"userinfo_endpoint": None}
    stage.clock.advance(3600)
    for changed in (
        {"email": "anna@elsewhere.example"},
        {"email": stage.owner.email, "email_verified": False},
        {"email": None, "email_verified": None},
    ):
        stage.clock.advance(1)
        issuer.claims = changed
        one = await browser(stage, issuer)
        assert (await one.sign_in()).status == 303
        session = await one.session()
        assert session is not None
        assert session.user_id == user.id
    assert await User.all().count() == 2
    identity = await Identity.get()
    assert identity.last_used_at == stage.clock.now()
    assert identity.email == "anna@elsewhere.example"
    assert (await User.get(id=user.id)).email == "anna@example.com"


async def test_signing_in_twice_at_the_same_moment_is_fine(stage: Stage, issuer: Issuer) -> None:
    assert (await (await browser(stage, issuer)).sign_in()).status == 303
    assert (await (await browser(stage, issuer)).sign_in()).status == 303


async def test_the_session_that_was_there_ends(stage: Stage, issuer: Issuer) -> None:
    one = await linking(stage, issuer)
    before = await one.session()
    assert before is not None
    assert (await one.sign_in()).status == 303
    after = await one.session()
    assert after is not None
    assert after.id != before.id
    assert (await Session.get(id=before.id)).revoked_at is not None


UNVERIFIED: list[dict[str, Any]] = [
    {"email_verified": False},
    {"email_verified": None},
    {"email_verified": 1},
    {"email_verified": "yes"},
    {"email_verified": [True]},
    {"email": None, "email_verified": True},
    {"email": 5},
    {"email": "no address"},
    {"email": "a@x.test\r\nBcc: b@x.test"},
    {"email": "a" * 400 + "@x.test"},
]


async def test_an_address_that_is_not_verified_makes_no_account(
    stage: Stage, issuer: Issuer, subtests: pytest.Subtests
) -> None:
    issuer.metadata = {"userinfo_endpoint": None}
    for claims in UNVERIFIED:
        with subtests.test(claims=claims):
            issuer.claims = claims
            one = await browser(stage, issuer)
            assert await code_of(await one.sign_in(), 403) == "oauth_unverified"
            assert await User.all().count() == 1
            assert await Identity.all().count() == 0
            assert await one.session() is None


async def test_verified_as_a_word_counts(stage: Stage, issuer: Issuer) -> None:
    issuer.claims = {"email_verified": "true"}
    assert (await (await browser(stage, issuer)).sign_in()).status == 303


@pytest.mark.parametrize("email", ["anna@example.com", "Anna@EXAMPLE.com"])
@pytest.mark.parametrize("verified", [True, False])
async def test_the_address_of_an_account_never_links_by_itself(
    stage: Stage, issuer: Issuer, email: str, verified: bool
) -> None:
    at = stage.clock.now() if verified else None
    user = await user_with(stage, "anna@example.com", verified_at=at)
    issuer.claims = {"email": email}
    one = await browser(stage, issuer)
    answer = await one.sign_in()
    told = await problem(answer)
    assert (answer.status, told["code"]) == (409, "oauth_account_exists")
    assert "link Example in your account" in told["detail"]
    assert await one.session() is None
    assert await Identity.all().count() == 0
    assert (await User.get(id=user.id)).version == user.version
    one.headers = HTML
    page = await one.sign_in()
    assert (page.status, page.content_type) == (409, "text/html")
    assert "link Example in your account" in await page.text()


async def test_unverified_it_does_not_even_tell_that_there_is_an_account(
    stage: Stage, issuer: Issuer
) -> None:
    await user_with(stage, "anna@example.com")
    issuer.claims = {"email_verified": False}
    assert await code_of(await (await browser(stage, issuer)).sign_in(), 403) == "oauth_unverified"


async def test_a_closed_registration_holds_here_too(stage: Stage, issuer: Issuer) -> None:
    assert (await (await browser(stage, issuer)).sign_in()).status == 303
    admin = await stage.admin()
    put = await admin.put("/api/settings", json={"registration_is_open": False})
    assert put.status == 200, await put.text()
    stage.clock.advance(5)
    issuer.account = {**issuer.account, "sub": "somebody new", "email": "new@example.com"}
    one = await browser(stage, issuer)
    assert await code_of(await one.sign_in(), 403) == "registration_closed"
    assert await User.filter(email="new@example.com").count() == 0


async def test_who_is_known_signs_in_though_registration_is_closed(
    stage: Stage, issuer: Issuer
) -> None:
    assert (await (await browser(stage, issuer)).sign_in()).status == 303
    await (await stage.admin()).put("/api/settings", json={"registration_is_open": False})
    stage.clock.advance(5)
    assert (await (await browser(stage, issuer)).sign_in()).status == 303


@pytest.mark.parametrize("state", ["disabled", "deleted"])
async def test_an_account_that_is_not_active_is_refused(
    stage: Stage, issuer: Issuer, state: str
) -> None:
    assert (await (await browser(stage, issuer)).sign_in()).status == 303
    work = stage.work()
    work.move(await User.get(email="anna@example.com"), expected="active", to=state)
    await stage.front.units.commit(work)
    one = await browser(stage, issuer)
    assert await code_of(await one.sign_in(), 403) == "account_disabled"
    assert await one.session() is None


async def test_an_identity_without_an_account_signs_nobody_in(stage: Stage, issuer: Issuer) -> None:
    assert (await (await browser(stage, issuer)).sign_in()).status == 303
    await User.filter(email="anna@example.com").delete()
    assert await code_of(await (await browser(stage, issuer)).sign_in(), 403) == "account_disabled"


async def test_two_first_sign_ins_at_once_make_one_account(stage: Stage, issuer: Issuer) -> None:
    ways = []
    for _ in range(4):
        one = await browser(stage, issuer)
        ways.append((one, issuer.approve(await one.begin())))
    answers = await asyncio.gather(*(one.back(way) for one, way in ways))
    assert {answer.status for answer in answers} <= {303, 409}
    assert any(answer.status == 303 for answer in answers)
    assert await User.filter(email="anna@example.com").count() == 1
    assert await Identity.all().count() == 1


async def test_an_identity_that_is_unlinked_meanwhile_does_not_sign_in(
    stage: Stage, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await (await browser(stage, issuer)).sign_in()).status == 303

    async def find_and_lose(issuer_url: str, subject: str) -> Identity | None:
        row = await find_identity(issuer_url, subject)
        await Identity.all().delete()
        return row

    monkeypatch.setattr("limner.http.auth.oauth_accounts.find_identity", find_and_lose)
    one = await browser(stage, issuer)
    assert (await one.sign_in()).status == 409
    assert await one.session() is None

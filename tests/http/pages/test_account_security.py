"""The page of what guards one's account, and the one of where it is signed in."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pyotp
import pytest

from limner.core.clock import HeldClock
from limner.core.ids import new_id
from limner.core.settings import OAuthSettings
from limner.http.auth.confirmation import RECENT_S
from limner.storage.sql.accounts import User
from limner.storage.sql.action_links import ActionLink
from limner.storage.sql.identities import Identity
from limner.storage.sql.sessions import Session
from tests.fakes.front import Stage, staged
from tests.fakes.paper import PASSWORD, Visitor, account, signed_in

SECURITY = "/account/security"
FACTOR = f"{SECURITY}/second-factor"


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    oauth = OAuthSettings(github_client_id="an-id", google_client_id="another")
    async with staged(migrated_file, tmp_path, clock, oauth=oauth) as opened:
        yield opened


@pytest.fixture
async def anna(stage: Stage) -> Visitor:
    await account(stage)
    return await signed_in(stage)


async def mine() -> User:
    return await User.get(email="anna@example.com")


async def test_the_password_is_changed_and_other_sessions_end(stage: Stage, anna: Visitor) -> None:
    other = await signed_in(stage)
    wrong = await anna.send(
        SECURITY, f"{SECURITY}/password", current_password="no", new_password="a new long sentence"
    )
    assert (wrong.status, 'id="current_password-wrong"' in wrong.source) == (403, True)
    weak = await anna.send(
        SECURITY, f"{SECURITY}/password", current_password=PASSWORD, new_password="password"
    )
    assert (weak.status, 'id="new_password-wrong"' in weak.source) == (422, True)
    done = await anna.send(
        SECURITY,
        f"{SECURITY}/password",
        current_password=PASSWORD,
        new_password="a new long sentence",
    )
    assert done.path == f"{SECURITY}?done=password"
    assert "a new long sentence" not in weak.source + done.source
    await other.open("/account", 401)
    await anna.open("/account")


async def test_a_new_address_is_asked_for_with_the_password(anna: Visitor) -> None:
    wrong = await anna.send(SECURITY, f"{SECURITY}/email", email="new@example.com", password="no")
    assert (wrong.status, 'id="password-wrong"' in wrong.source) == (403, True)
    assert wrong.sheet(f"{SECURITY}/email").fields["email"] == "new@example.com"
    bad = await anna.send(SECURITY, f"{SECURITY}/email", email="new", password=PASSWORD)
    assert (bad.status, 'id="email-wrong"' in bad.source) == (422, True)
    paper = await anna.send(
        SECURITY, f"{SECURITY}/email", email="new@example.com", password=PASSWORD
    )
    assert paper.path == f"{SECURITY}?done=email"
    row = await ActionLink.get(purpose=ActionLink.CHANGE)
    assert row.email == "new@example.com"
    assert (await mine()).email == "anna@example.com"


async def test_an_address_is_changed_by_the_link_while_signed_in(
    stage: Stage, anna: Visitor
) -> None:
    await anna.send(SECURITY, f"{SECURITY}/email", email="new@example.com", password=PASSWORD)
    row = await ActionLink.get(purpose=ActionLink.CHANGE)
    token = stage.front.signer.token(ActionLink.CHANGE, {"link": row.id})
    paper = await anna.send(f"/verify-email?token={token}", "/verify-email")
    assert paper.path == "/account?done=confirmed"
    assert "new@example.com" in paper.text


async def test_an_account_without_a_password_has_a_link_sent(stage: Stage, anna: Visitor) -> None:
    work = stage.work()
    work.change(await mine(), password_hash=None)
    await stage.front.units.commit(work)
    paper = await anna.open(SECURITY)
    assert "This account has no password yet." in paper.text
    email = paper.sheet(f"{SECURITY}/email")
    assert (email.fields["email"], "password" in email.fields) == ("", False)
    done = await anna.send(paper, f"{SECURITY}/password-link")
    assert done.path == f"{SECURITY}?done=password-link"
    refused = await anna.post(
        f"{SECURITY}/password",
        {**paper.sheet(f"{SECURITY}/password-link").fields, "current_password": "x"},
    )
    assert refused.status == 409


async def test_an_account_without_a_password_reads_why_no_link_is_sent(
    stage: Stage, anna: Visitor
) -> None:
    work = stage.work()
    work.change(await mine(), password_hash=None)
    await stage.front.units.commit(work)
    await stage.settings(login_limit_per_address_per_min=1)
    done = await anna.send(SECURITY, f"{SECURITY}/password-link")
    assert done.path == f"{SECURITY}?done=password-link"
    refused = await anna.send(done, f"{SECURITY}/password-link")
    assert refused.status == 429
    assert refused.source.count('role="alert"') == 1
    assert "Too many attempts" in refused.text


async def test_the_owner_begins_with_neither_and_gets_an_address_and_then_a_password(
    stage: Stage,
) -> None:
    owner = Visitor(await stage.signed_in())
    paper = await owner.open(SECURITY)
    assert "Give it an address below; then a mailed link sets a password." in paper.text
    assert not paper.offers(f"{SECURITY}/password-link")
    assert "password" not in paper.sheet(f"{SECURITY}/email").fields
    bad = await owner.send(paper, f"{SECURITY}/email", email="owner")
    assert (bad.status, 'id="email-wrong"' in bad.source) == (422, True)
    asked = await owner.send(bad, f"{SECURITY}/email", email="owner@example.com")
    assert asked.path == f"{SECURITY}?done=email"
    assert (await User.get(id=stage.owner.id)).email is None
    row = await ActionLink.get(purpose=ActionLink.CHANGE)
    token = stage.front.signer.token(ActionLink.CHANGE, {"link": row.id})
    done = await owner.send(f"/verify-email?token={token}", "/verify-email")
    assert done.path == "/account?done=confirmed"
    user = await User.get(id=stage.owner.id)
    assert (user.email, user.is_verified) == ("owner@example.com", True)
    link = await owner.send(SECURITY, f"{SECURITY}/password-link")
    assert link.path == f"{SECURITY}?done=password-link"


async def test_an_account_without_a_password_that_signed_in_long_ago_signs_in_again_first(
    stage: Stage,
) -> None:
    owner = Visitor(await stage.signed_in())
    stage.clock.advance(RECENT_S + 1)
    paper = await owner.send(SECURITY, f"{SECURITY}/email", email="owner@example.com")
    assert (paper.status, "Sign in again first, then do this." in paper.text) == (403, True)
    assert paper.sheet(f"{SECURITY}/email").fields["email"] == "owner@example.com"
    assert await ActionLink.all().count() == 0


async def test_the_second_factor_is_set_up_renewed_and_taken_away(
    stage: Stage, anna: Visitor
) -> None:
    wrong = await anna.send(SECURITY, FACTOR, factor_password="no")
    assert (wrong.status, 'id="factor_password-wrong"' in wrong.source) == (403, True)
    begun = await anna.send(SECURITY, FACTOR, factor_password=PASSWORD)
    assert "<svg" in begun.source
    found = re.search(r'id="secret">([A-Z2-7]+)<', begun.source)
    assert found is not None
    generator = pyotp.TOTP(found[1])
    bad = await anna.send(begun, f"{FACTOR}/confirm", code="000")
    assert (bad.status, 'id="code-wrong"' in bad.source) == (422, True)
    assert found[1] not in bad.source
    codes = await anna.send(bad, f"{FACTOR}/confirm", code=generator.at(stage.clock.now()))
    assert len(re.findall(r"<li>[\w-]{8,}</li>", codes.source)) == 10
    assert (await mine()).totp_enabled_at is not None
    stage.clock.advance(30)
    proof = {"factor_password": PASSWORD, "code": generator.at(stage.clock.now())}
    renewed = await anna.send(SECURITY, f"{FACTOR}/codes", **proof)
    assert renewed.status == 200, renewed.text
    used = await anna.post(
        f"{FACTOR}/remove", {**(await anna.open(SECURITY)).sheet(f"{FACTOR}/codes").fields, **proof}
    )
    assert (used.status, 'id="code-wrong"' in used.source) == (422, True)
    stage.clock.advance(30)
    proof["code"] = generator.at(stage.clock.now())
    gone = await anna.post(f"{FACTOR}/remove", {**used.sheet(f"{FACTOR}/codes").fields, **proof})
    assert gone.path == f"{SECURITY}?done=factor-off"
    assert (await mine()).totp_enabled_at is None


async def test_a_second_factor_needs_a_right_code_for_new_codes(
    stage: Stage, anna: Visitor
) -> None:
    paper = await anna.open(SECURITY)
    token = paper.sheet(FACTOR).fields["csrf_token"]
    none = await anna.post(f"{FACTOR}/codes", {"csrf_token": token, "code": "123456"})
    assert none.status == 409
    assert "no second factor" in none.text
    empty = await anna.post(f"{FACTOR}/confirm", {"csrf_token": token})
    assert empty.status == 422


async def test_other_ways_to_sign_in_are_shown_and_removed(stage: Stage, anna: Visitor) -> None:
    user = await mine()
    row = Identity(
        id=new_id("identity"),
        user_id=user.id,
        provider="github",
        issuer="https://x",
        subject="1",
        email="anna@github.test",
        created_at=stage.clock.now(),
    )
    foreign = Identity(
        id=new_id("identity"),
        user_id="user_other",
        provider="github",
        issuer="https://x",
        subject="2",
        created_at=stage.clock.now(),
    )
    await stage.add(row, foreign)
    paper = await anna.open(SECURITY)
    assert "anna@github.test" in paper.text
    assert paper.sheet("/auth/google/link").fields["redirect"] == f"{SECURITY}?done=linked"
    assert "/auth/github/link" not in paper.source
    remove = paper.sheet(f"{SECURITY}/identities/{row.id}/remove")
    assert (
        await anna.post(f"{SECURITY}/identities/{foreign.id}/remove", remove.fields)
    ).status == 404
    done = await anna.send(paper, remove.action)
    assert done.path == f"{SECURITY}?done=identity"
    assert await Identity.filter(user_id=user.id).count() == 0


async def test_the_last_way_to_sign_in_stays(stage: Stage, anna: Visitor) -> None:
    user = await mine()
    row = Identity(
        id=new_id("identity"),
        user_id=user.id,
        provider="github",
        issuer="https://x",
        subject="1",
        created_at=stage.clock.now(),
    )
    await stage.add(row)
    work = stage.work()
    work.change(user, password_hash=None)
    await stage.front.units.commit(work)
    paper = await anna.send(SECURITY, f"{SECURITY}/identities/{row.id}/remove")
    assert paper.status == 409
    assert await Identity.filter(user_id=user.id).count() == 1


async def test_sessions_are_shown_and_ended(stage: Stage, anna: Visitor) -> None:
    other, third = await signed_in(stage), await signed_in(stage)
    paper = await anna.open("/account/sessions")
    assert paper.text.count("this one") == 1
    endings = [one.action for one in paper.sheets if one.action.endswith("/end")]
    assert len(endings) == 2
    done = await anna.send(paper, endings[0])
    assert done.path == "/account/sessions?done=session"
    assert await Session.filter(revoked_at=None).count() == 2
    await anna.send(done, "/account/sessions/end-others")
    for one in (other, third):
        wall = await one.open("/account", 401)
        assert "This session has ended; sign in again." in wall.text
        assert wall.sheet("/login").fields["next"] == "/account"
    await anna.open("/account")

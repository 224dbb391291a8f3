"""The forms that sign people in and up: what they do, what they say, and what they never say."""

from collections.abc import AsyncIterator
from pathlib import Path

import bcrypt
import pyotp
import pytest

from limner.core.clock import HeldClock
from limner.core.errors import Busy
from limner.core.ids import new_id
from limner.core.settings import OAuthSettings
from limner.http.auth import passwords
from limner.http.auth.second_factor import STEP_S, sealed_name
from limner.storage.sql.accounts import User
from limner.storage.sql.action_links import ActionLink, create_link
from limner.storage.sql.sessions import Session
from tests.fakes.front import Stage, staged
from tests.fakes.paper import PASSWORD, account, signed_in, visitor

FORMS = [
    ("/login", {"email": "anna@example.com", "password": PASSWORD}),
    ("/login/code", {"ticket": "x", "code": "123456"}),
    ("/logout", {}),
    ("/register", {"email": "new@example.com", "password": PASSWORD, "name": "New"}),
    ("/verify-email/resend", {"email": "anna@example.com"}),
    ("/verify-email", {"token": "x"}),
    ("/reset-password", {"email": "anna@example.com"}),
]


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    oauth = OAuthSettings(github_client_id="an-id")
    async with staged(migrated_file, tmp_path, clock, oauth=oauth) as opened:
        yield opened


async def link(stage: Stage, user: User, purpose: str, **more: str) -> str:
    work = stage.work()
    row = create_link(work, user, purpose, **more)
    await stage.front.units.commit(work)
    return stage.front.signer.token(purpose, {"link": row.id})


async def with_second_factor(stage: Stage) -> pyotp.TOTP:
    user = await account(stage)
    secret = pyotp.random_base32()
    work = stage.work()
    work.change(
        user,
        totp_sealed=stage.front.sealer.seal(sealed_name(user), secret.encode()),
        totp_enabled_at=stage.clock.now(),
    )
    await stage.front.units.commit(work)
    return pyotp.TOTP(secret)


def code_now(stage: Stage, generator: pyotp.TOTP) -> str:
    return generator.at(stage.clock.now())


async def test_signing_in_leads_to_the_tasks_and_shows_who_may_what(stage: Stage) -> None:
    await account(stage)
    somebody = await visitor(stage)
    paper = await somebody.send("/login", "/login", email="Anna@Example.com", password=PASSWORD)
    assert paper.path == "/tasks"
    assert "Sign out" in paper.text
    assert "Account" in paper.text
    assert "Mailbox" not in paper.text
    (session,) = await Session.all()
    assert session.signed_in_by == "password"


async def test_whoever_asked_for_a_page_comes_back_to_it(stage: Stage) -> None:
    await account(stage)
    somebody = await visitor(stage)
    wall = await somebody.open("/tasks?state=failed", 401)
    assert "Sign in to see this" in wall.text
    assert wall.sheet("/login").fields["next"] == "/tasks?state=failed"
    paper = await somebody.send(wall, "/login", email="anna@example.com", password=PASSWORD)
    assert paper.path == "/tasks?state=failed"
    assert (await somebody.open("/login?next=/account")).path == "/account"
    assert (await somebody.open("/login?next=/%3Fq=%C3%BC")).text.startswith("Overview")


@pytest.mark.parametrize("wanted", ["//evil.test", "https://evil.test", "/\\evil.test", "/a\tb"])
async def test_nobody_is_sent_to_another_site(stage: Stage, wanted: str) -> None:
    await account(stage)
    somebody = await visitor(stage)
    typed = {"email": "anna@example.com", "password": PASSWORD, "next": wanted}
    assert (await somebody.send("/login", "/login", **typed)).path == "/tasks"


async def test_a_wrong_password_and_an_unknown_address_read_the_same(stage: Stage) -> None:
    await account(stage)
    await account(stage, "gone@example.com", state="disabled")
    somebody = await visitor(stage)
    said = set()
    for email in ("anna@example.com", "gone@example.com", "nobody@example.com"):
        paper = await somebody.send("/login", "/login", email=email, password="wrong")
        assert paper.status == 401
        assert paper.sheet("/login").fields["email"] == email
        assert paper.sheet("/login").fields["password"] == ""
        said.add(paper.text)
    (text,) = said
    assert "The address or the password is wrong, or the address is not confirmed yet." in text


async def test_too_many_attempts_are_told_to_wait(stage: Stage) -> None:
    await account(stage)
    somebody = await visitor(stage)
    for _ in range(10):
        paper = await somebody.send("/login", "/login", email="anna@example.com", password="no")
        assert paper.status == 401
    paper = await somebody.send("/login", "/login", email="anna@example.com", password=PASSWORD)
    assert paper.status == 429
    assert "Too many attempts" in paper.text


async def test_where_too_many_passwords_wait_a_browser_is_told_when_to_come_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> object:
        raise Busy("too many passwords are being checked", retry_after_s=1.0)

    await account(stage)
    somebody = await visitor(stage)
    fields = (await somebody.open("/login")).sheet("/login").fields
    monkeypatch.setattr(passwords.Threads, "run", full)
    answer = await somebody.client.post(
        "/login",
        data={**fields, "email": "anna@example.com", "password": PASSWORD},
        headers={"Accept": "text/html"},
    )
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert "This cannot be done right now. Try again in a minute." in await answer.text()


async def test_an_unconfirmed_account_can_have_its_mail_sent_again(stage: Stage) -> None:
    await account(stage, verified_at=None)
    somebody = await visitor(stage)
    paper = await somebody.send("/login", "/login", email="anna@example.com", password=PASSWORD)
    assert paper.status == 401
    assert "the address is not confirmed yet" in paper.text
    paper = await somebody.send(paper, "/verify-email/resend")
    assert paper.path == "/check-mail"


async def test_the_second_factor_is_asked_for_on_a_page_of_its_own(stage: Stage) -> None:
    generator = await with_second_factor(stage)
    somebody = await visitor(stage)
    typed = {"email": "anna@example.com", "password": PASSWORD, "next": "/account"}
    step = await somebody.send("/login", "/login", **typed)
    assert (step.status, step.path) == (200, "/login")
    assert PASSWORD not in step.source
    wrong = await somebody.send(step, "/login/code", code="12 34 56")
    assert wrong.status == 401
    assert "The code is wrong or was used before." in wrong.text
    code = code_now(stage, generator)
    assert (await somebody.send(wrong, "/login/code", code=code)).path == "/account"
    other = await visitor(stage)
    step = await other.send("/login", "/login", **typed)
    used = await other.send(step, "/login/code", code=code)
    assert used.status == 401


async def test_a_hash_of_another_system_is_replaced_before_the_second_step(stage: Stage) -> None:
    generator = await with_second_factor(stage)
    old = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    work = stage.work()
    work.change(await User.get(email="anna@example.com"), password_hash=old)
    await stage.front.units.commit(work)
    somebody = await visitor(stage)
    step = await somebody.send("/login", "/login", email="anna@example.com", password=PASSWORD)
    assert (await User.get(email="anna@example.com")).password_hash != old
    paper = await somebody.send(step, "/login/code", code=code_now(stage, generator))
    assert paper.path == "/tasks"


@pytest.mark.parametrize("spoiling", ["time", "password", "forged"])
async def test_a_second_step_without_a_valid_first_one_begins_again(
    stage: Stage, spoiling: str
) -> None:
    generator = await with_second_factor(stage)
    somebody = await visitor(stage)
    step = await somebody.send("/login", "/login", email="anna@example.com", password=PASSWORD)
    ticket = step.sheet("/login/code").fields["ticket"]
    if spoiling == "time":
        stage.clock.advance(301)
    elif spoiling == "password":
        work = stage.work()
        work.change(await User.get(email="anna@example.com"), password_hash="$argon2id$other")
        await stage.front.units.commit(work)
    else:
        ticket = stage.front.signer.token("csrf", {"user": "x"})
    code = code_now(stage, generator)
    paper = await somebody.send(step, "/login/code", code=code, ticket=ticket)
    assert paper.status == 401
    assert "That took too long; sign in again." in paper.text
    assert paper.offers("/login")
    assert await Session.all().count() == 0


async def test_a_code_counts_only_once_and_a_step_later_again(stage: Stage) -> None:
    generator = await with_second_factor(stage)
    for _ in range(2):
        somebody = await visitor(stage)
        step = await somebody.send("/login", "/login", email="anna@example.com", password=PASSWORD)
        paper = await somebody.send(step, "/login/code", code=code_now(stage, generator))
        assert paper.path == "/tasks"
        stage.clock.advance(STEP_S)


async def test_signing_out_ends_the_session(stage: Stage) -> None:
    await account(stage)
    somebody = await signed_in(stage)
    paper = await somebody.send("/account", "/logout")
    assert paper.path == "/login?done=left"
    assert "You are signed out." in paper.text
    await somebody.open("/account", 401)
    assert (await Session.get()).revoked_at is not None


async def test_a_sentence_in_the_address_is_never_shown(stage: Stage) -> None:
    somebody = await visitor(stage)
    assert "Call" not in (await somebody.open("/login?done=Call+us")).text


async def test_an_account_is_made_and_waits_for_its_mail(stage: Stage) -> None:
    somebody = await visitor(stage)
    paper = await somebody.send(
        "/register", "/register", email="new@example.com", password=PASSWORD, name="New"
    )
    assert paper.path == "/check-mail"
    user = await User.get(email="new@example.com")
    assert (user.name, user.verified_at) == ("New", None)
    (row,) = await ActionLink.all()
    token = stage.front.signer.token(ActionLink.VERIFY, {"link": row.id})
    asked = await somebody.open(f"/verify-email?token={token}")
    assert (await User.get(id=user.id)).verified_at is None
    paper = await somebody.send(asked, "/verify-email")
    assert paper.path == "/login?done=verified"
    assert "Your address is confirmed." in paper.text
    assert (await User.get(id=user.id)).verified_at is not None
    again = await somebody.send(asked, "/verify-email")
    assert again.status == 401
    assert "This link does not work" in again.text


async def test_a_taken_address_reads_the_same_as_a_free_one(stage: Stage) -> None:
    await account(stage)
    pages = []
    for email in ("anna@example.com", "free@example.com"):
        somebody = await visitor(stage)
        paper = await somebody.send(
            "/register", "/register", email=email, password=PASSWORD, name="X"
        )
        pages.append((paper.status, paper.path, paper.text))
    assert pages[0] == pages[1]
    assert (await User.get(email="anna@example.com")).name == "Anna"


async def test_faults_stand_at_their_fields_and_what_was_typed_stays(stage: Stage) -> None:
    somebody = await visitor(stage)
    paper = await somebody.send(
        "/register", "/register", email="no address", password="abc", name="<b>Eve</b>"
    )
    assert paper.status == 422
    assert 'id="email-wrong"' in paper.source
    assert 'id="password-wrong"' in paper.source
    assert 'href="#email"' in paper.source
    fields = paper.sheet("/register").fields
    assert (fields["email"], fields["name"], fields["password"]) == (
        "no address",
        "<b>Eve</b>",
        "",
    )


async def test_closed_registration_says_so(stage: Stage) -> None:
    somebody = await visitor(stage)
    form = await somebody.open("/register")
    work = stage.work()
    await stage.front.tunables.put(work, {"registration_is_open": False}, "test")
    await stage.front.units.commit(work)
    stage.front.tunables.forget()
    stage.clock.advance(60)
    assert "Registration is closed here" in (await somebody.open("/register")).text
    assert "Make an account" not in (await somebody.open("/")).text
    refused = await somebody.send(
        form, "/register", email="a@example.com", password=PASSWORD, name=""
    )
    assert refused.status == 403
    assert await User.filter(email="a@example.com").count() == 0


async def test_a_link_that_is_asked_for_reads_the_same_whatever_the_address(stage: Stage) -> None:
    await account(stage)
    for page, action in (
        ("/reset-password", "/reset-password"),
        ("/check-mail", "/verify-email/resend"),
    ):
        said = set()
        for email in ("anna@example.com", "nobody@example.com"):
            somebody = await visitor(stage)
            paper = await somebody.send(page, action, email=email)
            assert paper.path.startswith("/check-mail")
            said.add(paper.text)
        assert len(said) == 1
        wrong = await somebody.send(page, action, email="none")
        assert wrong.status == 422
        assert 'id="email-wrong"' in wrong.source


async def test_a_new_password_is_set_by_a_mailed_link_once(stage: Stage) -> None:
    user = await account(stage)
    inside = await signed_in(stage)
    token = await link(stage, user, ActionLink.RESET)
    somebody = await visitor(stage)
    weak = await somebody.send(f"/reset-password?token={token}", "/reset-password", password="abc")
    assert weak.status == 422
    assert 'id="password-wrong"' in weak.source
    done = await somebody.send(weak, "/reset-password", password="another quiet sentence")
    assert done.path == "/login?done=reset"
    await inside.open("/account", 401)
    typed = {"email": "anna@example.com", "password": "another quiet sentence"}
    assert (await somebody.send(done, "/login", **typed)).path == "/tasks"
    late = await visitor(stage)
    page = await late.open(f"/reset-password?token={token}")
    again = await late.send(page, "/reset-password", password="a third quiet sentence")
    assert again.status == 401
    assert again.sheet("/reset-password").fields["email"] == ""


async def test_a_sign_in_link_that_was_used_leaves_the_form(stage: Stage) -> None:
    token = await stage.link()
    somebody = await visitor(stage)
    await somebody.open(f"/sign-in/{token}")
    late = await visitor(stage)
    paper = await late.open(f"/sign-in/{token}", 401)
    assert "This link has been used or has expired." in paper.text
    assert paper.sheet("/login").fields["next"] == "/tasks"


async def test_a_link_without_a_token_or_with_a_broken_one_offers_another(stage: Stage) -> None:
    somebody = await visitor(stage)
    assert "This link does not work" in (await somebody.open("/verify-email")).text
    paper = await somebody.send("/verify-email?token=x", "/verify-email")
    assert paper.status == 401
    assert paper.offers("/verify-email/resend")


@pytest.mark.parametrize(("action", "fields"), FORMS)
@pytest.mark.parametrize("token", ["", "forged", "another browser's"])
async def test_a_form_without_its_token_changes_nothing_and_gets_a_page(
    stage: Stage, action: str, fields: dict[str, str], token: str
) -> None:
    await account(stage)
    somebody = await visitor(stage)
    await somebody.open("/login")
    sent = dict(fields)
    if token == "forged":
        sent["csrf_token"] = stage.front.signer.token("csrf", {"visitor": new_id("x")})
    elif token:
        other = await visitor(stage)
        sent["csrf_token"] = (await other.open("/login")).sheet("/login").fields["csrf_token"]
    paper = await somebody.post(action, sent)
    assert paper.status == 403
    assert "load it again" in paper.text
    assert await Session.all().count() == 0
    assert await User.filter(email="new@example.com").count() == 0


async def test_other_ways_to_sign_in_are_offered_where_they_are_configured(stage: Stage) -> None:
    somebody = await visitor(stage)
    paper = await somebody.open("/login?next=/account")
    assert 'href="/auth/github/login?redirect=/account"' in paper.source
    assert "Continue with GitHub" in paper.text
    assert "Continue with GitHub" in (await somebody.open("/tasks", 401)).text
    assert "Google" not in paper.text


async def test_every_page_for_visitors_is_sound(stage: Stage) -> None:
    somebody = await visitor(stage)
    for path in (
        "/",
        "/login",
        "/register",
        "/check-mail",
        "/check-mail?why=reset",
        "/verify-email?token=x",
        "/reset-password",
        "/reset-password?token=x",
    ):
        paper = await somebody.open(path)
        assert "Sign out" not in paper.text
    await somebody.open("/nothing", 404)


async def test_a_form_that_is_no_form_is_refused_and_never_a_bug(stage: Stage) -> None:
    somebody = await visitor(stage)
    token = (await somebody.open("/login")).sheet("/login").fields["csrf_token"]
    for fields in ({"x": "1"}, {"email": "\x00", "password": "\x00"}, {"next": "x" * 900}):
        paper = await somebody.post("/login", {"csrf_token": token, **fields})
        assert paper.status in {401, 422}
    answer = await somebody.client.post("/login", json={})
    assert answer.status == 415

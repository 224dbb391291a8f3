"""From a new account to a lost password: what each step changes, and what nobody learns."""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient

from limner.core.clock import HeldClock
from limner.core.errors import Conflict
from limner.http.call import Call
from limner.storage.sql.accounts import User
from limner.storage.sql.action_links import LIFE_S, RECENT_LIMIT, ActionLink
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.idempotency import IdempotentRequest
from limner.storage.sql.messaging import DeadLetter, OutboxRow
from limner.storage.sql.notifications import Notification
from limner.storage.sql.sessions import Session
from tests.fakes.deliveries import words
from tests.fakes.front import Stage, problem, staged
from tests.fakes.letters import Letters, token_in
from tests.fakes.nasty_strings import NASTY_STRINGS

ANNA = "anna@example.org"
GOOD = "correct horse battery"
BETTER = "another horse battery"

Client = TestClient[Any, Any]


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


@pytest.fixture
def letters(stage: Stage) -> Letters:
    return Letters(stage)


@pytest.fixture
async def client(stage: Stage) -> Client:
    return await stage.client()


async def post(client: Client, path: str, **body: Any) -> ClientResponse:
    return await client.post(f"/api/auth/{path}", json=body)


async def register(client: Client, email: str = ANNA, password: str = GOOD, **more: Any) -> Any:
    answer = await post(client, "register", email=email, password=password, **more)
    assert answer.status == 201, await answer.text()
    return await answer.json()


async def registered(client: Client, letters: Letters, email: str = ANNA) -> User:
    """Give an account whose address is confirmed."""
    await register(client, email, name="Anna")
    answer = await post(client, "verify-email", token=await letters.token())
    assert answer.status == 200, await answer.text()
    return await User.get(email=email)


async def sign_in(client: Client, email: str = ANNA, password: str = GOOD) -> tuple[int, str]:
    """Give the status of a sign-in, and the code of its problem."""
    answer = await post(client, "login", email=email, password=password)
    return answer.status, (await answer.json()).get("code", "")


async def code(answer: ClientResponse) -> tuple[int, str]:
    return answer.status, (await problem(answer))["code"]


async def test_a_new_account_can_sign_in_as_soon_as_its_address_is_confirmed(
    stage: Stage, client: Client, letters: Letters, clock: HeldClock
) -> None:
    told = await register(client, "  Anna@Example.ORG", name="Anna Lee")
    assert told["email"] == ANNA
    assert (told["name"], told["verified"]) == ("Anna Lee", False)
    assert await sign_in(client) == (401, "invalid_credentials")
    mail = await letters.one()
    assert (mail["To"], mail["Subject"]) == (ANNA, "Confirm your mail address")
    answer = await post(client, "verify-email", token=token_in(mail))
    assert (answer.status, await answer.json()) == (200, {"email": ANNA, "verified": True})
    assert await sign_in(client, "ANNA@example.org") == (200, "")
    user = await User.get(email=ANNA)
    assert (user.role, user.name, user.verified_at) == ("user", "Anna Lee", clock.now())
    events = [line.event for line in await AuditLine.filter(subject=user.id).order_by("id")]
    assert events[:2] == ["user.registered", "user.verified"]


async def test_a_link_works_once_and_for_a_day(
    client: Client, letters: Letters, clock: HeldClock
) -> None:
    await register(client)
    token = await letters.token()
    clock.advance(86_399)
    assert (await post(client, "verify-email", token=token)).status == 200
    assert await code(await post(client, "verify-email", token=token)) == (401, "link_expired")
    await register(client, "ben@example.org")
    token = await letters.token()
    clock.advance(86_400)
    assert await code(await post(client, "verify-email", token=token)) == (401, "link_expired")
    assert (await User.get(email="ben@example.org")).verified_at is None


async def test_of_many_who_use_a_link_at_once_one_succeeds(
    client: Client, letters: Letters
) -> None:
    await register(client)
    token = await letters.token()
    answers = await asyncio.gather(*(post(client, "verify-email", token=token) for _ in range(8)))
    assert sorted(answer.status for answer in answers) == [200] + [401] * 7


async def test_a_scanner_that_opens_the_link_uses_nothing_up(
    stage: Stage, client: Client, letters: Letters
) -> None:
    await register(client)
    token = await letters.token()
    for path in ("/verify-email", "/reset-password", "/api/auth/verify-email"):
        for _ in range(2):
            await client.get(path, params={"token": token}, headers={"Accept": "text/html"})
            await client.head(path, params={"token": token})
    assert (await ActionLink.get()).used_at is None
    assert (await post(client, "verify-email", token=token)).status == 200


@pytest.mark.parametrize("forge", ["garbage", "AAAA", "changed", "reset-password", "session", "id"])
async def test_a_link_that_is_not_ours_or_for_something_else_opens_nothing(
    stage: Stage, client: Client, letters: Letters, forge: str
) -> None:
    await register(client)
    token = await letters.token()
    link = await ActionLink.get()
    if forge in {"reset-password", "session"}:
        token = stage.front.signer.token(forge, {"link": link.id}, link.expires_at)
    else:
        token = {"changed": f"{token[:-1]}{'A' if token[-1] != 'A' else 'B'}", "id": link.id}.get(
            forge, forge
        )
    assert await code(await post(client, "verify-email", token=token)) == (401, "token_invalid")
    assert (await User.get(email=ANNA)).verified_at is None


@pytest.mark.parametrize("path", ["verify-email", "password/reset"])
@pytest.mark.parametrize("token", ["", "a b", "ü", "x" * 4097, None, 7])
async def test_a_token_of_no_possible_form_is_a_fault_of_the_body(
    client: Client, path: str, token: Any
) -> None:
    body = {"token": token} if path == "verify-email" else {"token": token, "password": GOOD}
    answer = await post(client, path, **body)
    assert answer.status == 422
    assert [one["pointer"] for one in (await problem(answer))["errors"]] == ["/token"]


async def test_nobody_learns_whether_an_address_has_an_account(
    stage: Stage, client: Client, letters: Letters
) -> None:
    await registered(client, letters, "verified@example.org")
    await register(client, "waiting@example.org")
    await stage.add(
        User(id="user_d", user_id="user_d", state="disabled", email="disabled@example.org")
    )
    addresses = [f"{who}@example.org" for who in ("verified", "waiting", "disabled", "nobody")]
    for path, more in (
        ("register", {"password": BETTER, "name": "X"}),
        ("login", {"password": BETTER}),
        ("verify-email/resend", {}),
        ("password/forgot", {}),
    ):
        said = set()
        for address in addresses:
            answer = await post(client, path, email=address, **more)
            told = (await answer.text()).replace(address, "…")
            body = re.sub(r'"request_id": "[^"]*"', "", told)
            headers = sorted(set(answer.headers) - {"RateLimit"})
            said.add((answer.status, body, *headers))
        assert len(said) == 1, said


async def test_the_owner_of_an_address_hears_that_somebody_registered_with_it(
    client: Client, letters: Letters
) -> None:
    user = await registered(client, letters)
    await register(client, password=BETTER, name="Mallory")
    mail = await letters.one()
    assert (mail["To"], mail["Subject"]) == (ANNA, "You have an account already")
    assert "token=" not in words(mail)
    assert "Mallory" not in words(mail) + words(mail, "html")
    after = await User.get(id=user.id)
    assert (after.name, after.password_hash) == (user.name, user.password_hash)


@pytest.mark.parametrize("first", ["the stranger", "the owner"])
@pytest.mark.parametrize("way", ["the older link", "the newer link", "a link sent again"])
async def test_an_address_that_two_register_gets_the_password_of_neither(
    client: Client, letters: Letters, first: str, way: str
) -> None:
    owner, stranger = {"password": GOOD, "name": "Anna"}, {"password": BETTER, "name": "Mallory"}
    tokens = []
    for one in (stranger, owner) if first == "the stranger" else (owner, stranger):
        await register(client, **one)
        tokens.append(await letters.token())
    await post(client, "verify-email/resend", email=ANNA)
    tokens.append(await letters.token())
    token = tokens[["the older link", "the newer link", "a link sent again"].index(way)]
    assert (await post(client, "verify-email", token=token)).status == 200
    for password in (GOOD, BETTER):
        assert await sign_in(client, password=password) == (401, "invalid_credentials")
    user = await User.get(email=ANNA)
    assert (user.name, user.password_hash, user.is_verified) == ("", None, True)
    mail = await letters.one()
    assert (mail["To"], mail["Subject"]) == (ANNA, "Set a new password")
    answer = await post(client, "password/reset", token=token_in(mail), password=GOOD)
    assert answer.status == 204
    assert await sign_in(client) == (200, "")


async def test_who_registers_again_with_the_same_password_keeps_it(
    client: Client, letters: Letters
) -> None:
    await register(client, name="Anna")
    early = await letters.token()
    await register(client, name="Ann")
    assert (await post(client, "verify-email", token=await letters.token())).status == 200
    assert await code(await post(client, "verify-email", token=early)) == (401, "link_expired")
    assert await sign_in(client) == (200, "")
    assert (await User.get(email=ANNA)).name == "Anna"
    assert await letters.fetch() == []


async def test_a_stranger_who_registers_until_no_more_links_are_sent_gains_nothing(
    client: Client, letters: Letters
) -> None:
    for _ in range(RECENT_LIMIT):
        await register(client, password=BETTER, name="Mallory")
    await register(client, name="Anna")
    mails = await letters.fetch()
    assert len(mails) == RECENT_LIMIT
    assert (await post(client, "verify-email", token=token_in(mails[0]))).status == 200
    assert await sign_in(client, password=BETTER) == (401, "invalid_credentials")
    assert (await letters.one())["Subject"] == "Set a new password"


async def test_an_account_that_an_administrator_made_is_not_taken_by_who_registers_its_address(
    stage: Stage, client: Client, letters: Letters
) -> None:
    made = {"email": ANNA, "name": "The boss", "role": "admin"}
    assert (await (await stage.admin()).post("/api/users", json=made)).status == 201
    await letters.one()
    before = await User.get(email=ANNA)
    await register(client, password=BETTER, name="Mallory")
    after = await User.get(email=ANNA)
    assert (after.name, after.password_hash, after.role) == ("The boss", None, "admin")
    assert (await post(client, "verify-email", token=await letters.token())).status == 200
    assert await sign_in(client, password=BETTER) == (401, "invalid_credentials")
    assert (await letters.one())["Subject"] == "Set a new password"
    assert (before.role, (await User.get(email=ANNA)).name) == ("admin", "The boss")


async def test_an_account_in_use_keeps_its_password_though_its_address_has_to_be_confirmed_again(
    stage: Stage, client: Client, letters: Letters
) -> None:
    user = await registered(client, letters)
    assert await sign_in(client) == (200, "")
    changed = await (await stage.admin()).patch(f"/api/users/{user.id}", json={"verified": False})
    assert changed.status == 200
    await register(client, password=BETTER, name="Mallory")
    after = await User.get(id=user.id)
    assert (after.name, after.password_hash) == (user.name, user.password_hash)
    assert (await post(client, "verify-email", token=await letters.token())).status == 200
    assert await sign_in(client, password=BETTER) == (401, "invalid_credentials")
    assert await sign_in(client) == (200, "")


async def test_who_confirms_while_a_stranger_registers_gets_no_password_of_theirs(
    client: Client, letters: Letters
) -> None:
    await register(client)
    token = await letters.token()
    answers = await asyncio.gather(
        post(client, "verify-email", token=token),
        *(post(client, "register", email=ANNA, password=BETTER) for _ in range(4)),
    )
    assert [answer.status for answer in answers] == [200] + [201] * 4
    assert await sign_in(client, password=BETTER) == (401, "invalid_credentials")


async def test_many_who_register_one_address_at_once_make_one_account(
    client: Client, letters: Letters
) -> None:
    bodies = await asyncio.gather(*(register(client, name="Anna") for _ in range(6)))
    assert len({json.dumps(body, sort_keys=True) for body in bodies}) == 1
    assert await User.filter(email=ANNA).count() == 1
    assert 1 <= len(await letters.fetch()) <= RECENT_LIMIT


async def test_an_address_that_is_taken_in_the_last_moment_is_answered_like_any_other(
    stage: Stage, client: Client, letters: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered, rivals = Call.answered, iter([ANNA])

    async def late(call: Call, work: Any, answer: Any) -> Any:
        for email in rivals:
            rival = User(id="user_r", user_id="user_r", state="active", email=email)
            await stage.add(rival)
        return await answered(call, work, answer)

    monkeypatch.setattr(Call, "answered", late)
    await register(client)
    assert (await User.get(email=ANNA)).id == "user_r"
    assert (await post(client, "verify-email", token=await letters.token())).status == 200


async def test_a_registration_that_always_comes_too_late_is_a_conflict(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def taken(*_: object) -> object:
        raise Conflict("taken")

    monkeypatch.setattr(Call, "answered", taken)
    answer = await post(client, "register", email=ANNA, password=GOOD)
    assert answer.status == 409


async def test_a_registration_sent_again_with_its_key_makes_one_account_and_one_mail(
    client: Client, letters: Letters
) -> None:
    body = {"email": ANNA, "password": GOOD}
    answers = [
        await client.post("/api/auth/register", json=body, headers={"Idempotency-Key": "a"})
        for _ in range(2)
    ]
    assert [answer.status for answer in answers] == [201, 201]
    assert answers[1].headers["Idempotency-Replayed"] == "true"
    assert await answers[0].json() == await answers[1].json()
    assert len(await letters.fetch()) == 1
    other = {"email": ANNA, "password": BETTER}
    answer = await client.post("/api/auth/register", json=other, headers={"Idempotency-Key": "a"})
    assert answer.status == 422
    stored = str([vars(row) for row in await IdempotentRequest.all()])
    assert GOOD not in stored
    plain = f"POST /api/auth/register\n{json.dumps(body, separators=(',', ':'))}"
    assert hashlib.sha256(plain.encode()).hexdigest() not in stored


async def test_a_link_sent_again_keeps_the_password(client: Client, letters: Letters) -> None:
    await register(client)
    await letters.one()
    answer = await post(client, "verify-email/resend", email=ANNA)
    assert answer.status == 202
    assert (await post(client, "verify-email", token=await letters.token())).status == 200
    assert await sign_in(client) == (200, "")
    await post(client, "verify-email/resend", email=ANNA)
    await post(client, "verify-email/resend", email="nobody@example.org")
    assert await letters.fetch() == []


@pytest.mark.parametrize("path", ["register", "verify-email/resend", "password/forgot"])
async def test_one_address_gets_a_few_mails_of_a_kind_an_hour(
    client: Client, letters: Letters, clock: HeldClock, path: str
) -> None:
    more = {"password": GOOD} if path == "register" else {}
    if path == "password/forgot":
        await registered(client, letters)
    else:
        await register(client)
        await letters.one()
    sent = 0
    for _ in range(RECENT_LIMIT + 4):
        assert (await post(client, path, email=ANNA, **more)).ok
        sent += len(await letters.fetch())
    assert sent == RECENT_LIMIT - (path != "password/forgot")
    clock.advance(3600.0)
    assert (await post(client, path, email=ANNA, **more)).ok
    assert len(await letters.fetch()) == 1


async def test_nobody_registers_where_registration_is_closed(stage: Stage, client: Client) -> None:
    await stage.settings(registration_is_open=False)
    answer = await post(client, "register", email=ANNA, password=GOOD)
    assert await code(answer) == (403, "registration_closed")
    assert await User.filter(email=ANNA).count() == 0


async def test_all_faults_of_a_registration_are_told_at_once(client: Client) -> None:
    answer = await post(
        client, "register", email="anna@@example.org", password="password", name="a\x00b"
    )
    faults = (await problem(answer))["errors"]
    assert (answer.status, [one["pointer"] for one in faults]) == (
        422,
        ["/email", "/password", "/name"],
    )
    answer = await post(client, "register", email="a", password="short", role="admin", name=7)
    places = {one["pointer"] for one in (await problem(answer))["errors"]}
    assert (answer.status, places) == (422, {"/email", "/password", "/role", "/name"})


@pytest.mark.parametrize("field", ["role", "plan", "is_owner", "verified_at", "credits", "id"])
async def test_nobody_registers_as_more_than_a_user(client: Client, field: str) -> None:
    answer = await post(client, "register", email=ANNA, password=GOOD, **{field: "admin"})
    assert answer.status == 422
    assert await User.filter(email=ANNA).count() == 0


@pytest.mark.parametrize(
    "email",
    ["a@x.org\r\nBcc: v@x.org", "a@x.org,v@x.org", "a@x.org\x00", "Anna <a@x.org>", "a@x.org\n"],
)
async def test_an_address_cannot_bring_headers_or_receivers_along(
    client: Client, letters: Letters, email: str
) -> None:
    statuses = [
        (await post(client, "register", email=email, password=GOOD)).status,
        (await post(client, "password/forgot", email=email)).status,
        (await post(client, "verify-email/resend", email=email)).status,
    ]
    if email.strip() == "a@x.org":
        assert statuses == [201, 202, 202]
    else:
        assert statuses == [422, 422, 422]
    assert [mail["To"] for mail in await letters.fetch()] in (["a@x.org"] * 3, [])


async def test_any_name_comes_back_as_it_was_or_is_refused_and_is_in_no_mail(
    stage: Stage, client: Client, letters: Letters
) -> None:
    await stage.settings(login_limit_per_address_per_min=10_000)
    kept = 0
    for place, name in enumerate(NASTY_STRINGS):
        answer = await post(
            client, "register", email=f"n{place}@example.org", password=GOOD, name=name
        )
        assert answer.status in {201, 422}, (answer.status, name)
        if answer.status == 201:
            kept += 1
            assert (await answer.json())["name"] == name
            assert (await User.get(email=f"n{place}@example.org")).name == name
            mail = await letters.one()
            assert len(name) < 4 or name not in words(mail) + words(mail, "html")
        else:
            pointers = [one["pointer"] for one in (await problem(answer))["errors"]]
            assert pointers == ["/name"]
    assert kept > len(NASTY_STRINGS) / 3


async def test_a_lost_password_is_replaced_by_a_link_and_every_session_ends(
    stage: Stage, client: Client, letters: Letters, clock: HeldClock
) -> None:
    user = await registered(client, letters)
    assert await sign_in(client) == (200, "")
    browser = await stage.signed_in(user)
    program = await stage.client(await stage.key("tasks:read", user=user))
    assert (await post(client, "password/forgot", email=ANNA)).status == 202
    mail = await letters.one()
    assert mail["Subject"] == "Set a new password"
    assert "30 minutes" in words(mail)
    assert "/reset-password?token=" in words(mail)
    answer = await post(client, "password/reset", token=token_in(mail), password=BETTER)
    assert answer.status == 204
    assert await sign_in(client, password=GOOD) == (401, "invalid_credentials")
    assert await sign_in(client, password=BETTER) == (200, "")
    assert (await browser.get("/api/tasks")).status == 401
    assert (await program.get("/api/tasks")).status == 200
    old = Session.filter(user_id=user.id, revoked_because="password_reset")
    assert await old.count() == 2
    notice = await letters.one()
    assert (notice["To"], notice["Subject"]) == (ANNA, "Your password was changed")
    assert await Notification.filter(user_id=user.id, kind="user.password_reset").count() == 1


async def test_a_link_for_a_new_password_works_once_and_for_half_an_hour(
    client: Client, letters: Letters, clock: HeldClock
) -> None:
    await registered(client, letters)
    await post(client, "password/forgot", email=ANNA)
    token = await letters.token()
    refused = await post(client, "password/reset", token=token, password="password")
    assert [one["pointer"] for one in (await problem(refused))["errors"]] == ["/password"]
    clock.advance(1_799)
    answers = await asyncio.gather(
        *(post(client, "password/reset", token=token, password=BETTER) for _ in range(3))
    )
    assert sorted(answer.status for answer in answers) == [204, 401, 401]
    await letters.fetch()
    await post(client, "password/forgot", email=ANNA)
    token = await letters.token()
    clock.advance(1_800)
    late = await post(client, "password/reset", token=token, password=GOOD)
    assert await code(late) == (401, "link_expired")


async def test_whoever_has_many_links_sent_leaves_the_owner_with_one_that_works(
    client: Client, letters: Letters, clock: HeldClock
) -> None:
    await registered(client, letters)
    for _ in range(RECENT_LIMIT + 1):
        await post(client, "password/forgot", email=ANNA)
    assert len(await letters.fetch()) == RECENT_LIMIT
    clock.advance(LIFE_S[ActionLink.RESET])
    await post(client, "password/forgot", email=ANNA)
    answer = await post(client, "password/reset", token=await letters.token(), password=BETTER)
    assert answer.status == 204


async def test_a_new_password_makes_the_other_links_useless(
    client: Client, letters: Letters
) -> None:
    await registered(client, letters)
    await post(client, "password/forgot", email=ANNA)
    first = await letters.token()
    await post(client, "password/forgot", email=ANNA)
    second = await letters.token()
    assert (await post(client, "password/reset", token=second, password=BETTER)).status == 204
    answer = await post(client, "password/reset", token=first, password=GOOD)
    assert await code(answer) == (401, "link_expired")


async def test_who_sets_a_new_password_by_mail_has_confirmed_the_address(
    client: Client, letters: Letters
) -> None:
    await register(client, password=GOOD)
    await letters.one()
    await post(client, "password/forgot", email=ANNA)
    answer = await post(client, "password/reset", token=await letters.token(), password=BETTER)
    assert answer.status == 204
    assert await sign_in(client, password=BETTER) == (200, "")


async def test_an_account_without_a_password_sets_one_by_mail(
    stage: Stage, client: Client, letters: Letters, clock: HeldClock
) -> None:
    user = User(id="user_o", user_id="user_o", state="active", email=ANNA, verified_at=clock.now())
    await stage.add(user)
    assert await sign_in(client) == (401, "invalid_credentials")
    browser = await stage.signed_in(user)
    answer = await post(browser, "password/change", current_password="", new_password=GOOD)
    assert await code(answer) == (409, "no_password")
    await post(client, "password/forgot", email=ANNA)
    await post(client, "password/reset", token=await letters.token(), password=GOOD)
    assert await sign_in(client) == (200, "")


async def test_disabled_accounts_get_no_links_and_their_links_open_nothing(
    stage: Stage, client: Client, letters: Letters
) -> None:
    user = await registered(client, letters)
    await post(client, "password/forgot", email=ANNA)
    token = await letters.token()
    work = stage.work()
    work.move(user, expected="active", to="disabled")
    await stage.front.units.commit(work)
    answer = await post(client, "password/reset", token=token, password=BETTER)
    assert await code(answer) == (401, "link_expired")
    for path, more in (("register", {"password": BETTER}), ("password/forgot", {})):
        assert (await post(client, path, email=ANNA, **more)).ok
    assert await letters.fetch() == []
    assert await sign_in(client) == (401, "invalid_credentials")


async def test_a_changed_password_ends_all_other_sessions(
    stage: Stage, client: Client, letters: Letters
) -> None:
    user = await registered(client, letters)
    here, there = await stage.signed_in(user), await stage.signed_in(user)
    wrong = await post(
        here, "password/change", current_password="not this one", new_password=BETTER
    )
    assert await code(wrong) == (403, "password_wrong")
    weak = await post(here, "password/change", current_password=GOOD, new_password="password")
    assert [one["pointer"] for one in (await problem(weak))["errors"]] == ["/new_password"]
    answer = await post(here, "password/change", current_password=GOOD, new_password=BETTER)
    assert answer.status == 204
    assert (await here.get("/api/tasks")).status == 200
    assert (await there.get("/api/tasks")).status == 401
    assert await sign_in(client, password=BETTER) == (200, "")
    notice = await letters.one()
    assert notice["Subject"] == "Your password was changed"
    assert await AuditLine.filter(event="user.password_changed", subject=user.id).count() == 1


async def test_a_password_changed_with_a_key_ends_every_session(
    stage: Stage, client: Client, letters: Letters
) -> None:
    user = await registered(client, letters)
    browser = await stage.signed_in(user)
    program = await stage.client(await stage.key("account:write", user=user))
    answer = await post(program, "password/change", current_password=GOOD, new_password=BETTER)
    assert answer.status == 204
    assert (await browser.get("/api/tasks")).status == 401


async def test_a_new_address_counts_when_it_is_confirmed_and_the_old_one_hears_of_it(
    stage: Stage, client: Client, letters: Letters
) -> None:
    user = await registered(client, letters)
    await post(client, "password/forgot", email=ANNA)
    reset = await letters.token()
    browser = await stage.signed_in(user)
    new = "anna@example.net"
    answer = await post(browser, "email/change", email="Anna@Example.net", password="wrong one")
    assert await code(answer) == (403, "password_wrong")
    answer = await post(browser, "email/change", email="Anna@Example.net", password=GOOD)
    assert answer.status == 202
    first, second = await letters.fetch()
    by_address = {str(mail["To"]): mail for mail in (first, second)}
    assert by_address[ANNA]["Subject"] == "Your mail address shall be changed"
    assert (await User.get(id=user.id)).email == ANNA
    answer = await post(client, "verify-email", token=token_in(by_address[new]))
    assert await answer.json() == {"email": new, "verified": True}
    assert await sign_in(client, ANNA) == (401, "invalid_credentials")
    assert await sign_in(client, new) == (200, "")
    notice = await letters.one()
    assert (notice["To"], notice["Subject"]) == (ANNA, "Your mail address was changed")
    answer = await post(client, "password/reset", token=reset, password=BETTER)
    assert await code(answer) == (401, "link_expired")


async def test_the_address_of_another_account_is_not_given_and_not_betrayed(
    stage: Stage, client: Client, letters: Letters
) -> None:
    user = await registered(client, letters)
    await registered(client, letters, "ben@example.org")
    browser = await stage.signed_in(user)
    said = set()
    for address in ("ben@example.org", "free@example.org"):
        answer = await post(browser, "email/change", email=address, password=GOOD)
        said.add((answer.status, await answer.text()))
    assert len(said) == 1
    subjects = {str(mail["To"]): mail["Subject"] for mail in await letters.fetch()}
    assert subjects["ben@example.org"] == "You have an account already"
    same = await post(browser, "email/change", email=ANNA, password=GOOD)
    assert [one["pointer"] for one in (await problem(same))["errors"]] == ["/email"]


async def test_an_address_that_is_taken_before_its_link_is_used_stays_with_who_took_it(
    stage: Stage, client: Client, letters: Letters
) -> None:
    user = await registered(client, letters)
    browser = await stage.signed_in(user)
    await post(browser, "email/change", email="free@example.org", password=GOOD)
    mails = {str(mail["To"]): mail for mail in await letters.fetch()}
    await register(client, "free@example.org")
    answer = await post(client, "verify-email", token=token_in(mails["free@example.org"]))
    assert answer.status == 409
    assert (await User.get(id=user.id)).email == ANNA


async def test_an_account_without_password_or_address_gets_one_shortly_after_signing_in(
    stage: Stage, client: Client, letters: Letters
) -> None:
    browser = await stage.signed_in()
    answer = await post(browser, "email/change", email="owner@example.org")
    assert answer.status == 202
    assert (await post(client, "verify-email", token=await letters.token())).status == 200
    assert (await User.get(id=stage.owner.id)).email == "owner@example.org"
    stage.clock.advance(3600)
    answer = await post(browser, "email/change", email="other@example.org")
    assert await code(answer) == (403, "sign_in_again")


async def test_a_stolen_session_cannot_change_the_address_after_the_password_is_reset(
    stage: Stage, client: Client, letters: Letters
) -> None:
    user = await registered(client, letters)
    browser = await stage.signed_in(user)
    await post(browser, "email/change", email="mallory@example.org", password=GOOD)
    mails = {str(mail["To"]): mail for mail in await letters.fetch()}
    await post(client, "password/forgot", email=ANNA)
    await post(client, "password/reset", token=await letters.token(), password=BETTER)
    answer = await post(client, "verify-email", token=token_in(mails["mallory@example.org"]))
    assert await code(answer) == (401, "link_expired")


async def test_no_token_and_no_password_is_stored_anywhere(
    stage: Stage, client: Client, letters: Letters
) -> None:
    await register(client)
    queued = [bytes(row.body) for row in await OutboxRow.all()]
    token = await letters.token()
    await post(client, "verify-email", token=token)
    await post(client, "password/forgot", email=ANNA)
    queued += [bytes(row.body) for row in await OutboxRow.all()]
    reset = await letters.token()
    assert queued
    stored = b"".join(queued).decode()
    stored += json.dumps([row.variables for row in await Delivery.all()])
    stored += json.dumps([line.data for line in await AuditLine.all()])
    stored += "".join([str(vars(row)) for row in await ActionLink.all()])
    stored += "".join([str(vars(row)) for row in await User.all()])
    assert await DeadLetter.all().count() == 0
    for secret in (token, reset, GOOD):
        assert secret not in stored


async def test_whoever_asks_for_many_mails_waits(stage: Stage, client: Client) -> None:
    await stage.settings(login_limit_per_address_per_min=3)
    statuses = []
    for place in range(5):
        answer = await post(client, "password/forgot", email=f"n{place}@example.org")
        statuses.append(answer.status)
    assert statuses == [202, 202, 202, 429, 429]
    assert int(answer.headers["Retry-After"]) == 20
    stage.clock.advance(timedelta(seconds=20).total_seconds())
    answer = await post(client, "password/forgot", email="n9@example.org")
    assert answer.status == 202


async def test_a_mail_in_chinese_goes_to_whoever_reads_it(client: Client, letters: Letters) -> None:
    await register(client, language="zh")
    mail = await letters.one()
    assert mail["Subject"] == "请确认您的邮箱地址"
    assert re.search(r"1 天", words(mail))

"""Linking an identity by intent, unlinking it, and never the last way to sign in."""

import asyncio
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from limner.core.ids import new_id
from limner.http.auth import csrf
from limner.storage.sql.accounts import User
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.identities import Authorization, Identity
from limner.storage.sql.notifications import Notification
from tests.fakes import sign_ins
from tests.fakes.front import Stage, code_of
from tests.fakes.issuer import Issuer
from tests.fakes.sign_ins import HTML, Browser, browser, linking, user_with

issuer, stage = sign_ins.issuer, sign_ins.oauth_stage


async def test_who_is_signed_in_links_an_identity_and_signs_in_by_it(
    stage: Stage, issuer: Issuer
) -> None:
    user = await user_with(stage, "anna@example.com")
    one = await linking(stage, issuer, user)
    answer = await one.back(issuer.approve(await one.link("/tasks")))
    assert (answer.status, answer.headers["Location"]) == (303, "/tasks")
    identity = await Identity.get()
    assert (identity.user_id, identity.email) == (user.id, "anna@example.com")
    listed = (await (await one.client.get("/api/identities")).json())["data"]
    assert listed == [
        {
            "id": identity.id,
            "provider": "oidc",
            "issuer": issuer.url,
            "email": "anna@example.com",
            "created_at": "2026-11-22T12:00:00Z",
            "last_used_at": "2026-11-22T12:00:00Z",
        }
    ]
    later = await browser(stage, issuer)
    assert (await later.sign_in()).status == 303
    session = await later.session()
    assert session is not None
    assert session.user_id == user.id


async def test_linking_and_unlinking_are_told_and_written_down(
    stage: Stage, issuer: Issuer
) -> None:
    user = await user_with(stage, "anna@example.com", password_hash="x")
    one = await linking(stage, issuer, user)
    await one.back(issuer.approve(await one.link()))
    identity = await Identity.get()
    assert (await one.client.delete(f"/api/identities/{identity.id}")).status == 204
    assert await Identity.all().count() == 0
    for event in ("identity.linked", "identity.unlinked"):
        line = await AuditLine.get(event=event)
        assert (line.actor, line.subject) == (user.id, identity.id)
        assert line.data == {"user": user.id, "provider": "oidc"}
        told = await Notification.get(kind=event)
        assert (told.user_id, told.data) == (user.id, {"provider": "oidc"})


async def test_a_sign_in_is_written_down_with_the_provider(stage: Stage, issuer: Issuer) -> None:
    await (await browser(stage, issuer)).sign_in()
    user = await User.get(email="anna@example.com")
    made = await AuditLine.get(event="user.registered")
    assert (made.actor, made.subject, made.data) == (user.id, user.id, {"by": "oidc"})
    signed_in = await AuditLine.get(event="user.signed_in", actor=user.id)
    assert signed_in.data["by"] == "oidc"
    assert (await User.get(id=user.id)).last_sign_in_at == stage.clock.now()


async def test_linking_needs_no_verified_address_and_shows_none(
    stage: Stage, issuer: Issuer
) -> None:
    issuer.claims = {"email_verified": False}
    user = await user_with(stage, "somebody@example.com")
    one = await linking(stage, issuer, user)
    assert (await one.back(issuer.approve(await one.link()))).status == 303
    assert (await Identity.get()).email == ""


async def test_linking_twice_changes_nothing(stage: Stage, issuer: Issuer) -> None:
    one = await linking(stage, issuer)
    for _ in range(2):
        answer = await one.back(issuer.approve(await one.link()))
        assert (answer.status, answer.headers["Location"]) == (303, "/account/security")
    assert await Identity.all().count() == 1


async def test_an_identity_belongs_to_one_account(stage: Stage, issuer: Issuer) -> None:
    assert (await (await browser(stage, issuer)).sign_in()).status == 303
    one = await linking(stage, issuer)
    answer = await one.back(issuer.approve(await one.link()))
    assert await code_of(answer, 409) == "oauth_linked_elsewhere"
    assert (await Identity.get()).user_id != stage.owner.id


async def test_two_who_link_one_identity_at_once_cannot_both(stage: Stage, issuer: Issuer) -> None:
    ones = [await linking(stage, issuer, await stage.user()) for _ in range(2)]
    ways = [issuer.approve(await one.link()) for one in ones]
    answers = await asyncio.gather(*(one.back(way) for one, way in zip(ones, ways, strict=True)))
    assert sorted(answer.status for answer in answers) == [303, 409]
    assert await Identity.all().count() == 1


async def test_a_link_that_another_account_began_is_not_finished(
    stage: Stage, issuer: Issuer
) -> None:
    """The browser changed hands: neither of the two gets the identity."""
    one = await linking(stage, issuer)
    way = issuer.approve(await one.link())
    await one.client.get(f"/sign-in/{await stage.link(await stage.user())}")
    assert await code_of(await one.back(way), 403) == "oauth_other_account"
    one = await linking(stage, issuer)
    way = issuer.approve(await one.link())
    assert (await one.client.post("/api/auth/logout")).status == 204
    assert await code_of(await one.back(way), 403) == "oauth_other_account"
    assert await Identity.all().count() == 0


async def test_linking_needs_the_token_of_our_pages(stage: Stage, issuer: Issuer) -> None:
    one = await linking(stage, issuer)
    token = one.client.session.headers.pop(csrf.HEADER)
    for headers in ({}, {csrf.HEADER: "invented"}):
        answer = await one.client.post(
            "/auth/oidc/link", headers=headers, json={}, allow_redirects=False
        )
        assert await code_of(answer, 403) == "csrf"
    answer = await one.client.post("/auth/oidc/link", data={}, allow_redirects=False)
    assert await code_of(answer, 403) == "csrf"
    foreign = {csrf.HEADER: token, "Origin": "https://evil.example"}
    answer = await one.client.post("/auth/oidc/link", headers=foreign, allow_redirects=False)
    assert answer.status == 403
    assert await Authorization.all().count() == 0


async def test_a_form_is_sent_on_by_a_page(stage: Stage, issuer: Issuer) -> None:
    """Our policy's form-action would stop a redirect to another site."""
    one = await linking(stage, issuer)
    token = one.client.session.headers.pop(csrf.HEADER)
    answer = await one.client.post(
        "/auth/oidc/link", data={csrf.FIELD: token, "redirect": "/tasks"}, headers=HTML
    )
    assert (answer.status, answer.content_type) == (200, "text/html")
    delay, _, target = answer.headers["Refresh"].partition("; url=")
    assert delay == "0"
    assert f'href="{target.replace("&", "&amp;")}"' in await answer.text()
    back = await one.back(issuer.approve(target))
    assert (back.status, back.headers["Location"]) == (303, "/tasks")
    assert await Identity.all().count() == 1


@pytest.mark.parametrize(
    ("data", "status"), [({"other": "1"}, 422), ({"redirect": "/" + "a" * 2001}, 422)]
)
async def test_a_form_that_does_not_fit_is_refused(
    stage: Stage, issuer: Issuer, data: dict[str, str], status: int
) -> None:
    one = await linking(stage, issuer)
    assert (await one.client.post("/auth/oidc/link", json=data)).status == status


async def test_a_link_never_leads_to_another_site(stage: Stage, issuer: Issuer) -> None:
    one = await linking(stage, issuer)
    answer = await one.back(issuer.approve(await one.link("//evil.example")))
    assert (answer.status, answer.headers["Location"]) == (303, "/account/security")


async def test_linking_needs_a_recent_sign_in(stage: Stage, issuer: Issuer) -> None:
    one = await linking(stage, issuer)
    stage.clock.advance(15 * 60 + 1)
    answer = await one.client.post("/auth/oidc/link", json={}, allow_redirects=False)
    assert await code_of(answer, 403) == "sign_in_again"


async def test_programs_cannot_link(stage: Stage) -> None:
    for client in (await stage.admin(), await stage.bearer()):
        answer = await client.post("/auth/oidc/link", json={}, allow_redirects=False)
        assert await code_of(answer, 403) == "needs_browser"
    nobody = await stage.client()
    assert (await nobody.post("/auth/oidc/link", json={})).status == 401


async def test_the_last_way_to_sign_in_stays(stage: Stage, issuer: Issuer) -> None:
    one = await browser(stage, issuer)
    await one.sign_in()
    await with_token(stage, one)
    (identity,) = await Identity.all()
    answer = await one.client.delete(f"/api/identities/{identity.id}")
    assert await code_of(answer, 409) == "last_way"
    work = stage.work()
    work.change(await User.get(id=identity.user_id), password_hash="x")
    await stage.front.units.commit(work)
    assert (await one.client.delete(f"/api/identities/{identity.id}")).status == 204
    assert (await one.client.delete(f"/api/identities/{identity.id}")).status == 404


async def with_token(stage: Stage, one: Browser) -> None:
    """Let a browser send the token of our pages."""
    session = await one.session()
    assert session is not None
    one.client.session.headers[csrf.HEADER] = csrf.token_of(stage.front, session.id)


async def test_two_that_are_unlinked_at_once_leave_one(stage: Stage, issuer: Issuer) -> None:
    one = await browser(stage, issuer)
    await one.sign_in()
    await with_token(stage, one)
    issuer.account = {**issuer.account, "sub": "another account of hers"}
    assert (await one.back(issuer.approve(await one.link()))).status == 303
    idents = [row.id for row in await Identity.all()]
    assert len(idents) == 2
    answers = await asyncio.gather(
        *(one.client.delete(f"/api/identities/{ident}") for ident in idents)
    )
    assert sorted(answer.status for answer in answers) == [204, 409]
    assert await Identity.all().count() == 1


async def test_the_identities_of_others_do_not_exist(stage: Stage, issuer: Issuer) -> None:
    await (await browser(stage, issuer)).sign_in()
    identity = await Identity.get()
    admin = await stage.admin()
    assert (await (await admin.get("/api/identities")).json())["data"] == []
    assert (await admin.delete(f"/api/identities/{identity.id}")).status == 404
    assert (await admin.delete(f"/api/identities/{'x' * 60}")).status == 404


async def test_lists_come_page_by_page(stage: Stage) -> None:
    for place in range(3):
        stage.clock.advance(1)
        await stage.add(
            Identity(
                id=new_id("identity"),
                user_id=stage.owner.id,
                provider="oidc",
                issuer="https://x.test",
                subject=str(place),
                created_at=stage.clock.now(),
            )
        )
    admin: TestClient[Any, Any] = await stage.admin()
    first = await (await admin.get("/api/identities", params={"limit": 2})).json()
    rest = await (
        await admin.get("/api/identities", params={"cursor": first["next_cursor"]})
    ).json()
    assert [len(first["data"]), len(rest["data"]), rest["next_cursor"]] == [2, 1, None]


async def test_a_key_needs_the_scope_of_the_account(stage: Stage) -> None:
    reader = await stage.client(await stage.key("account:read"))
    assert (await reader.get("/api/identities")).status == 200
    assert (await reader.delete("/api/identities/identity_x")).status == 403
    other = await stage.client(await stage.key("tasks:read"))
    assert (await other.get("/api/identities")).status == 403

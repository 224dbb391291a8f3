"""The pages of one's own account: every form's happy way, its errors, and whose things they are."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import get_args

import pytest

from limner.core.clock import HeldClock
from limner.core.ids import new_id
from limner.core.settings import OAuthSettings
from limner.http.auth.fields import Language
from limner.http.pages.account import LANGUAGES
from limner.http.pages.account_keys import WORDS
from limner.http.pages.notices import WORDS as NOTICES
from limner.storage.sql.accounts import SCOPES, ApiKey, User
from limner.storage.sql.notifications import Notification, notify
from limner.storage.sql.providers import Provider
from limner.storage.sql.sessions import Session
from tests.fakes.front import Stage, problem, staged
from tests.fakes.paper import PASSWORD, Visitor, account, signed_in, visitor

SECURITY = "/account/security"
FACTOR = f"{SECURITY}/second-factor"
PAGES = [
    "/account",
    SECURITY,
    "/account/sessions",
    "/account/keys",
    "/account/notifications",
    "/account/data",
]
FORMS = [
    "/account",
    "/account/defaults",
    "/account/data/export",
    "/account/data/delete",
    f"{SECURITY}/password",
    f"{SECURITY}/password-link",
    f"{SECURITY}/email",
    FACTOR,
    f"{FACTOR}/confirm",
    f"{FACTOR}/codes",
    f"{FACTOR}/remove",
    f"{SECURITY}/identities/x/remove",
    "/account/sessions/end-others",
    "/account/sessions/x/end",
    "/account/keys",
    "/account/keys/x/revoke",
    "/account/notifications/read-all",
    "/account/notifications/x/read",
]


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


async def test_every_page_is_sound_and_marks_where_one_is(anna: Visitor) -> None:
    for path in PAGES:
        paper = await anna.open(path)
        assert f'href="{path}" aria-current="page"' in paper.source, path
        assert paper.source.count("<h1>") == 1


async def test_the_owner_without_an_address_sees_all_pages_too(stage: Stage) -> None:
    owner = Visitor(await stage.signed_in())
    for path in PAGES:
        await owner.open(path)
    assert "no address" in (await owner.open("/account")).text
    assert "signed in by a link" in (await owner.open(SECURITY)).text
    begun = await owner.send(SECURITY, FACTOR)
    assert "Type the code that it shows." in begun.text
    token = begun.sheet("/logout").fields
    refused = await owner.post(f"{SECURITY}/password-link", token)
    assert (refused.status, "This account has no address." in refused.text) == (409, True)


@pytest.mark.parametrize("path", PAGES)
async def test_a_visitor_is_asked_to_sign_in(stage: Stage, path: str) -> None:
    somebody = await visitor(stage)
    paper = await somebody.open(path, 401)
    assert paper.sheet("/login").fields["next"] == path


@pytest.mark.parametrize("action", FORMS)
async def test_a_form_without_its_token_changes_nothing(anna: Visitor, action: str) -> None:
    paper = await anna.post(action, {"name": "Eve"})
    assert paper.status == 403
    assert "load it again" in paper.text
    assert (await mine()).name == "Anna"


async def test_a_key_without_the_scope_cannot_use_the_pages(stage: Stage) -> None:
    client = await stage.client(await stage.key("tasks:read"))
    for path in PAGES:
        assert (await client.get(path)).status == 403
    assert (await client.post("/account/keys")).status == 403


async def test_the_profile_is_changed(anna: Visitor) -> None:
    paper = await anna.send(
        "/account", "/account", name="Änna", language="de", timezone="Europe/Berlin"
    )
    assert paper.path == "/account?done=profile"
    assert "Your profile has been saved." in paper.text
    user = await mine()
    assert (user.name, user.language, user.timezone) == ("Änna", "de", "Europe/Berlin")
    assert paper.sheet("/account").fields["timezone"] == "Europe/Berlin"


@pytest.mark.parametrize(
    ("field", "value"), [("timezone", "Mars/Base"), ("language", "xx"), ("name", "a\x07b")]
)
async def test_a_profile_that_does_not_fit_is_refused_at_the_field(
    anna: Visitor, field: str, value: str
) -> None:
    paper = await anna.send("/account", "/account", **{field: value})
    assert paper.status == 422
    assert f'id="{field}-wrong"' in paper.source
    assert (await mine()).language == "en"


async def test_own_defaults_are_chosen_and_given_back(stage: Stage, anna: Visitor) -> None:
    await stage.add(
        Provider(
            id=new_id("provider"),
            state="active",
            user_id=stage.owner.id,
            name="acme",
            media="image",
            config={},
        )
    )
    paper = await anna.send(
        "/account",
        "/account/defaults",
        image_provider="acme",
        keywords="draw me\n\n paint ",
        confidence_threshold="0.9",
    )
    assert paper.path == "/account?done=defaults"
    wanted = {
        "image_provider": "acme",
        "keywords": ["draw me", "paint"],
        "confidence_threshold": 0.9,
    }
    assert (await mine()).defaults == wanted
    assert paper.sheet("/account/defaults").fields["keywords"] == "draw me\npaint"
    await anna.send(
        paper, "/account/defaults", image_provider="", keywords="", confidence_threshold=""
    )
    assert (await mine()).defaults == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_provider", "nobody"),
        ("confidence_threshold", "2"),
        ("confidence_threshold", "much"),
        ("keywords", "x" * 65),
    ],
)
async def test_defaults_that_do_not_fit_are_refused_at_the_field(
    anna: Visitor, field: str, value: str
) -> None:
    paper = await anna.send("/account", "/account/defaults", **{field: value})
    assert paper.status == 422
    assert f'id="{field}-wrong"' in paper.source
    if field != "image_provider":
        assert paper.sheet("/account/defaults").fields[field] == value
    assert (await mine()).defaults == {}


async def test_a_key_is_made_shown_once_and_revoked(stage: Stage, anna: Visitor) -> None:
    typed = {"name": "Backup <1>", "scope.tasks:read": "on", "expires": "30"}
    made = await anna.send("/account/keys", "/account/keys", **typed)
    found = re.search(r"lim_[\w-]{43}", made.source)
    assert (made.status, found is not None) == (200, True)
    assert found is not None
    program = await stage.client(found[0])
    assert (await program.get("/api/tasks")).status == 200
    assert (await program.get("/api/sources")).status == 403
    listed = await anna.open("/account/keys")
    assert found[0] not in listed.source
    assert "Backup <1>" in listed.text
    (key,) = await ApiKey.filter(user_id=(await mine()).id)
    assert key.expires_at is not None
    assert (key.expires_at - key.created_at).days == 30
    done = await anna.send(listed, f"/account/keys/{key.id}/revoke")
    assert done.path == "/account/keys?done=revoked"
    assert "revoked" in done.text
    assert (await program.get("/api/tasks")).status == 401


@pytest.mark.parametrize(
    ("typed", "field"),
    [
        ({"name": "x"}, "scopes"),
        ({"scope.tasks:read": "on", "expires": "soon"}, "expires"),
        ({"scope.mailbox:read": "on"}, ""),
        ({"scope.none": "on"}, ""),
        ({"scope.tasks:read": "on", "name": "x" * 201}, "name"),
    ],
)
async def test_a_key_that_cannot_be_is_refused_and_the_choice_stays(
    anna: Visitor, typed: dict[str, str], field: str
) -> None:
    paper = await anna.send("/account/keys", "/account/keys", **{"expires": "90", **typed})
    assert paper.status in {403, 422}
    if field:
        assert f'id="{field}-wrong"' in paper.source
    if "scope.tasks:read" in typed:
        assert 'name="scope.tasks:read" value="on" checked' in paper.source
    assert await ApiKey.all().count() == 0


async def test_only_ones_own_things_can_be_touched(stage: Stage, anna: Visitor) -> None:
    await stage.key("tasks:read")
    key = await ApiKey.get()
    fields = (await anna.open("/account/keys")).sheet("/account/keys").fields
    token = {"csrf_token": fields["csrf_token"]}
    assert (await anna.post(f"/account/keys/{key.id}/revoke", token)).status == 404
    await stage.signed_in()
    session = await Session.get(user_id=stage.owner.id)
    assert (await anna.post(f"/account/sessions/{session.id}/end", token)).status == 404
    assert (await Session.get(id=session.id)).revoked_at is None


async def test_the_bell_counts_until_all_is_read(stage: Stage, anna: Visitor) -> None:
    user = await mine()
    task = await stage.task("failed", user_id=user.id)
    work = stage.work()
    for kind in (*NOTICES, "something.new_here"):
        notify(work, user.id, kind, subject=task.id)
    notify(work, stage.owner.id, "key.created")
    await stage.front.units.commit(work)
    paper = await anna.open("/account/notifications")
    assert f"{len(NOTICES) + 1} unread" in paper.text
    assert "Something: new here." in paper.text
    assert f'href="/tasks/{task.id}"' in paper.source
    one = next(sheet for sheet in paper.sheets if sheet.action.endswith("/read"))
    paper = await anna.send(paper, one.action)
    assert f"{len(NOTICES)} unread" in paper.text
    paper = await anna.send(paper, "/account/notifications/read-all")
    assert "Nothing is unread." in paper.text
    assert 'class="count"' not in (await anna.open("/tasks")).source
    assert await Notification.filter(user_id=stage.owner.id, read_at=None).count() == 1


async def test_many_notifications_have_pages_and_a_bell_with_an_end(
    stage: Stage, anna: Visitor
) -> None:
    user = await mine()
    work = stage.work()
    for _ in range(101):
        notify(work, user.id, "key.created")
    await stage.front.units.commit(work)
    paper = await anna.open("/account/notifications")
    assert "99+" in paper.text
    older = re.search(r'rel="next" href="([^"]+)"', paper.source)
    assert older is not None
    await anna.open(older[1])


async def test_the_data_comes_as_a_file(anna: Visitor) -> None:
    fields = (await anna.open("/account/data")).sheet("/account/data/export").fields
    answer = await anna.client.post("/account/data/export", data=fields)
    assert answer.status == 200
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert "anna@example.com" in json.dumps(json.loads(await answer.text()))


async def test_the_account_is_deleted_with_the_password_only(stage: Stage, anna: Visitor) -> None:
    for password, status in (("", 422), ("no", 403)):
        paper = await anna.send("/account/data", "/account/data/delete", password=password)
        assert (paper.status, 'id="password-wrong"' in paper.source) == (status, True)
    done = await anna.send("/account/data", "/account/data/delete", password=PASSWORD)
    assert done.path == "/login?done=deleted"
    assert await User.filter(email="anna@example.com").count() == 0
    again = await done_again(stage)
    assert again == 401


async def done_again(stage: Stage) -> int:
    somebody = await visitor(stage)
    paper = await somebody.send("/login", "/login", email="anna@example.com", password=PASSWORD)
    return paper.status


async def test_the_last_admin_cannot_go(stage: Stage) -> None:
    work = stage.work()
    work.change(await User.get(id=stage.owner.id), email="owner@example.com")
    await stage.front.units.commit(work)
    owner = Visitor(await stage.signed_in())
    paper = await owner.send("/account/data", "/account/data/delete")
    assert paper.status == 409
    assert (await User.get(id=stage.owner.id)).state == "active"


async def test_a_script_gets_problems_from_the_same_paths(anna: Visitor) -> None:
    found = await problem(await anna.client.post("/account/keys", json={}))
    assert found["code"] == "csrf"


async def test_the_notifications_page_counts_the_unread_once(
    stage: Stage, anna: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = stage.work()
    notify(work, (await mine()).id, "key.created")
    await stage.front.units.commit(work)

    async def counted_again(_: str) -> int:
        raise AssertionError("the list has the number already")

    monkeypatch.setattr("limner.http.pages.rendering.unread_count", counted_again)
    paper = await anna.open("/account/notifications")
    assert "Notifications 1 unread" in paper.text
    assert 'class="count"' in paper.source


async def test_each_kind_is_offered_who_makes_it(stage: Stage, anna: Visitor) -> None:
    for name, media, state in (
        ("both-ways", "both", "active"),
        ("films", "video", "active"),
        ("gone", "both", "deleted"),
        ("stills", "image", "active"),
    ):
        await stage.add(
            Provider(
                id=new_id("provider"),
                state=state,
                user_id=stage.owner.id,
                name=name,
                media=media,
                config={},
            )
        )
    source = (await anna.open("/account")).source
    offered = {
        kind: re.findall(r'<option value="([^"]*)"', select)
        for kind, select in re.findall(r'name="(image|video)_provider"(.*?)</select>', source, re.S)
    }
    assert offered == {
        "image": ["", "local", "both-ways", "stills"],
        "video": ["", "local", "both-ways", "films"],
    }


def test_every_language_of_an_account_can_be_chosen() -> None:
    assert [code for code, _ in LANGUAGES] == ["en", "de", "ru", "zh"]
    assert {code for code, _ in LANGUAGES} == set(get_args(Language))


def test_every_scope_has_words() -> None:
    assert set(WORDS) == SCOPES

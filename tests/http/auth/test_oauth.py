"""The way to a provider and back: what is sent along, what must come back, and only once."""

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limner.core.clock import HeldClock
from limner.core.settings import OAuthSettings, Settings
from limner.http.auth import oauth
from limner.http.auth.oauth import Offer, offered
from limner.storage.sql.accounts import User
from limner.storage.sql.identities import Authorization, Identity
from limner.storage.sql.sessions import Session
from tests.fakes import sign_ins
from tests.fakes.front import Stage, problem, staged
from tests.fakes.issuer import CLIENT_ID, CLIENT_SECRET, Issuer, encoded
from tests.fakes.sign_ins import (
    HTML,
    Browser,
    assert_nobody,
    browser,
    parameters,
    settings_for,
)

issuer, stage = sign_ins.issuer, sign_ins.oauth_stage


async def test_the_way_there_and_back_makes_an_account_and_signs_it_in(
    stage: Stage, issuer: Issuer
) -> None:
    one = await browser(stage, issuer)
    answer = await one.sign_in("/tasks?state=failed")
    assert (answer.status, answer.headers["Location"]) == (303, "/tasks?state=failed")
    assert answer.headers["Cache-Control"] == "no-store"
    user = await User.get(email="anna@example.com")
    assert (user.name, user.role, user.verified_at) == ("Anna Example", "user", stage.clock.now())
    session = await one.session()
    assert session is not None
    assert (session.user_id, session.signed_in_by, session.kind) == (user.id, "oidc", "web")
    identity = await Identity.get()
    assert (identity.issuer, identity.subject) == (issuer.url, "anna-at-the-issuer")
    assert (await one.client.get("/api/identities")).status == 200


async def test_what_is_sent_along_is_fresh_every_time(stage: Stage, issuer: Issuer) -> None:
    one = await browser(stage, issuer)
    first, second = [parameters(await one.begin()) for _ in range(2)]
    assert first.keys() == second.keys()
    same = {name for name in first if first[name] == second[name]}
    assert same == first.keys() - {"state", "nonce", "code_challenge"}
    assert first["redirect_uri"] == f"{stage.front.settings.base_url}/auth/oidc/callback"
    assert len(base64.urlsafe_b64decode(first["state"] + "=")) == 32


async def test_the_database_has_hashes_and_sealed_secrets_only(
    stage: Stage, issuer: Issuer
) -> None:
    sent = parameters(await (await browser(stage, issuer)).begin())
    row = await Authorization.get()
    assert row.state_sha256 == hashlib.sha256(sent["state"].encode()).hexdigest()
    for secret in (sent["state"], sent["nonce"], "verifier"):
        assert secret.encode() not in bytes(row.sealed)
    plain = stage.front.sealer.open(f"authorization:{row.id}", row.sealed)
    verifier = json.loads(plain)["verifier"]
    hashed = hashlib.sha256(verifier.encode()).digest()
    assert encoded(hashed) == sent["code_challenge"]


async def test_the_cookie_is_for_this_host_alone(
    migrated_file: Path, tmp_path: Path, clock: HeldClock, issuer: Issuer
) -> None:
    async with staged(
        migrated_file,
        tmp_path,
        clock,
        oauth=settings_for(issuer),
        public_url="https://limner.example.com",
    ) as stage:
        client = await stage.client()
        answer = await client.get("/auth/oidc/login", allow_redirects=False)
        (cookie,) = answer.headers.getall("Set-Cookie")
        assert cookie.startswith("__Host-limner_oauth=")
        attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
        assert {"httponly", "secure", "path=/", "samesite=lax", "max-age=600"} <= attributes
        assert not any(part.startswith("domain") for part in attributes)
        assert answer.headers["Cache-Control"] == "no-store"
        sent = parameters(answer.headers["Location"])
        assert sent["redirect_uri"] == "https://limner.example.com/auth/oidc/callback"


async def test_several_tabs_come_back_in_any_order(stage: Stage, issuer: Issuer) -> None:
    one = await browser(stage, issuer)
    ways = [issuer.approve(await one.begin()) for _ in range(3)]
    for way in reversed(ways):
        assert (await one.back(way)).status == 303


# What comes back, and what is made of it. ``change`` is given the browser and the way back.
async def without_state(one: Browser, way: str) -> Any:
    return await one.back(way, state=None)


async def invented_state(one: Browser, way: str) -> Any:
    return await one.back(way, state="A" * 43)


async def malformed_state(one: Browser, way: str) -> Any:
    return await one.back(way, state="é" * 500)


async def state_twice(one: Browser, way: str) -> Any:
    path = one.stage.path(way)
    return await one.client.get(path + "&state=x", allow_redirects=False)


async def state_of_another_browser(one: Browser, way: str) -> Any:
    other = await browser(one.stage, one.provider)
    await other.begin()
    return await other.back(way)


async def state_without_a_cookie(one: Browser, way: str) -> Any:
    return await (await browser(one.stage, one.provider)).back(way)


async def state_of_another_provider(one: Browser, way: str) -> Any:
    return await one.back(way.replace("/auth/oidc/", "/auth/google/"))


async def state_after_ten_minutes(one: Browser, way: str) -> Any:
    one.stage.clock.advance(600)
    return await one.back(way)


async def without_code(one: Browser, way: str) -> Any:
    return await one.back(way, code=None)


async def invented_code(one: Browser, way: str) -> Any:
    return await one.back(way, code="invented")


async def endless_code(one: Browser, way: str) -> Any:
    return await one.back(way, code="c" * 5000)


async def code_of_another_sign_in(one: Browser, way: str) -> Any:
    """Inject a code: its verifier is another's (RFC 9700 section 4.5)."""
    assert isinstance(one.provider, Issuer)
    theirs = parameters(one.provider.approve(await one.begin()))["code"]
    return await one.back(way, code=theirs)


async def issuer_of_another(one: Browser, way: str) -> Any:
    return await one.back(way, iss="https://evil.example")


async def no_issuer_though_announced(one: Browser, way: str) -> Any:
    return await one.back(way, iss=None)


async def refused_there(one: Browser, way: str) -> Any:
    return await one.back(way, code=None, error="access_denied")


BACK: list[tuple[Callable[..., Any], int, str]] = [
    (without_state, 400, "oauth_state"),
    (invented_state, 400, "oauth_state"),
    (malformed_state, 400, "oauth_state"),
    (state_twice, 422, "invalid"),
    (state_of_another_browser, 400, "oauth_state"),
    (state_without_a_cookie, 400, "oauth_state"),
    (state_of_another_provider, 400, "oauth_state"),
    (state_after_ten_minutes, 400, "oauth_state"),
    (without_code, 400, "oauth_code"),
    (invented_code, 400, "oauth_code"),
    (endless_code, 400, "oauth_code"),
    (code_of_another_sign_in, 400, "oauth_code"),
    (issuer_of_another, 403, "oauth_refused"),
    (no_issuer_though_announced, 403, "oauth_refused"),
    (refused_there, 400, "oauth_denied"),
]


async def test_what_must_not_sign_in_does_not(
    migrated_file: Path,
    tmp_path: Path,
    clock: HeldClock,
    issuer: Issuer,
    subtests: pytest.Subtests,
) -> None:
    given = settings_for(issuer, google_client_id="also")
    async with staged(migrated_file, tmp_path, clock, oauth=given) as stage:
        for change, status, code in BACK:
            with subtests.test(change.__name__):
                one = await browser(stage, issuer)
                answer = await change(one, issuer.approve(await one.begin()))
                assert (answer.status, (await problem(answer))["code"]) == (status, code)
                await assert_nobody(stage, one)


async def test_a_state_is_used_once_however_many_come_at_once(stage: Stage, issuer: Issuer) -> None:
    one = await browser(stage, issuer)
    way = issuer.approve(await one.begin())
    answers = await asyncio.gather(*(one.back(way) for _ in range(8)))
    assert sorted(answer.status for answer in answers) == [303] + [400] * 7
    assert issuer.asked["/token"] == 1
    assert (await one.back(way)).status == 400
    assert await Session.all().count() == 1


async def test_a_state_that_came_back_wrong_is_used_up_too(stage: Stage, issuer: Issuer) -> None:
    one = await browser(stage, issuer)
    way = issuer.approve(await one.begin())
    assert (await one.back(way, iss="https://evil.example")).status == 403
    assert (await one.back(way)).status == 400
    await assert_nobody(stage, one)


async def test_another_browser_does_not_use_the_state_up(stage: Stage, issuer: Issuer) -> None:
    one = await browser(stage, issuer)
    way = issuer.approve(await one.begin())
    assert (await state_of_another_browser(one, way)).status == 400
    assert (await one.back(way)).status == 303


async def test_a_new_secret_key_ends_what_is_under_way(stage: Stage, issuer: Issuer) -> None:
    one = await browser(stage, issuer)
    way = issuer.approve(await one.begin())
    await Authorization.all().update(sealed=b"sealed under another secret key")
    answer = await one.back(way)
    assert (answer.status, (await problem(answer))["code"]) == (400, "oauth_state")


REDIRECTS = [
    ("/tasks/task_1?x=1#y", "/tasks/task_1?x=1#y"),
    ("/", "/"),
    ("/%2F/evil.example", "/%2F/evil.example"),
    ("/Bilder/für dich", "/Bilder/f%C3%BCr%20dich"),
    ("", "/tasks"),
    ("tasks", "/tasks"),
    ("//evil.example", "/tasks"),
    ("///evil.example", "/tasks"),
    ("/\\evil.example", "/tasks"),
    ("\\\\evil.example", "/tasks"),
    ("/ok\\..\\x", "/tasks"),
    ("https://evil.example", "/tasks"),
    ("https:evil.example", "/tasks"),
    ("javascript:alert(1)", "/tasks"),
    ("/\t/evil.example", "/tasks"),
    ("/\n/evil.example", "/tasks"),
    ("\t//evil.example", "/tasks"),
    (" //evil.example", "/tasks"),
    ("/x\r\nSet-Cookie: a=b", "/tasks"),
    ("/x\x00", "/tasks"),
    ("//[", "/tasks"),
    ("/auth/oidc/login", "/tasks"),
    ("/" + "a" * 600, "/tasks"),
]


async def test_nobody_is_sent_to_another_site(
    stage: Stage, issuer: Issuer, subtests: pytest.Subtests
) -> None:
    for wanted, location in REDIRECTS:
        with subtests.test(wanted[:40]):
            answer = await (await browser(stage, issuer)).sign_in(wanted)
            assert (answer.status, answer.headers["Location"]) == (303, location)


@pytest.mark.parametrize("path", ["login", "callback"])
async def test_what_is_not_configured_is_not_there(stage: Stage, path: str) -> None:
    client = await stage.client()
    for name in ("google", "github", "gitlab", "none"):
        answer = await client.get(f"/auth/{name}/{path}", allow_redirects=False)
        assert answer.status == 404


def test_buttons_are_offered_for_what_is_configured() -> None:
    assert offered(Settings()) == []
    both = OAuthSettings(google_client_id="g", github_client_id="h", oidc_issuer="https://x.test")
    assert offered(Settings(oauth=both)) == [Offer("google", "Google"), Offer("github", "GitHub")]
    own = OAuthSettings(oidc_issuer="https://x.test", oidc_client_id="c", oidc_name="Keycloak")
    assert offered(Settings(oauth=own)) == [Offer("oidc", "Keycloak")]


async def test_google_is_an_issuer_of_its_own(
    migrated_file: Path,
    tmp_path: Path,
    clock: HeldClock,
    issuer: Issuer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert oauth.GOOGLE_ISSUER == "https://accounts.google.com"
    monkeypatch.setattr(oauth, "GOOGLE_ISSUER", issuer.url)
    given = OAuthSettings.model_validate(
        {"google_client_id": CLIENT_ID, "google_client_secret": CLIENT_SECRET}
    )
    async with staged(migrated_file, tmp_path, clock, oauth=given) as stage:
        one = await browser(stage, issuer, "google")
        assert (await one.sign_in()).status == 303
        session = await one.session()
        assert session is not None
        assert session.signed_in_by == "google"
        assert (await Identity.get()).provider == "google"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        ("temporarily_unavailable", 503, "provider_away"),
        ("server_error", 503, "provider_away"),
        ("unauthorized_client", 502, "provider_failed"),
        ("<script>", 502, "provider_failed"),
    ],
)
async def test_an_error_that_comes_back_is_told(
    stage: Stage, issuer: Issuer, error: str, status: int, code: str
) -> None:
    one = await browser(stage, issuer)
    answer = await one.back(issuer.approve(await one.begin()), code=None, error=error)
    assert (answer.status, (await problem(answer))["code"]) == (status, code)


async def test_a_provider_that_is_away_is_told_before_anything_is_stored(
    migrated_file: Path, tmp_path: Path, clock: HeldClock, issuer: Issuer
) -> None:
    given = settings_for(issuer, oidc_issuer="http://127.0.0.1:9")
    async with staged(migrated_file, tmp_path, clock, oauth=given) as stage:
        client = await stage.client()
        answer = await client.get("/auth/oidc/login", allow_redirects=False)
        assert (answer.status, (await problem(answer))["code"]) == (503, "provider_away")
        assert await Authorization.all().count() == 0
        shown = await client.get("/auth/oidc/login", headers=HTML, allow_redirects=False)
        assert (shown.status, shown.content_type) == (503, "text/html")
        assert "another way" in await shown.text()


async def test_a_person_in_a_browser_gets_a_page(stage: Stage, issuer: Issuer) -> None:
    one = await browser(stage, issuer)
    one.headers = HTML
    answer = await one.back(issuer.approve(await one.begin()), state="A" * 43)
    assert (answer.status, answer.content_type) == (400, "text/html")
    assert "Begin again" in await answer.text()


@pytest.mark.parametrize(
    ("methods", "secret"),
    [
        (None, CLIENT_SECRET),
        (["client_secret_basic"], CLIENT_SECRET),
        (["client_secret_post"], CLIENT_SECRET),
        (["private_key_jwt", "client_secret_post", "client_secret_basic"], CLIENT_SECRET),
        (["none"], ""),
    ],
)
async def test_the_client_proves_itself_as_the_provider_wants_it(
    migrated_file: Path,
    tmp_path: Path,
    clock: HeldClock,
    issuer: Issuer,
    methods: list[str] | None,
    secret: str,
) -> None:
    issuer.methods = methods
    given = settings_for(issuer, oidc_client_secret=secret)
    async with staged(migrated_file, tmp_path, clock, oauth=given) as stage:
        assert (await (await browser(stage, issuer)).sign_in()).status == 303

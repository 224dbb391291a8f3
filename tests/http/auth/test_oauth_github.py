"""Signing in by GitHub, against a server that is strict where its documentation is."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from limner.core.clock import HeldClock
from limner.core.settings import OAuthSettings
from limner.http.auth.oauth_github import GitHubProvider
from limner.storage.sql.accounts import User
from limner.storage.sql.identities import Identity
from limner.storage.sql.sessions import Session
from tests.fakes.front import Stage, problem, staged
from tests.fakes.github import CLIENT_ID, CLIENT_SECRET, GitHub, github_server
from tests.fakes.sign_ins import browser, parameters


@pytest.fixture
async def github() -> AsyncIterator[GitHub]:
    async with github_server() as serving:
        yield serving


def settings_for(github: GitHub, **changes: str) -> OAuthSettings:
    given = {
        "github_url": github.url + "/",
        "github_client_id": CLIENT_ID,
        "github_client_secret": CLIENT_SECRET,
        **changes,
    }
    return OAuthSettings.model_validate(given)


@pytest.fixture
async def stage(
    migrated_file: Path, tmp_path: Path, clock: HeldClock, github: GitHub
) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock, oauth=settings_for(github)) as opened:
        yield opened


async def test_the_primary_address_makes_an_account(stage: Stage, github: GitHub) -> None:
    one = await browser(stage, github, "github")
    answer = await one.sign_in("/tasks/x")
    assert (answer.status, answer.headers["Location"]) == (303, "/tasks/x")
    user = await User.get(email="anna@example.com")
    assert user.name == "The Octocat"
    identity = await Identity.get()
    assert (identity.issuer, identity.subject) == (github.url, "583231")
    assert (identity.provider, identity.user_id) == ("github", user.id)
    session = await one.session()
    assert session is not None
    assert session.signed_in_by == "github"


async def test_who_renames_the_account_there_is_still_the_same(
    stage: Stage, github: GitHub
) -> None:
    assert (await (await browser(stage, github, "github")).sign_in()).status == 303
    github.user = {**github.user, "login": "renamed", "name": None}
    assert (await (await browser(stage, github, "github")).sign_in()).status == 303
    assert await User.all().count() == 2


async def test_without_a_name_the_login_is_it(stage: Stage, github: GitHub) -> None:
    github.user = {"id": 1, "login": "octo\u202ecat", "name": None}
    assert (await (await browser(stage, github, "github")).sign_in()).status == 303
    assert (await User.get(email="anna@example.com")).name == "octo cat"


NOT_VERIFIED: list[Any] = [
    [],
    [{"email": "anna@example.com", "primary": True, "verified": False}],
    [{"email": "anna@example.com", "primary": False, "verified": True}],
    [{"email": "anna@example.com", "primary": "yes", "verified": "yes"}],
    [{"email": None, "primary": True, "verified": True}],
    ["anna@example.com"],
    {"message": "no list"},
]


async def test_without_a_verified_primary_address_there_is_no_account(
    stage: Stage, github: GitHub, subtests: pytest.Subtests
) -> None:
    for emails in NOT_VERIFIED:
        with subtests.test(emails=emails):
            github.emails = emails
            answer = await (await browser(stage, github, "github")).sign_in()
            assert (answer.status, (await problem(answer))["code"]) == (403, "oauth_unverified")
            assert await User.all().count() == 1


@pytest.mark.parametrize(
    ("answer", "status"),
    [({"iss": "URL"}, 303), ({"iss": "URL/login/oauth"}, 303), ({"iss": "https://x.test"}, 403)],
)
async def test_the_issuer_is_checked_where_it_is_told(
    stage: Stage, github: GitHub, answer: dict[str, str], status: int
) -> None:
    github.answer = {name: value.replace("URL", github.url) for name, value in answer.items()}
    assert (await (await browser(stage, github, "github")).sign_in()).status == status


async def test_the_code_of_another_sign_in_is_refused(stage: Stage, github: GitHub) -> None:
    one = await browser(stage, github, "github")
    theirs = parameters(github.approve(await one.begin()))["code"]
    answer = await one.back(github.approve(await one.begin()), code=theirs)
    assert (answer.status, (await problem(answer))["code"]) == (400, "oauth_code")
    assert await Session.all().count() == 0


async def test_a_wrong_secret_is_told_with_its_mend(
    migrated_file: Path, tmp_path: Path, clock: HeldClock, github: GitHub
) -> None:
    given = settings_for(github, github_client_secret="another")
    async with staged(migrated_file, tmp_path, clock, oauth=given) as stage:
        answer = await (await browser(stage, github, "github")).sign_in()
        told = await problem(answer)
        assert (answer.status, told["code"]) == (502, "provider_failed")
        assert "LIMNER_OAUTH__GITHUB_CLIENT_ID" in told["detail"]
        assert "incorrect_client_credentials" in told["detail"]


OUT_OF_ORDER: list[tuple[dict[str, Any], int, str]] = [
    ({"statuses": {"/user": 503}}, 503, "provider_away"),
    ({"statuses": {"/user": 403}}, 502, "provider_failed"),
    ({"statuses": {"/user/emails": 404}}, 502, "provider_failed"),
    ({"user": {"login": "nobody"}}, 502, "provider_failed"),
    ({"user": {"id": True, "login": "nobody"}}, 502, "provider_failed"),
    ({"user": ["list"]}, 502, "provider_failed"),
]


async def test_what_goes_wrong_there_is_no_fault_of_ours(
    stage: Stage, github: GitHub, subtests: pytest.Subtests
) -> None:
    user = github.user
    for changes, status, code in OUT_OF_ORDER:
        with subtests.test(changes=changes):
            github.statuses, github.user = {}, user
            for name, value in changes.items():
                setattr(github, name, value)
            answer = await (await browser(stage, github, "github")).sign_in()
            assert (answer.status, (await problem(answer))["code"]) == (status, code)
            assert await Session.all().count() == 0


@pytest.mark.parametrize("url", ["http://github.example", "ftp://127.0.0.1", "no address"])
async def test_an_address_without_encryption_is_refused(
    migrated_file: Path, tmp_path: Path, clock: HeldClock, github: GitHub, url: str
) -> None:
    given = settings_for(github, github_url=url)
    async with staged(migrated_file, tmp_path, clock, oauth=given) as stage:
        client = await stage.client()
        answer = await client.get("/auth/github/login", allow_redirects=False)
        assert (answer.status, (await problem(answer))["code"]) == (502, "provider_failed")


def test_the_api_is_beside_an_enterprise_server_and_elsewhere_for_all_others() -> None:
    assert GitHubProvider("https://github.com", "", "").api == "https://api.github.com"
    own = GitHubProvider("https://git.example.com", "", "")
    assert own.api == "https://git.example.com/api/v3"

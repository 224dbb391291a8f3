"""Signing in by providers that others wrote, as a browser does it, page by page."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import aiohttp
import pytest

from limner.core.clock import HeldClock
from limner.core.settings import OAuthSettings
from limner.storage.sql.accounts import User
from limner.storage.sql.identities import Identity
from limner.storage.sql.sessions import Session
from tests.engines.oidc_providers import NodeProvider, PythonProvider, Unavailable, node_package
from tests.fakes.front import Stage, problem, staged
from tests.fakes.sign_ins import Browser, parameters

PUBLIC_URL = "http://limner.test"
CALLBACK = f"{PUBLIC_URL}/auth/oidc/callback"
FORM = re.compile(r'<form[^>]*action="([^"]+)"')
PAGES_MAX = 10

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


class Nobody:
    """Approves nothing: the provider's own pages do."""

    def approve(self, location: str) -> str:
        raise AssertionError(location)


@asynccontextmanager
async def staged_for(
    migrated_file: Path, folder: Path, issuer: str, client_id: str, secret: str
) -> AsyncIterator[Stage]:
    """Serve a front that knows a provider; its clock shows the time, as the provider's does."""
    given = OAuthSettings.model_validate(
        {"oidc_issuer": issuer, "oidc_client_id": client_id, "oidc_client_secret": secret}
    )
    clock = HeldClock(datetime.now(UTC))
    async with staged(migrated_file, folder, clock, oauth=given, public_url=PUBLIC_URL) as stage:
        yield stage


async def fresh(stage: Stage) -> Browser:
    return Browser(stage, Nobody(), await stage.client())


async def through_pages(location: str, fields: list[dict[str, str]]) -> str:
    """Go through a provider's pages, one form after the other, and give the way back."""
    rest = list(fields)
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        answer = await session.get(location, allow_redirects=False)
        for _ in range(PAGES_MAX):
            here = str(answer.url)
            if 300 <= answer.status < 400:
                there = urljoin(here, answer.headers["Location"])
                if there.startswith(PUBLIC_URL):
                    return there
                answer = await session.get(there, allow_redirects=False)
                continue
            text = await answer.text()
            assert answer.status == 200, text[:2000]
            form = FORM.search(text)
            action = urljoin(here, form[1].replace("&amp;", "&")) if form else here
            answer = await session.post(action, data=rest.pop(0), allow_redirects=False)
    raise AssertionError("the provider never sent the browser back")


@pytest.fixture(scope="module")
def python_provider(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with PythonProvider() as serving:
        yield serving


def node_provider(methods: list[str]) -> NodeProvider:
    try:
        package = node_package()
    except Unavailable as reason:
        pytest.skip(f"oidc-provider: {reason}")
    return NodeProvider(package, [CALLBACK], methods)


@pytest.fixture(scope="module")
def strict_provider() -> Any:
    with node_provider(["client_secret_basic", "client_secret_post", "none"]) as serving:
        yield serving


async def describe(provider: PythonProvider, sub: str, **claims: Any) -> None:
    async with aiohttp.ClientSession() as session:
        answer = await session.put(f"{provider.issuer}/users/{sub}", json=claims)
        assert answer.status == 204


async def test_an_account_at_a_provider_in_python_signs_in(
    migrated_file: Path, tmp_path: Path, python_provider: PythonProvider
) -> None:
    await describe(
        python_provider, "anna", email="anna@example.com", email_verified=True, name="Anna"
    )
    async with staged_for(
        migrated_file, tmp_path, python_provider.issuer, "limner", "any secret"
    ) as stage:
        for _ in range(2):
            one = await fresh(stage)
            way = await through_pages(await one.begin("/tasks/1"), [{"sub": "anna"}])
            answer = await one.back(way)
            assert (answer.status, answer.headers["Location"]) == (303, "/tasks/1")
            session = await one.session()
            user = await User.get(email="anna@example.com")
            assert session is not None
            assert (user.name, session.user_id) == ("Anna", user.id)
        identity = await Identity.get()
        assert (identity.issuer, identity.subject) == (python_provider.issuer, "anna")


async def test_an_address_that_the_provider_does_not_vouch_for_signs_nobody_in(
    migrated_file: Path, tmp_path: Path, python_provider: PythonProvider
) -> None:
    await describe(python_provider, "bert", email="bert@example.com")
    async with staged_for(
        migrated_file, tmp_path, python_provider.issuer, "limner", "any secret"
    ) as stage:
        one = await fresh(stage)
        answer = await one.back(await through_pages(await one.begin(), [{"sub": "bert"}]))
        assert (answer.status, (await problem(answer))["code"]) == (403, "oauth_unverified")
        assert await Session.all().count() == 0


async def test_who_says_no_there_is_not_signed_in(
    migrated_file: Path, tmp_path: Path, python_provider: PythonProvider
) -> None:
    async with staged_for(
        migrated_file, tmp_path, python_provider.issuer, "limner", "any secret"
    ) as stage:
        one = await fresh(stage)
        way = await through_pages(await one.begin(), [{"action": "deny"}])
        sent = parameters(way)
        assert sent["error"] == "access_denied"
        state = {} if "state" in sent else {"state": parameters(await one.begin())["state"]}
        answer = await one.back(way, **state)
        assert (answer.status, (await problem(answer))["code"]) == (400, "oauth_denied")


ANNA = [{"prompt": "login", "login": "anna", "password": "x"}, {"prompt": "consent"}]


@pytest.mark.parametrize(
    ("client_id", "secret", "methods"),
    [
        ("basic", "a secret: with+signs%", ["client_secret_basic", "none"]),
        ("post", "another secret", ["client_secret_post"]),
        ("public", "", ["client_secret_basic", "none"]),
    ],
)
async def test_an_account_at_a_certified_provider_signs_in(
    migrated_file: Path,
    tmp_path: Path,
    client_id: str,
    secret: str,
    methods: list[str],
) -> None:
    provider = await asyncio.to_thread(node_provider, methods)
    await asyncio.to_thread(provider.start)
    try:
        async with staged_for(migrated_file, tmp_path, provider.issuer, client_id, secret) as stage:
            one = await fresh(stage)
            way = await through_pages(await one.begin(), ANNA)
            assert parameters(way)["iss"] == provider.issuer
            answer = await one.back(way)
            assert answer.status == 303, await answer.text()
            assert (await User.get(email="anna@example.com")).name == "anna of Node"
    finally:
        await asyncio.to_thread(provider.close)


async def test_a_code_that_was_begun_elsewhere_is_refused_for_its_verifier(
    migrated_file: Path, tmp_path: Path, strict_provider: NodeProvider
) -> None:
    """Inject a code that another browser was given (RFC 9700 section 4.5)."""
    async with staged_for(
        migrated_file, tmp_path, strict_provider.issuer, "basic", "a secret: with+signs%"
    ) as stage:
        theirs, mine = await fresh(stage), await fresh(stage)
        stolen = parameters(await through_pages(await theirs.begin(), ANNA))["code"]
        way = await through_pages(await mine.begin(), ANNA)
        answer = await mine.back(way, code=stolen)
        assert (answer.status, (await problem(answer))["code"]) == (400, "oauth_code")
        assert await Session.all().count() == 0


async def test_the_certified_provider_itself_refuses_what_has_no_challenge(
    migrated_file: Path, tmp_path: Path, strict_provider: NodeProvider
) -> None:
    """What makes the test above worth something: this provider does look."""
    async with staged_for(
        migrated_file, tmp_path, strict_provider.issuer, "basic", "a secret: with+signs%"
    ) as stage:
        one = await fresh(stage)
        location = re.sub(r"&code_challenge[^&]*", "", await one.begin())
        way = await through_pages(location, [])
        assert parameters(way)["error"] == "invalid_request"
        answer = await one.back(way)
        assert (answer.status, (await problem(answer))["code"]) == (502, "provider_failed")


async def test_an_unverified_address_there_makes_no_account(
    migrated_file: Path, tmp_path: Path, strict_provider: NodeProvider
) -> None:
    async with staged_for(migrated_file, tmp_path, strict_provider.issuer, "public", "") as stage:
        one = await fresh(stage)
        pages = [{**ANNA[0], "login": "unverified"}, ANNA[1]]
        answer = await one.back(await through_pages(await one.begin(), pages))
        assert (answer.status, (await problem(answer))["code"]) == (403, "oauth_unverified")
        assert await User.all().count() == 1


async def test_a_wrong_secret_is_told(
    migrated_file: Path, tmp_path: Path, strict_provider: NodeProvider
) -> None:
    async with staged_for(
        migrated_file, tmp_path, strict_provider.issuer, "basic", "wrong"
    ) as stage:
        one = await fresh(stage)
        answer = await one.back(await through_pages(await one.begin(), ANNA))
        told = await problem(answer)
        assert (answer.status, told["code"]) == (502, "provider_failed")
        assert "invalid_client" in told["detail"]

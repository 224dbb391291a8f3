"""Signing in by a provider as a browser does it, for tests of it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient
from yarl import URL

from limner.core.clock import HeldClock
from limner.core.ids import new_id
from limner.core.settings import OAuthSettings
from limner.http.auth import cookies
from limner.storage.sql.accounts import User, digest
from limner.storage.sql.identities import Identity
from limner.storage.sql.sessions import Session
from tests.fakes.front import Stage, staged
from tests.fakes.issuer import CLIENT_ID, CLIENT_SECRET, Issuer, issuing

HTML = {"Accept": "text/html,application/xhtml+xml"}


class Approves(Protocol):
    """A provider where somebody is signed in."""

    def approve(self, location: str) -> str:
        """Give the way back."""
        ...


@dataclass
class Browser:
    """A browser on its way to a provider and back."""

    stage: Stage
    provider: Approves
    client: TestClient[Any, Any]
    name: str = "oidc"
    headers: dict[str, str] = field(default_factory=dict)

    async def begin(self, redirect: str | None = None) -> str:
        """Go to the provider; give its address."""
        query = {} if redirect is None else {"redirect": redirect}
        path = f"/auth/{self.name}/login"
        answer = await self.client.get(path, params=query, allow_redirects=False)
        assert answer.status == 302, await answer.text()
        return answer.headers["Location"]

    async def link(self, redirect: str | None = None) -> str:
        """Go to the provider to link an identity; give its address."""
        body = {} if redirect is None else {"redirect": redirect}
        answer = await self.client.post(f"/auth/{self.name}/link", json=body, allow_redirects=False)
        assert answer.status == 303, await answer.text()
        return answer.headers["Location"]

    async def back(self, url: str, **changes: str | None) -> ClientResponse:
        """Come back by the provider's address, some of its parameters changed or left out."""
        path, query = self.stage.path(url).split("?", 1)
        given: dict[str, str | None] = {**dict(parse_qsl(query)), **changes}
        kept = {name: value for name, value in given.items() if value is not None}
        return await self.client.get(path, params=kept, headers=self.headers, allow_redirects=False)

    async def sign_in(self, redirect: str | None = None) -> ClientResponse:
        """Go there and come back."""
        return await self.back(self.provider.approve(await self.begin(redirect)))

    async def session(self) -> Session | None:
        """Give the session that this browser has."""
        jar = self.client.session.cookie_jar.filter_cookies(URL(self.client.make_url("/")))
        found = jar.get(cookies.name_of(self.stage.front))
        return None if found is None else await Session.get_or_none(sha256=digest(found.value))


async def browser(stage: Stage, provider: Approves, name: str = "oidc") -> Browser:
    """Give a fresh one."""
    return Browser(stage, provider, await stage.client(), name)


def parameters(url: str) -> dict[str, str]:
    """Give the parameters of an address."""
    return dict(parse_qsl(urlsplit(url).query, strict_parsing=True))


def settings_for(issuer: Issuer, **changes: Any) -> OAuthSettings:
    """Give the settings that make our front a client of an issuer."""
    given = {
        "oidc_issuer": issuer.url,
        "oidc_name": "Example",
        "oidc_client_id": CLIENT_ID,
        "oidc_client_secret": CLIENT_SECRET,
        **changes,
    }
    return OAuthSettings.model_validate(given)


@pytest.fixture
async def issuer(clock: HeldClock) -> AsyncIterator[Issuer]:
    """Serve a provider; a module of tests takes this fixture by naming it."""
    async with issuing(clock) as serving:
        yield serving


@pytest.fixture
async def oauth_stage(
    migrated_file: Path, tmp_path: Path, clock: HeldClock, issuer: Issuer
) -> AsyncIterator[Stage]:
    """Serve a front that is a client of that provider."""
    async with staged(migrated_file, tmp_path, clock, oauth=settings_for(issuer)) as opened:
        yield opened


async def user_with(stage: Stage, email: str, **fields: Any) -> User:
    """Make an account with an address."""
    ident = new_id("user")
    user = User(**{"id": ident, "user_id": ident, "state": "active", "email": email, **fields})
    await stage.add(user)
    return user


async def linking(stage: Stage, provider: Approves, user: User | None = None) -> Browser:
    """Give a browser that is signed in by a link."""
    return Browser(stage, provider, await stage.signed_in(user))


async def assert_nobody(stage: Stage, one: Browser) -> None:
    """Check that nobody was signed in, linked or made."""
    assert await one.session() is None
    assert await Session.all().count() == 0
    assert await Identity.all().count() == 0
    assert await User.all().count() == 1


@contextmanager
def changed(stage: Stage, issuer: Issuer, changes: dict[str, Any]) -> Iterator[None]:
    """Let the issuer be another for a while; what was remembered of it is over each time."""
    honest = {name: getattr(issuer, name) for name in changes}
    for name, value in changes.items():
        setattr(issuer, name, value)
    yield
    for name, value in honest.items():
        setattr(issuer, name, value)
    stage.clock.advance(3600)

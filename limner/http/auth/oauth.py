"""Signing in by an account elsewhere: the way there and back.

The authorization code flow (RFC 6749 section 4.1) as RFC 9700 wants it: PKCE always, a ``state``
of 256 random bits that is bound to the browser by a cookie and used once within ten minutes, one
``redirect_uri`` per provider, and the answer's issuer checked. What must stay secret until the way
back, PKCE's verifier and the nonce, is kept sealed; nothing that the provider gives is kept.
"""

import json
import re
from dataclasses import dataclass

from aiohttp import web
from pydantic import BaseModel

from limner.core.errors import Forbidden, NotConfigured, NotFound, Transient
from limner.core.ids import new_id
from limner.core.settings import Settings
from limner.core.unit import Commit
from limner.http.auth import cookies
from limner.http.auth.oauth_calls import ProviderFault, away, faulty, shown
from limner.http.auth.oauth_github import GitHubProvider
from limner.http.auth.oauth_openid import OpenIdProvider
from limner.http.auth.oauth_providers import Asked, Person, Provider
from limner.http.call import Call
from limner.http.local_paths import START, local_path
from limner.http.problems import BadRequest
from limner.storage.sql.accounts import new_secret
from limner.storage.sql.identities import (
    AUTHORIZATION_LIFE_S,
    Authorization,
    begin_authorization,
    find_authorization,
    spend_authorization,
)

COOKIE = "limner_oauth"
SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
CODE_MAX_CHARACTERS = 4096
GOOGLE_ISSUER = "https://accounts.google.com"
LATER = frozenset({"temporarily_unavailable", "server_error"})
OWN_PREFIX = "/auth/"


@dataclass(frozen=True)
class Offer:
    """A button of the sign-in page; it leads to ``/auth/{name}/login?redirect=/path``."""

    name: str
    label: str


@dataclass(frozen=True)
class Begun:
    """A sign-in under way: where the browser is sent, and what its cookie holds."""

    url: str
    browser: str


@dataclass(frozen=True)
class Returned:
    """A sign-in that came back: who it is, and what it was begun for."""

    provider: Provider
    person: Person
    redirect: str
    linking_user_id: str | None


class CallbackQuery(BaseModel):
    """What the provider sends back with the browser (RFC 6749 section 4.1.2, RFC 9207)."""

    state: str = ""
    code: str = ""
    iss: str | None = None
    error: str = ""


def providers(settings: Settings) -> dict[str, Provider]:
    """Give the providers that are configured, by name."""
    given = settings.oauth
    found: list[Provider] = []
    if given.google_client_id:
        found.append(
            OpenIdProvider(
                name="google",
                label="Google",
                issuer=GOOGLE_ISSUER,
                client_id=given.google_client_id,
                client_secret=given.google_client_secret.get_secret_value(),
                settings="LIMNER_OAUTH__GOOGLE",
            )
        )
    if given.github_client_id:
        found.append(
            GitHubProvider(
                url=given.github_url.rstrip("/"),
                client_id=given.github_client_id,
                client_secret=given.github_client_secret.get_secret_value(),
            )
        )
    if given.oidc_issuer and given.oidc_client_id:
        found.append(
            OpenIdProvider(
                name="oidc",
                label=given.oidc_name,
                issuer=given.oidc_issuer,
                client_id=given.oidc_client_id,
                client_secret=given.oidc_client_secret.get_secret_value(),
                settings="LIMNER_OAUTH__OIDC",
            )
        )
    return {each.name: each for each in found}


def offered(settings: Settings) -> list[Offer]:
    """Give the buttons of the sign-in page."""
    return [Offer(each.name, each.label) for each in providers(settings).values()]


def provider_of(call: Call) -> Provider:
    """Give the provider that the path names.

    Raises:
        NotFound: there is none of this name, or it is not configured.
    """
    found = providers(call.front.settings).get(call.param("name"))
    if found is None:
        raise NotFound("There is no such way to sign in here")
    return found


def redirect_uri(call: Call, provider: Provider) -> str:
    """Give where the provider sends the browser back to; it must be registered there."""
    return call.url(f"{OWN_PREFIX}{provider.name}/callback")


def safe_redirect(wanted: str, default: str = START) -> str:
    """Give ``wanted`` if it is a path of ours, else ``default``.

    Never one that begins another sign-in: a provider that asks nothing more would send the browser
    round and round.
    """
    path = local_path(wanted, default)
    return default if path.startswith(OWN_PREFIX) else path


async def begin(call: Call, redirect: str, *, linking: bool) -> Begun:
    """Store a sign-in under way and give the provider's address for it.

    Raises:
        NotFound: no such provider.
        Transient: code ``provider_away``.
        ProviderFault: it cannot be used as it is, or as it is configured.
    """
    provider = provider_of(call)
    asked = Asked(new_secret(), new_secret(), new_secret(), redirect_uri(call, provider))
    # First: for a provider that is away nothing needs to be stored.
    url = await provider.authorization_url(call.front, asked)
    given = cookies.read(call.front, call.request, COOKIE) or ""
    # One cookie for all tabs of a browser, so that each can come back.
    browser = given if SECRET.fullmatch(given) else new_secret()
    ident = new_id("authorization")
    plain = json.dumps({"verifier": asked.verifier, "nonce": asked.nonce}).encode()
    work = call.work()
    begin_authorization(
        work,
        ident,
        provider.name,
        state=asked.state,
        browser=browser,
        sealed=call.front.sealer.seal(_purpose(ident), plain),
        redirect=redirect,
        linking_user_id=call.caller.id if linking else None,
    )
    await call.commit(work)
    return Begun(url, browser)


def put_cookie(call: Call, response: web.StreamResponse, begun: Begun) -> None:
    """Bind the sign-in under way to the browser that gets this answer.

    SameSite=Lax, because the provider's page leads back here by a link.
    """
    life_s = AUTHORIZATION_LIFE_S
    cookies.put(call.front, response, begun.browser, life_s=life_s, name=COOKIE)
    response.headers["Cache-Control"] = "no-store"


async def finish(call: Call, query: CallbackQuery) -> Returned:
    """Check what came back, use the sign-in up and find out who it is.

    Raises:
        NotFound: no such provider.
        BadRequest: ``oauth_state``: not begun in this browser, used, or too old; ``oauth_code``:
            the provider does not take the code; ``oauth_denied``: the person said no there.
        Forbidden: ``oauth_refused``: the answer cannot be trusted; ``oauth_other_account``: an
            identity is to be linked, but somebody else is signed in now.
        Transient, ProviderFault: the provider is away, or out of order.
    """
    provider = provider_of(call)
    row = await _found(call, provider, query.state)
    await _spend(call, row)
    if row.linking_user_id is not None and not _is_same_person(call, row.linking_user_id):
        raise Forbidden(
            "This was begun by another account. Sign in to that one and link it again",
            code="oauth_other_account",
        )
    await provider.check_issuer(call.front, query.iss)
    if query.error:
        raise _refusal(provider, query.error)
    if not 0 < len(query.code) <= CODE_MAX_CHARACTERS:
        raise BadRequest("There is no code in the answer. Begin again", code="oauth_code")
    person = await provider.person(call.front, query.code, _asked(call, provider, row))
    return Returned(provider, person, row.redirect, row.linking_user_id)


def _purpose(ident: str) -> str:
    return f"authorization:{ident}"


async def _found(call: Call, provider: Provider, state: str) -> Authorization:
    browser = cookies.read(call.front, call.request, COOKIE) or ""
    row = None
    if SECRET.fullmatch(state) and SECRET.fullmatch(browser):
        row = await find_authorization(state, browser, provider.name, call.now)
    if row is None:
        raise _lost()
    return row


def _lost() -> BadRequest:
    """Give the one answer to all that was not begun here and now; it says not which."""
    return BadRequest(
        "This sign-in was not begun in this browser, was used, or took longer than ten minutes. "
        "Begin again",
        code="oauth_state",
    )


async def _spend(call: Call, row: Authorization) -> None:
    work = call.work()
    spend_authorization(work, row)
    if await call.front.units.commit(work) is not Commit.DONE:
        raise _lost()


def _is_same_person(call: Call, user_id: str) -> bool:
    return call.caller.by_cookie and call.caller.id == user_id


def _refusal(provider: Provider, error: str) -> BadRequest | ProviderFault | Transient:
    """Give the error for an answer that is one (RFC 6749 section 4.1.2.1)."""
    if error in LATER:
        return away(provider.label)
    if error == "access_denied":
        return BadRequest(f"You were not signed in: {provider.label} said no", code="oauth_denied")
    return faulty(provider.label, f"it answers {shown(error)}")


def _asked(call: Call, provider: Provider, row: Authorization) -> Asked:
    """Open what was sealed when the sign-in was begun."""
    try:
        plain = json.loads(call.front.sealer.open(_purpose(row.id), row.sealed))
    except NotConfigured:
        # The secret key was changed in these ten minutes.
        raise _lost() from None
    return Asked("", plain["verifier"], plain["nonce"], redirect_uri(call, provider))

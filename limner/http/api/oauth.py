"""Signing in by an account elsewhere, and the accounts elsewhere that are linked to one's own."""

from datetime import datetime
from typing import Annotated

from aiohttp import hdrs, web
from pydantic import BaseModel, ConfigDict, Field
from yarl import URL

from limner.http.auth import oauth, oauth_accounts
from limner.http.auth.csrf import FORM_TYPE, read_form
from limner.http.auth.sessions import put_cookie
from limner.http.body import Form, read_json
from limner.http.call import Call
from limner.http.listing import Listing, Page, page_of, rows_of
from limner.http.pages.rendering import page
from limner.http.routes import OPEN, Result, Route
from limner.storage.sql.identities import Identity

ACCOUNT_PAGE = "/account/security"


class IdentityOut(BaseModel):
    """An account elsewhere that signs in to this one."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    provider: Annotated[str, Field(examples=["google"])]
    issuer: Annotated[str, Field(examples=["https://accounts.google.com"])]
    email: Annotated[str, Field(examples=["anna@example.com"])]
    created_at: datetime
    last_used_at: datetime | None


class LinkIn(Form):
    """Where to go after an identity was linked."""

    redirect: Annotated[str, Field(max_length=2000)] = ""


class LoginQuery(BaseModel):
    """``redirect`` is where to go afterwards, a path of ours; anything else counts as none."""

    redirect: Annotated[str, Field(examples=["/tasks"])] = ""


async def login(call: Call, query: LoginQuery) -> Result:
    """Send the browser to the provider."""
    begun = await oauth.begin(call, oauth.safe_redirect(query.redirect), linking=False)
    response = web.Response(status=302, headers={hdrs.LOCATION: begun.url})
    oauth.put_cookie(call, response, begun)
    return response


async def link(call: Call) -> Result:
    """Send the browser of who is signed in to the provider, to link an identity.

    A browser that sent a form is sent on by a page: our policy's ``form-action`` holds for
    redirects of a form too.
    """
    label = oauth.provider_of(call).label
    if call.request.content_type == FORM_TYPE:
        given = await read_form(call, LinkIn)
    else:
        given = await read_json(call.request, LinkIn, optional=True)
    oauth_accounts.check_recent(call)
    redirect = oauth.safe_redirect(given.redirect, ACCOUNT_PAGE)
    begun = await oauth.begin(call, redirect, linking=True)
    response: web.Response
    if "text/html" in call.request.headers.get(hdrs.ACCEPT, ""):
        response = await page(call, "leaving.html", label=label, url=begun.url)
        response.headers["Refresh"] = f"0; url={begun.url}"
    else:
        response = web.Response(status=303, headers={hdrs.LOCATION: begun.url})
    oauth.put_cookie(call, response, begun)
    return response


async def callback(call: Call, query: oauth.CallbackQuery) -> Result:
    """Take the browser back from the provider: sign in, or link."""
    returned = await oauth.finish(call, query)
    response = web.Response(
        status=303,
        headers={hdrs.LOCATION: str(URL(returned.redirect)), hdrs.CACHE_CONTROL: "no-store"},
    )
    if returned.linking_user_id is not None:
        await oauth_accounts.link(call, returned)
    else:
        put_cookie(call, response, await oauth_accounts.sign_in(call, returned))
    return response


async def listed(call: Call, query: Listing) -> Result:
    """List the caller's own."""
    rows = Identity.filter(user_id=call.caller.id)
    return page_of(call, query, await rows_of(rows, query), IdentityOut.model_validate)


async def unlink(call: Call) -> Result:
    """Remove one, unless nothing else signs in to the account."""
    await oauth_accounts.unlink(call, call.param("id"))
    return None


PROVIDER_FAULT = "The provider answers what it must not"

ROUTES = [
    Route(
        "GET",
        "/auth/{name}/login",
        login,
        "Send the browser to a provider to sign in there",
        OPEN,
        status=302,
        query=LoginQuery,
        has_head=False,
        also={502: PROVIDER_FAULT},
    ),
    Route(
        "GET",
        "/auth/{name}/callback",
        callback,
        "Take the browser back from a provider: signed in, or linked",
        OPEN,
        status=303,
        query=oauth.CallbackQuery,
        has_head=False,
        also={
            400: "The state is unknown, used, or another browser's; or there is no code",
            403: "The provider or the account does not allow it",
            409: "The address or the account elsewhere belongs to another account",
            502: PROVIDER_FAULT,
        },
    ),
    Route(
        "POST",
        "/auth/{name}/link",
        link,
        "Link an account elsewhere",
        "account:write",
        status=303,
        reads_body=False,
        also={200: "A page that sends the browser on", 502: PROVIDER_FAULT},
    ),
    Route(
        "GET",
        "/api/identities",
        listed,
        "List my accounts elsewhere",
        "account:read",
        answer=Page[IdentityOut],
        query=Listing,
    ),
    Route(
        "DELETE",
        "/api/identities/{id}",
        unlink,
        "Unlink an account elsewhere",
        "account:write",
        status=204,
    ),
]

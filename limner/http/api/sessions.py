"""Where somebody is signed in, signing in by a one-time link, and signing out."""

import re
from datetime import datetime
from typing import Literal

from aiohttp import web
from pydantic import BaseModel

from limner.core.errors import NotFound, Unauthenticated
from limner.core.unit import Commit
from limner.http.auth import cookies
from limner.http.auth.devices import device_of
from limner.http.auth.sessions import begin_web, put_cookie
from limner.http.call import Call
from limner.http.etags import tagged
from limner.http.listing import Listing, Page, page_of, rows_of
from limner.http.routes import ANY, OPEN, Result, Route
from limner.storage.sql.accounts import find_sign_in_link, spend_sign_in_link
from limner.storage.sql.sessions import (
    Session,
    living_sessions_of,
    revoke_session,
    revoke_sessions,
    session_lives,
)

TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


class SessionOut(BaseModel):
    """A browser (``web``) or a program (``token``) that is signed in."""

    id: str
    kind: Literal["web", "token"]
    current: bool
    device: str
    address: str
    signed_in_by: str
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime


async def listed(call: Call, query: Listing) -> Result:
    """List the caller's own that live."""
    living = living_sessions_of(call.caller.id, call.now)
    return page_of(call, query, await rows_of(living, query), lambda row: _shown(call, row))


def _shown(call: Call, row: Session) -> SessionOut:
    return SessionOut(
        id=row.id,
        kind="web" if row.kind == Session.WEB else "token",
        current=call.caller.session is not None and call.caller.session.id == row.id,
        device=device_of(row.user_agent),
        address=row.address,
        signed_in_by=row.signed_in_by,
        created_at=row.created_at,
        last_seen_at=row.last_seen_at,
        expires_at=min(row.expires_at, row.idle_until),
    )


async def _own(call: Call) -> Session:
    session = await Session.get_or_none(id=call.param("id"), user_id=call.caller.id)
    if session is None:
        raise NotFound("there is no such session")
    return session


async def show(call: Call) -> Result:
    """Show one of the caller's own that lives."""
    session = await _own(call)
    if not session_lives(session, call.now):
        raise NotFound("this session has ended")
    return tagged(call, _shown(call, session))


async def revoke(call: Call) -> Result:
    """End one of the caller's own; one that has ended before stays so."""
    session = await _own(call)
    if session.revoked_at is None:
        work = call.work()
        revoke_session(work, session, because="ended_by_owner")
        await call.commit(work)
    return None


async def revoke_others(call: Call) -> Result:
    """End all of the caller's own but the one that asks; a key ends all."""
    work = call.work()
    but = call.caller.session.id if call.caller.session else None
    revoke_sessions(work, call.caller.id, but=but, because="ended_by_owner")
    await call.commit(work)
    return None


async def sign_in(call: Call) -> Result:
    """Use a link up, begin a session and go to the tasks.

    The one GET that changes something: the link comes from the terminal or from a mail, and can be
    followed in no other way. It works once.
    """
    token = call.param("token")
    if not TOKEN.fullmatch(token):
        raise Unauthenticated("This sign-in link is not whole", code="link_expired")
    user, link = await find_sign_in_link(token, call.now)
    work = call.work()
    work.step(spend_sign_in_link(link, call.now))
    signed_in = begin_web(call, work, user, by="link")
    if await call.front.units.commit(work) is not Commit.DONE:
        raise Unauthenticated("This sign-in link was used or has expired", code="link_expired")
    response = web.Response(status=303, headers={"Location": "/tasks"})
    put_cookie(call, response, signed_in)
    return response


async def log_out(call: Call) -> Result:
    """End the session of the cookie or access token; an API key has none and stays."""
    session = call.caller.session
    if session is not None:
        work = call.work()
        revoke_session(work, session, because="signed_out")
        await call.commit(work)
    response = web.Response(status=204)
    cookies.clear(call.front, response)
    return response


ROUTES = [
    Route(
        "GET",
        "/sign-in/{token}",
        sign_in,
        "Sign in by a one-time link",
        OPEN,
        is_documented=False,
        has_head=False,
    ),
    Route("POST", "/api/auth/logout", log_out, "Sign out", ANY, status=204),
    Route(
        "GET",
        "/api/sessions",
        listed,
        "List where I am signed in",
        "account:read",
        answer=Page[SessionOut],
        query=Listing,
    ),
    Route(
        "DELETE",
        "/api/sessions",
        revoke_others,
        "Sign out everywhere else",
        "account:write",
        status=204,
    ),
    Route(
        "GET",
        "/api/sessions/{id}",
        show,
        "Show where I am signed in",
        "account:read",
        answer=SessionOut,
        is_tagged=True,
    ),
    Route(
        "DELETE",
        "/api/sessions/{id}",
        revoke,
        "End one of my sessions",
        "account:write",
        status=204,
    ),
]

"""Signing in by a one-time link, and signing out."""

import re

from aiohttp import web

from limner.core.errors import Unauthenticated
from limner.core.unit import Commit
from limner.http.auth import cookies
from limner.http.call import Call
from limner.http.routes import ANY, OPEN, Result, Route
from limner.storage.sql.accounts import find_sign_in_link, spend_sign_in_link

TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


async def sign_in(call: Call) -> Result:
    """Use a link up, set the cookie and go to the tasks."""
    token = call.param("token")
    if not TOKEN.fullmatch(token):
        raise Unauthenticated("This sign-in link is not whole", code="link_expired")
    user, link = await find_sign_in_link(token, call.now)
    work = call.work()
    work.actor_id = user.id
    work.step(spend_sign_in_link(link, call.now))
    work.audit("user.signed_in", subject=user.id, data={"by": "link"})
    if await call.front.units.commit(work) is not Commit.DONE:
        raise Unauthenticated("This sign-in link was used or has expired", code="link_expired")
    response = web.Response(status=303, headers={"Location": "/tasks"})
    cookies.put(call.front, response, user.id)
    return response


async def log_out(call: Call) -> Result:
    """Take the cookie back."""
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
]

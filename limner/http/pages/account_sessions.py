"""The page of where one is signed in."""

from limner.http.answers import content_of
from limner.http.api import sessions
from limner.http.auth.csrf import read_form
from limner.http.body import Form
from limner.http.call import Call
from limner.http.listing import Listing
from limner.http.pages.account_rooms import SESSIONS, RoomQuery, room, seen
from limner.http.pages.declared import READ, WRITE, posted_to, shown_at
from limner.http.routes import Result


async def listed(call: Call, query: RoomQuery) -> Result:
    """Show the sessions that live."""
    content = content_of(await sessions.listed(call, Listing(cursor=query.cursor)))
    return await room(
        call,
        "account_sessions.html",
        SESSIONS,
        done=query.done,
        sessions=content.data,
        more=content.next_cursor,
    )


async def end(call: Call) -> Result:
    """End one."""
    await read_form(call, Form)
    await sessions.revoke(call)
    return seen(SESSIONS, "session")


async def end_others(call: Call) -> Result:
    """End all but this one."""
    await read_form(call, Form)
    await sessions.revoke_others(call)
    return seen(SESSIONS, "sessions")


ROUTES = [
    shown_at(SESSIONS, listed, "Show my sessions", READ, query=RoomQuery),
    posted_to(f"{SESSIONS}/end-others", end_others, "End my other sessions", WRITE),
    posted_to(f"{SESSIONS}/{{id}}/end", end, "End one of my sessions", WRITE),
]

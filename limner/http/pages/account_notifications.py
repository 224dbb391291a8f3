"""The page of one's own notifications."""

from limner.http.answers import content_of
from limner.http.api import notifications
from limner.http.auth.csrf import read_form
from limner.http.body import Form
from limner.http.call import Call
from limner.http.pages.account_rooms import NOTIFICATIONS, RoomQuery, room, seen
from limner.http.pages.declared import READ, WRITE, posted_to, shown_at
from limner.http.pages.notices import told
from limner.http.routes import Result


async def listed(call: Call, query: RoomQuery) -> Result:
    """Show the notifications, newest first."""
    asked = notifications.NotificationQuery(cursor=query.cursor)
    content = content_of(await notifications.listed(call, asked))
    return await room(
        call,
        "account_notifications.html",
        NOTIFICATIONS,
        done=query.done,
        notifications=content.data,
        more=content.next_cursor,
        unread=content.unread,
        told=told,
    )


async def read(call: Call) -> Result:
    """Mark one as read."""
    await read_form(call, Form)
    await notifications.read(call, notifications.ReadIn(ids=[call.param("id")]))
    return seen(NOTIFICATIONS)


async def read_all(call: Call) -> Result:
    """Mark all as read."""
    await read_form(call, Form)
    await notifications.read_all(call)
    return seen(NOTIFICATIONS, "read")


ROUTES = [
    shown_at(NOTIFICATIONS, listed, "Show my notifications", READ, query=RoomQuery),
    posted_to(f"{NOTIFICATIONS}/read-all", read_all, "Mark all as read", WRITE),
    posted_to(f"{NOTIFICATIONS}/{{id}}/read", read, "Mark one as read", WRITE),
]

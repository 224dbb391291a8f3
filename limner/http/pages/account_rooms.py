"""What the pages of one's own account have in common: their list, and how they are answered."""

from typing import Any

from aiohttp import web

from limner.http.call import Call
from limner.http.listing import Cursor
from limner.http.pages.declared import PageQuery
from limner.http.pages.form_state import EMPTY, FormState
from limner.http.pages.rendering import form_page, see_other

PROFILE = "/account"
SECURITY = "/account/security"
SESSIONS = "/account/sessions"
KEYS = "/account/keys"
NOTIFICATIONS = "/account/notifications"
DATA = "/account/data"
ROOMS = (
    (PROFILE, "Profile"),
    (SECURITY, "Security"),
    (SESSIONS, "Sessions"),
    (KEYS, "API keys"),
    (NOTIFICATIONS, "Notifications"),
    (DATA, "Your data"),
)

DONE = {
    "confirmed": "Your address is confirmed.",
    "defaults": "Your choice for your own sources has been saved.",
    "email": "A link was sent to the new address. Open it to finish the change.",
    "factor-off": "The second factor has been taken away.",
    "identity": "This way to sign in has been removed.",
    "linked": "This way to sign in has been linked.",
    "password": "Your password has been changed, and every other session has ended.",
    "password-link": "A link to set a password was sent to your address.",
    "profile": "Your profile has been saved.",
    "read": "Nothing is unread.",
    "revoked": "The key has been revoked.",
    "session": "The session has ended.",
    "sessions": "All other sessions have ended.",
}
"""What may stand in ``?done=``, so that nobody else's sentence can be shown by a link."""


class RoomQuery(PageQuery):
    """The place in a list, and what has just been done."""

    done: str = ""
    cursor: Cursor | None = None


async def room(
    call: Call,
    template: str,
    place: str,
    form: FormState = EMPTY,
    *,
    done: str = "",
    **values: Any,
) -> web.Response:
    """Give one of the pages; ``place`` is its path in ``ROOMS``."""
    return await form_page(
        call, template, form, rooms=ROOMS, room=place, done=DONE.get(done, ""), **values
    )


def seen(path: str, done: str = "") -> web.Response:
    """Send the browser on to look at what has become of its form."""
    return see_other(f"{path}?done={done}" if done else path)

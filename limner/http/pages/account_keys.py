"""The page of one's own API keys."""

from datetime import timedelta

from aiohttp import web
from pydantic import ConfigDict

from limner.core.errors import Invalid, LimnerError
from limner.http.answers import content_of
from limner.http.api import keys
from limner.http.auth.csrf import read_form
from limner.http.body import Form
from limner.http.call import Call
from limner.http.listing import Listing
from limner.http.pages.account_rooms import KEYS, RoomQuery, room, seen
from limner.http.pages.declared import READ, WRITE, posted_to, shown_at
from limner.http.pages.form_state import EMPTY, FormState, fitted, refused
from limner.http.routes import Result
from limner.storage.sql.accounts import ADMIN

PREFIX = "scope."
NEVER = "0"
EXPIRIES = (("30", "in 30 days"), ("90", "in 90 days"), ("365", "in a year"), (NEVER, "never"))
WORDS = {
    "account:read": "See your account",
    "account:write": "Change your account",
    "admin": "Everything that you may",
    "audit:read": "Read the audit log",
    "generate:read": "See what was generated",
    "generate:write": "Generate pictures and videos",
    "mailbox:read": "Read the mailbox",
    "mailbox:write": "Empty the mailbox",
    "ops:read": "See how the service is",
    "ops:write": "Mend what has failed",
    "providers:read": "See providers",
    "providers:write": "Change providers",
    "settings:read": "See settings",
    "settings:write": "Change settings",
    "sources:read": "See sources and comments",
    "sources:write": "Change sources",
    "suppressions:read": "See who gets no mails",
    "suppressions:write": "Change who gets no mails",
    "tasks:read": "See tasks",
    "tasks:write": "Change tasks",
    "users:read": "See accounts",
    "users:write": "Change accounts",
}


class KeyForm(Form):
    """A new key: each scope is a checkbox of its own name."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = ""
    expires: str = NEVER

    @property
    def scopes(self) -> list[str]:
        """The scopes that were checked."""
        given = self.model_extra or {}
        return [name.removeprefix(PREFIX) for name in given if name.startswith(PREFIX)]


async def listed(call: Call, query: RoomQuery) -> Result:
    """Show the keys, and the form for a new one."""
    return await _room(call, cursor=query.cursor, done=query.done)


async def create(call: Call) -> Result:
    """Make a key and show it; there is no other page that could, so that this one is no 303."""
    typed = await read_form(call, KeyForm)
    try:
        made = await keys.create(call, _wanted(call, typed))
    except LimnerError as error:
        return await _room(call, refused(error, typed), chosen=typed.scopes)
    return await room(call, "account_key_made.html", KEYS, key=content_of(made))


def _wanted(call: Call, typed: KeyForm) -> keys.KeyIn:
    if not typed.scopes:
        raise Invalid("the key could do nothing", faults=[("/scopes", "choose at least one")])
    if typed.expires not in dict(EXPIRIES):
        raise Invalid("the key has no end", faults=[("/expires", "choose one of the list")])
    days = int(typed.expires)
    expires_at = call.now + timedelta(days=days) if days else None
    return fitted(keys.KeyIn, name=typed.name, scopes=typed.scopes, expires_at=expires_at)


async def revoke(call: Call) -> Result:
    """Revoke a key."""
    await read_form(call, Form)
    await keys.revoke(call)
    return seen(KEYS, "revoked")


def _offered(call: Call) -> list[str]:
    """Give what a new key can be allowed: everything at once first, then each thing."""
    return sorted(call.caller.scopes, key=lambda scope: (scope != ADMIN, scope))


async def _room(
    call: Call,
    form: FormState = EMPTY,
    *,
    chosen: list[str] | None = None,
    cursor: str | None = None,
    done: str = "",
) -> web.Response:
    content = content_of(await keys.listed(call, Listing(cursor=cursor)))
    return await room(
        call,
        "account_keys.html",
        KEYS,
        form,
        done=done,
        keys=content.data,
        more=content.next_cursor,
        scopes=[(scope, WORDS[scope]) for scope in _offered(call)],
        chosen=chosen or [],
        expiries=EXPIRIES,
        now=call.now,
    )


ROUTES = [
    shown_at(KEYS, listed, "Show my keys", READ, query=RoomQuery),
    posted_to(KEYS, create, "Make a key", WRITE),
    posted_to(f"{KEYS}/{{id}}/revoke", revoke, "Revoke a key", WRITE),
]

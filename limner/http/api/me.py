"""The caller's own account: shown, changed, exported, deleted."""

import asyncio
from datetime import datetime
from functools import cache
from typing import Annotated, Any
from zlib import crc32
from zoneinfo import available_timezones

from aiohttp import web
from pydantic import BaseModel, Field

from limner.actors.sweeper.messages import after_deletion
from limner.core.defaults import OwnDefaults
from limner.core.errors import Invalid
from limner.http.api.export import export
from limner.http.api.settings import check_providers
from limner.http.auth import cookies
from limner.http.auth.confirmation import confirm_identity
from limner.http.auth.fields import Language, Name, Password
from limner.http.body import Form
from limner.http.call import Call
from limner.http.etags import tagged
from limner.http.results import link_to_avatar, version_tag
from limner.http.routes import ANY, Result, Route
from limner.storage.sql.accounts import User, active_user
from limner.storage.sql.users import delete_user


class MeOut(BaseModel):
    """The caller's account; ``defaults`` are chosen for own sources in place of the settings.

    ``avatar_url`` is made anew at each read, and open without a login until it expires.
    """

    id: str
    email: str | None
    name: str
    role: str
    plan: str
    language: str
    timezone: str
    verified: bool
    has_password: bool
    totp_enabled: bool
    avatar_url: str | None
    defaults: dict[str, Any]
    scopes: list[str]
    created_at: datetime
    last_sign_in_at: datetime | None


class MePatch(Form):
    """What to change; null leaves a field as it is, and in ``defaults`` takes a value back."""

    name: Name | None = None
    language: Language | None = None
    timezone: Annotated[str, Field(max_length=64, examples=["Europe/Berlin"])] | None = None
    defaults: OwnDefaults | None = None


class Farewell(Form):
    """The account's password, if it has one."""

    password: Password | None = None


async def shown(call: Call, user: User) -> MeOut:
    """Give the caller's account as they see it, with what this credential may do."""
    return MeOut(
        id=user.id,
        email=user.email,
        name=user.name,
        role=user.role,
        plan=user.plan,
        language=user.language,
        timezone=user.timezone,
        verified=user.is_verified,
        has_password=user.has_password,
        totp_enabled=user.totp_enabled,
        avatar_url=await link_to_avatar(call, user),
        defaults=user.defaults,
        scopes=sorted(call.caller.scopes),
        created_at=user.created_at,
        last_sign_in_at=user.last_sign_in_at,
    )


async def show(call: Call) -> Result:
    """Show it."""
    user = await active_user(call.caller.id)
    # What may be done differs by credential, and by role.
    scopes = crc32(" ".join(sorted(call.caller.scopes)).encode())
    version = await version_tag(call, user.version, has_links=bool(user.avatar_key))
    return tagged(call, await shown(call, user), f"{version}-{scopes:x}")


async def patch(call: Call, body: MePatch) -> Result:
    """Change it."""
    await change(call, body)
    user = await active_user(call.caller.id)
    return await shown(call, user)


async def change(call: Call, body: MePatch) -> None:
    """Store what the caller chose.

    Raises:
        Invalid: a time zone or a provider that does not exist.
    """
    user = await active_user(call.caller.id)
    changes = body.model_dump(exclude_none=True, exclude={"defaults"})
    await _check_timezone(body.timezone)
    if body.defaults is not None:
        named = body.defaults.model_dump(mode="json", exclude_unset=True)
        await check_providers(named, "/defaults")
        merged = {**user.defaults, **named}
        changes["defaults"] = {name: one for name, one in merged.items() if one is not None}
    if not changes:
        return
    work = call.work()
    guard = {"version": user.version} if "defaults" in changes else {}
    # What was deleted meanwhile must not get a name again.
    work.change(user, guard={"state": "active", **guard}, **changes)
    work.audit("user.changed", subject=user.id, data={"fields": sorted(changes)})
    await call.commit(work)


async def _check_timezone(name: str | None) -> None:
    """Return if there is a time zone of this name.

    Raises:
        Invalid: there is none.
    """
    if name is not None and name != "UTC" and name not in await asyncio.to_thread(timezones):
        raise Invalid(
            "the account does not fit", faults=[("/timezone", "is no name of a time zone")]
        )


@cache
def timezones() -> frozenset[str]:
    """Give the names of all time zones (IANA), read from the disk once."""
    return frozenset(available_timezones())


async def delete(call: Call, body: Farewell) -> Result:
    """Delete it, for good."""
    await leave(call, body.password)
    response = web.Response(status=204)
    cookies.clear(call.front, response)
    return response


async def leave(call: Call, password: str | None) -> None:
    """Delete the caller's account, with sessions and keys; what it made goes soon after.

    Raises:
        LastAdmin: nobody else could administer the service.
        Forbidden: ``password_wrong``, or ``sign_in_again`` if there is no password to show.
        Invalid: the password is missing.
    """
    user = await active_user(call.caller.id)
    await confirm_identity(call, user, password)
    work = call.work()
    rest = after_deletion(user.id, user.confirmed_email, work.now)
    await delete_user(work, user, *rest, because="own_wish")
    await call.commit(work)


ROUTES = [
    Route("GET", "/api/me", show, "Show my account", ANY, answer=MeOut, is_tagged=True),
    Route(
        "PATCH",
        "/api/me",
        patch,
        "Change my account",
        "account:write",
        answer=MeOut,
        body=MePatch,
    ),
    Route(
        "DELETE",
        "/api/me",
        delete,
        "Delete my account and what it made",
        "account:write",
        status=204,
        body=Farewell,
        has_optional_body=True,
        also={409: "This is the last administrator"},
    ),
    Route(
        "POST",
        "/api/me/export",
        export,
        "Get what is kept of my account, as one JSON file",
        "account:read",
        media="application/json",
        has_head=False,
    ),
]

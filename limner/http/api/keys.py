"""API keys: made and revoked by whom they belong to; a key is shown once, when it is made."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from limner.core.errors import Forbidden, Invalid, NotFound
from limner.http.body import Form, Moment
from limner.http.call import Call
from limner.http.etags import tagged
from limner.http.listing import Listing, Page, page_of, rows_of
from limner.http.routes import Answer, Result, Route
from limner.storage.sql.accounts import ADMIN, ApiKey, active_user, create_key, revoke_key
from limner.storage.sql.notifications import notify

READ = "account:read"
WRITE = "account:write"


class KeyIn(Form):
    """A new key; it can do no more than whoever makes it."""

    name: Annotated[str, Field(max_length=200)] = ""
    scopes: Annotated[list[str], Field(min_length=1, max_length=50)]
    expires_at: Moment | None = None


class KeyOut(BaseModel):
    """What is known of a key; ``prefix`` is how it begins."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None


class KeyMade(KeyOut):
    """A new key with its secret, which is never shown again."""

    key: str


async def listed(call: Call, query: Listing) -> Result:
    """List the caller's own."""
    rows = ApiKey.filter(user_id=call.caller.id)
    return page_of(call, query, await rows_of(rows, query), KeyOut.model_validate)


async def create(call: Call, body: KeyIn) -> Result:
    """Make one."""
    user = await active_user(call.caller.id)
    if not set(body.scopes) <= call.caller.scopes and ADMIN not in call.caller.scopes:
        raise Forbidden("a key can do no more than whoever makes it")
    if body.expires_at is not None and body.expires_at <= call.now:
        raise Invalid("the key would be dead", faults=[("/expires_at", "is in the past")])
    expires_at = _end_of(call, body.expires_at)
    work = call.work()
    key, secret = create_key(work, user, body.scopes, body.name, expires_at)
    notify(work, user.id, "key.created", subject=key.id, data={"prefix": key.prefix})
    made = KeyMade(**KeyOut.model_validate(key).model_dump(), key=secret)
    location = {"Location": call.url(f"/api/keys/{key.id}")}
    return await call.answered(work, Answer(made, headers=location))


def _end_of(call: Call, wanted: datetime | None) -> datetime | None:
    """Give when the new key ends: not after a key that makes it.

    Raises:
        Invalid: a later end was asked for.
    """
    latest = call.caller.key.expires_at if call.caller.key else None
    if latest is None:
        return wanted
    if wanted is not None and wanted > latest:
        fault = f"is later than the end of the key that asks, {latest.isoformat()}"
        raise Invalid("the key would outlive its maker", faults=[("/expires_at", fault)])
    return wanted or latest


async def _own(call: Call) -> ApiKey:
    key = await ApiKey.get_or_none(id=call.param("id"), user_id=call.caller.id)
    if key is None:
        raise NotFound("there is no such key")
    return key


async def show(call: Call) -> Result:
    """Show one."""
    return tagged(call, KeyOut.model_validate(await _own(call)))


async def revoke(call: Call) -> Result:
    """Revoke one; a key that was revoked before stays so."""
    key = await _own(call)
    if key.revoked_at is None:
        work = call.work()
        revoke_key(work, key)
        await call.commit(work)
    return None


ROUTES = [
    Route("GET", "/api/keys", listed, "List my keys", READ, answer=Page[KeyOut], query=Listing),
    Route(
        "POST",
        "/api/keys",
        create,
        "Make a key",
        WRITE,
        answer=KeyMade,
        status=201,
        body=KeyIn,
        creates=True,
    ),
    Route(
        "GET",
        "/api/keys/{id}",
        show,
        "Show one of my keys",
        READ,
        answer=KeyOut,
        is_tagged=True,
    ),
    Route("DELETE", "/api/keys/{id}", revoke, "Revoke one of my keys", WRITE, status=204),
]

"""The picture of the caller's account: put in place of the former one, and taken away.

What is sent is never kept: a portrait is made of it elsewhere (``PortraitMaker``), and only that is
stored, under a key that nobody chose. The object is there before the account names it, and the
former one goes after; what a crash leaves between is found by the sweeper.
"""

from limner.core.errors import Conflict, EngineUnavailable
from limner.core.ids import uuid7_hex
from limner.core.logs import get_logger
from limner.http.api.me import MeOut, shown
from limner.http.body import read_raw
from limner.http.call import Call
from limner.http.limits import spend
from limner.http.problems import WrongType
from limner.http.routes import Result, Route
from limner.storage.sql.accounts import User, active_user
from limner.storage.sql.users import avatars_of

log = get_logger("http")

PATH = "/api/me/avatar"
TYPES = ("image/png", "image/jpeg", "image/webp")
LIMIT_BYTES = 1 << 20
PORTRAIT_TYPE = "image/png"
CHANGES_BURST = 10
CHANGES_PER_S = 1 / 30


async def put(call: Call) -> Result:
    """Make the body the account's picture and show the account."""
    if call.request.content_type not in TYPES:
        raise WrongType(f"send the picture as {', '.join(TYPES)}")
    user = await active_user(call.caller.id)
    await spend(
        call.request, f"avatar:{user.id}", CHANGES_PER_S, CHANGES_BURST, "too many pictures"
    )
    picture = await read_raw(call.request, LIMIT_BYTES)
    portrait = await call.front.portraits.make(picture)
    key = f"{avatars_of(user.id)}{uuid7_hex()}.png"
    await call.front.objects.put(key, portrait, PORTRAIT_TYPE, size_limit_bytes=LIMIT_BYTES)
    try:
        await _change(call, user, key)
    except Conflict:
        await _drop(call, key)
        raise
    return await shown(call, await active_user(user.id))


async def remove(call: Call) -> Result:
    """Take the picture away; that there is none is fine."""
    user = await active_user(call.caller.id)
    if user.avatar_key:
        await _change(call, user, "")
    return None


async def _change(call: Call, user: User, key: str) -> None:
    """Make ``key`` the account's picture in place of the one that ``user`` names.

    Raises:
        Conflict: somebody else was faster, or the account is no longer active.
    """
    work = call.work()
    work.change(user, guard={"state": "active", "avatar_key": user.avatar_key}, avatar_key=key)
    work.audit("user.avatar_changed", subject=user.id, data={"has_avatar": bool(key)})
    await call.commit(work)
    if user.avatar_key:
        await _drop(call, user.avatar_key)


async def _drop(call: Call, key: str) -> None:
    """Delete an object that nothing names; if that fails, the sweeper does."""
    try:
        await call.front.objects.delete(key)
    except EngineUnavailable as error:
        log.warning("a picture is left to the sweeper", key=key, error=error.detail)


ROUTES = [
    Route(
        "PUT",
        PATH,
        put,
        "Set my picture",
        "account:write",
        answer=MeOut,
        reads_body=False,
        takes=TYPES,
        also={
            409: "The picture was changed at the same time",
            415: f"none of {', '.join(TYPES)}",
            422: "no picture that can be read, or one of more than 24 megapixels",
        },
    ),
    Route(
        "DELETE",
        PATH,
        remove,
        "Take my picture away",
        "account:write",
        status=204,
        also={409: "The picture was changed at the same time"},
    ),
]

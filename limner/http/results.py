"""Links to results: signed anew at each read, open without a login until they expire."""

import math

from limner.http.call import Call
from limner.storage.sql.accounts import User
from limner.storage.sql.tasks import Task

SUFFIXES = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/gif": "gif",
    "image/webp": "webp",
    "image/avif": "avif",
    "video/mp4": "mp4",
    "video/webm": "webm",
}


async def link_ttl_s(call: Call) -> int:
    """Give how long a link lives, in seconds."""
    return (await call.front.tunables.current()).result_link_ttl_s


async def link_to_result(call: Call, task: Task) -> str | None:
    """Give a fresh link to a task's result, or None if it has none yet."""
    if not task.result_key:
        return None
    return await link_to(call, task.result_key, f"{task.id}.{suffix_of(task.result_type)}")


async def link_to(call: Call, key: str, filename: str | None = None) -> str:
    """Give a fresh link to an object."""
    ttl_s = await link_ttl_s(call)
    return await call.front.objects.presign("GET", key, ttl_s, filename=filename)


async def link_to_avatar(call: Call, user: User) -> str | None:
    """Give a fresh link to an account's picture, or None if it has none."""
    return await link_to(call, user.avatar_key) if user.avatar_key else None


def suffix_of(content_type: str) -> str:
    """Give the usual ending of a file name."""
    return SUFFIXES.get(content_type, "bin")


async def tag_of(call: Call, task: Task) -> str:
    """Give what names this version of a task to caches."""
    return await version_tag(call, task.version, has_links=bool(task.result_key))


async def version_tag(call: Call, version: int, *, has_links: bool) -> str:
    """Give what names this version of an object to caches.

    With links that expire the time counts too, in halves of a link's life: who is told that
    nothing has changed still holds a link that works.
    """
    if not has_links:
        return str(version)
    half_s = await link_ttl_s(call) / 2
    return f"{version}-{math.floor(call.now.timestamp() / half_s)}"

"""Entity tags: who has seen an object's newest version need not be sent it again (RFC 9110)."""

import hashlib
from collections.abc import Mapping

from aiohttp import hdrs, web
from aiohttp.helpers import ETag
from pydantic import BaseModel

from limner.http.call import Call
from limner.http.routes import Answer


def tagged(
    call: Call,
    content: BaseModel,
    version: object = None,
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer | web.Response:
    """Give the object with a weak tag for its version, or 304 if the client has that one.

    The version of what has no counter of changes is a digest of what is shown. ``headers`` are
    those that come with the object.
    """
    if version is None:
        version = digest_of(content)
    tag = f'W/"{version}"'
    if status is None and holds(call.request, str(version)):
        return web.Response(status=304, headers={hdrs.ETAG: tag})
    return Answer(content, status=status, headers={hdrs.ETAG: tag, **(headers or {})})


def digest_of(content: BaseModel) -> str:
    """Give 128 bits of the SHA-256 of an object as it is shown, as hex digits."""
    shown = content.model_dump_json(by_alias=True).encode(errors="replace")
    return hashlib.sha256(shown).hexdigest()[:32]


def holds(request: web.Request, version: str) -> bool:
    """Whether If-None-Match names the version; compared weakly (section 13.1.2)."""
    return any(_names(tag, version) for tag in request.if_none_match or ())


def _names(tag: ETag, version: str) -> bool:
    return tag.value in {version, "*"}

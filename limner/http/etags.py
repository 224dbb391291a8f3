"""Entity tags: who has seen an object's newest version need not be sent it again (RFC 9110)."""

from aiohttp import hdrs, web
from aiohttp.helpers import ETag
from pydantic import BaseModel

from limner.http.call import Call
from limner.http.routes import Answer


def tagged(
    call: Call, content: BaseModel, version: object, *, status: int | None = None
) -> Answer | web.Response:
    """Give the object with a weak tag for its version, or 304 if the client has that one."""
    tag = f'W/"{version}"'
    if status is None and holds(call.request, str(version)):
        return web.Response(status=304, headers={hdrs.ETAG: tag})
    return Answer(content, status=status, headers={hdrs.ETAG: tag})


def holds(request: web.Request, version: str) -> bool:
    """Whether If-None-Match names the version; compared weakly (section 13.1.2)."""
    return any(_names(tag, version) for tag in request.if_none_match or ())


def _names(tag: ETag, version: str) -> bool:
    return tag.value in {version, "*"}

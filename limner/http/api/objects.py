"""Objects over signed links: reading with ranges, and writing once (RFC 9110 section 14)."""

import re
from collections.abc import AsyncIterator
from email.utils import formatdate

from aiohttp import hdrs, web

from limner.core.errors import Forbidden, Invalid, NotFound
from limner.core.objects import ObjectInfo, content_disposition
from limner.core.signing import Grant, SignedAccess
from limner.http.call import Call
from limner.http.headers import MEDIA_POLICY
from limner.http.routes import OPEN, Result, Route

RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
INLINE_TYPES = frozenset(
    {
        "image/png",
        "image/jpeg",
        "image/gif",
        "image/webp",
        "image/avif",
        "video/mp4",
        "video/webm",
        "audio/mpeg",
        "audio/ogg",
        "audio/wav",
    }
)
"""Whatever else users bring is downloaded, never shown under our origin."""


async def read(call: Call) -> Result:
    """Give an object, or one range of it."""
    grant, _ = _opened(call)
    info = await call.front.objects.stat(grant.key)
    tag = etag_of(info)
    headers = _headers(call, grant, info, tag)
    if any(given.value in {tag, "*"} for given in call.request.if_none_match or ()):
        return web.Response(status=304, headers={hdrs.ETAG: headers[hdrs.ETAG]})
    asked = _range(call.request, info, tag)
    if asked is None:
        return await _send(call, grant.key, headers, 200, 0, info.size_bytes)
    start, end = asked
    headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{end - 1}/{info.size_bytes}"
    return await _send(call, grant.key, headers, 206, start, end)


def _opened(call: Call) -> tuple[Grant, SignedAccess]:
    """Check the link.

    Raises:
        NotFound: the store serves its own links, none of ours.
        Forbidden: it does not allow this.
    """
    access = call.front.signed_objects
    if access is None:
        raise NotFound("there is nothing here")
    request = call.request
    grant = access.verify_request(
        request.method,
        call.param("key"),
        request.query,
        request.headers.get(hdrs.CONTENT_TYPE),
        request.content_length,
        call.now,
    )
    return grant, access


def etag_of(info: ObjectInfo) -> str:
    """Give the tag of an object's bytes."""
    return info.sha256 or f"{info.size_bytes:x}-{int(info.modified_at.timestamp() * 1e6):x}"


def _headers(call: Call, grant: Grant, info: ObjectInfo, tag: str) -> dict[str, str]:
    content_type = grant.content_type or info.content_type
    plain = content_type.partition(";")[0].strip().lower()
    inline = grant.inline and plain in INLINE_TYPES
    left_s = max(0, int((grant.expires_at - call.now).total_seconds()))
    return {
        hdrs.CONTENT_TYPE: content_type if plain in INLINE_TYPES else "application/octet-stream",
        hdrs.CONTENT_DISPOSITION: content_disposition(grant.filename, inline=inline),
        "Content-Security-Policy": MEDIA_POLICY,
        hdrs.ETAG: f'"{tag}"',
        hdrs.LAST_MODIFIED: formatdate(info.modified_at.timestamp(), usegmt=True),
        hdrs.ACCEPT_RANGES: "bytes",
        hdrs.CACHE_CONTROL: f"private, max-age={left_s}",
        "Cross-Origin-Resource-Policy": "cross-origin",
    }


def _range(request: web.Request, info: ObjectInfo, tag: str) -> tuple[int, int] | None:
    """Give the one range that is asked for, end not included, or None for the whole.

    Several ranges, other units and what is no range are ignored, as the RFC allows.

    Raises:
        Invalid: code ``range_not_satisfiable``.
    """
    condition = request.headers.get(hdrs.IF_RANGE)
    match = RANGE.fullmatch(request.headers.get(hdrs.RANGE, "").strip())
    if match is None or (condition is not None and condition != f'"{tag}"'):
        return None
    first, last = match.groups()
    size = info.size_bytes
    if first:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    elif last:
        start, end = max(0, size - int(last)), size
    else:
        return None
    if start >= end:
        raise Invalid(f"the object has {size} bytes", code="range_not_satisfiable")
    return start, end


async def _send(
    call: Call, key: str, headers: dict[str, str], status: int, start: int, end: int
) -> web.StreamResponse:
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = end - start
    if call.request.method == "HEAD" or start == end:
        await response.prepare(call.request)
        await response.write_eof()
        return response
    async with call.front.objects.get(key, start=start, end=end) as reading:
        if f'"{etag_of(reading.info)}"' != headers[hdrs.ETAG]:
            # Replaced since it was described: the client asks again and gets the new one.
            raise NotFound("the object has just been replaced")
        await response.prepare(call.request)
        async for chunk in reading.chunks:
            await response.write(chunk)
    await response.write_eof()
    return response


async def write(call: Call) -> Result:
    """Store the body of a signed PUT, once."""
    if call.request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise Forbidden("the link is for the bytes as they are")
    grant, access = _opened(call)
    info = await access.receive(grant, _chunks(call.request))
    return web.Response(status=200, headers={hdrs.ETAG: f'"{etag_of(info)}"'})


async def _chunks(request: web.Request) -> AsyncIterator[bytes]:
    async for chunk in request.content.iter_any():
        yield chunk


ROUTES = [
    Route("GET", "/o/{key:.+}", read, "Read an object", OPEN, is_documented=False),
    Route(
        "PUT",
        "/o/{key:.+}",
        write,
        "Store an object",
        OPEN,
        is_documented=False,
        reads_body=False,
    ),
]

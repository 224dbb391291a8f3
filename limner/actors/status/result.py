"""Results: fetches what a provider made into the object store, if it is a picture or a video."""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

from limner.core.answers import Stream, media_limits
from limner.core.errors import Permanent, Transient
from limner.core.objects import ObjectStore
from limner.core.outgoing import Outgoing

REDIRECTS = 5
HEAD_BYTES = 64

# Too busy, or not there yet: networks that hand out files lag behind those that write them.
_LATER = frozenset({404, 408, 425, 429})

_MP4_BRANDS = re.compile(rb"isom|iso[2-9]|mp4[12]|avc1|M4V[ HP]|dash|msdh|MSNV")
_BRANDS_AT = 8


@dataclass(frozen=True, slots=True)
class Media:
    """A content type and the ending of its files."""

    content_type: str
    ending: str


PNG = Media("image/png", "png")
JPEG = Media("image/jpeg", "jpg")
GIF = Media("image/gif", "gif")
WEBP = Media("image/webp", "webp")
AVIF = Media("image/avif", "avif")
MP4 = Media("video/mp4", "mp4")
WEBM = Media("video/webm", "webm")


@dataclass(frozen=True, slots=True)
class Result:
    """A result in the object store."""

    key: str
    content_type: str


def sniff(head: bytes) -> Media | None:
    """Say what the first bytes of a file make it, whatever its sender calls it.

    Signatures of the WHATWG MIME Sniffing standard (section 6); the brands of AVIF and MP4 are in
    the ftyp box (ISO/IEC 14496-12 section 4.3), WebM's name is in the EBML header (RFC 8794).
    """
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return PNG
    if head.startswith(b"\xff\xd8\xff"):
        return JPEG
    if head.startswith((b"GIF87a", b"GIF89a")):
        return GIF
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WEBP
    if head[4:8] == b"ftyp":
        return _by_brand(head)
    if head.startswith(b"\x1a\x45\xdf\xa3") and b"webm" in head[:HEAD_BYTES]:
        return WEBM
    return None


def _by_brand(head: bytes) -> Media | None:
    """Take the major brand, or else the first compatible one that we know."""
    end = min(int.from_bytes(head[:4], "big"), len(head), HEAD_BYTES)
    for place in (_BRANDS_AT, *range(_BRANDS_AT + 8, end - 3, 4)):
        brand = head[place : place + 4]
        if brand in {b"avif", b"avis"}:
            return AVIF
        if _MP4_BRANDS.fullmatch(brand):
            return MP4
    return None


async def fetch(
    url: str, stem: str, *, outgoing: Outgoing, objects: ObjectStore, max_bytes: int
) -> Result:
    """Store what ``url`` gives under ``stem`` and the ending of what it is.

    Raises:
        Transient: it cannot be had now.
        Permanent: it is too large, no picture or video, gone, or at an address that is refused.
    """
    async with outgoing.stream(url, limits=media_limits(max_bytes), redirects=REDIRECTS) as stream:
        _judge(stream)
        # What is left unread must be closed here, and not whenever it is collected.
        async with aclosing(cast("AsyncGenerator[bytes, None]", stream.chunks())) as chunks:
            head = b""
            async for chunk in chunks:
                head += chunk
                if len(head) >= HEAD_BYTES:
                    break
            media = sniff(head)
            if media is None:
                raise Permanent("the result is no picture or video", code="result_type")
            key = f"{stem}.{media.ending}"
            await objects.put(
                key, _joined(head, chunks), media.content_type, size_limit_bytes=max_bytes
            )
    return Result(key, media.content_type)


def _judge(stream: Stream) -> None:
    status = stream.status
    if status in _LATER or status >= 500:
        raise Transient(f"the result's address answered {status}")
    if status != 200:
        raise Permanent(f"the result's address answered {status}", code="result_missing")


async def _joined(head: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield head
    async for chunk in rest:
        yield chunk

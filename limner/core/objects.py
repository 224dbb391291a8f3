"""PORT: the object store, where pictures, uploads and everything else that is big lies.

A store maps keys to immutable-looking byte strings with a content type. Adapters live in
``limner/storage/objects``: ``local`` (``file://``) and ``s3`` (``s3://``); both pass
``tests/contracts/test_object_store.py``. The rules that must be the same everywhere (what a key
is, how long a link may live, what a range means) are functions here, and every adapter calls them.
"""

import re
import unicodedata
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, runtime_checkable
from urllib.parse import quote

from limner.core.errors import Invalid
from limner.core.failpoints import declare

PUT = declare("objects.put")
DELETE = declare("objects.delete")

Method = Literal["GET", "PUT"]

KEY_MAX_CHARACTERS = 512
SEGMENT_MAX_CHARACTERS = 200
CONTENT_TYPE_MAX_CHARACTERS = 255
FILENAME_MAX_CHARACTERS = 255
LIST_MAX = 1000
GET_MAX_S = 7 * 24 * 3600
PUT_MAX_S = 15 * 60
PUT_MAX_BYTES = 5 * 1024**3
"""The largest body of one PUT that S3 takes; longer ones go in parts."""

_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
_PREFIX = re.compile(r"[A-Za-z0-9._/-]*")
_CONTENT_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+( *;[ -~]*)?")
# Marks that turn the reading direction: "exe.gnp" must not be shown as "png.exe".
_DIRECTION_MARKS = frozenset(
    "\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store knows of one object.

    ``sha256`` is 64 hex digits. It is always there in what ``put`` gives back; ``stat`` and ``get``
    give ``None`` where the bytes went to the store without passing through Limner.
    """

    key: str
    size_bytes: int
    content_type: str
    sha256: str | None
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class ObjectEntry:
    """One line of a listing."""

    key: str
    size_bytes: int
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class Reading:
    """An object that is open for reading: bytes ``start`` to ``end``, the end not included."""

    info: ObjectInfo
    start: int
    end: int
    chunks: AsyncIterator[bytes]


@runtime_checkable
class SweepsTemporary(Protocol):
    """A store that a crash can leave with unfinished files."""

    async def sweep_temporary(self, older_than_s: float) -> int:
        """Remove what nothing was written to for so many seconds and give the number."""
        ...


class ObjectStore(Protocol):
    """Keeps objects under keys.

    Every call raises ``EngineUnavailable`` when the store cannot be reached, is full or read-only,
    and ``Invalid`` when a key or another argument breaks the rules of this module; that is checked
    before anything is touched. Calls on different keys do not wait for each other. Two writers of
    one key: the one that finishes last wins, whole.
    """

    async def put(
        self,
        key: str,
        data: bytes | AsyncIterator[bytes],
        content_type: str,
        *,
        size_limit_bytes: int,
    ) -> ObjectInfo:
        """Store an object, whole or not at all, in place of what was there.

        Until the call returns, readers see the former object or none; after it returned, the
        object survives a crash of the process and of the machine. ``data`` is read once, at the
        pace of the store, and an error that it raises comes out as it is.

        Args:
            key: where to; see ``validate_key``.
            data: the bytes, or an iterator of chunks of any length.
            content_type: kept with the object.
            size_limit_bytes: how long the object may be at most.

        Returns:
            What was stored, with its SHA-256.

        Raises:
            TooLarge: ``data`` is longer than the limit; nothing was stored.
        """
        ...

    def get(
        self, key: str, *, start: int = 0, end: int | None = None
    ) -> AbstractAsyncContextManager[Reading]:
        """Open an object, or bytes ``start`` to ``end`` (not included) of it, for reading.

        ``end`` beyond the object means its end. The reading goes on with the object that was
        opened, even if it is replaced or deleted meanwhile. ``info`` describes the whole object.

        Raises:
            NotFound: no such object.
            Invalid: code ``range_not_satisfiable``, if ``start`` is at or beyond the end of an
                object (0 in an empty one is fine), or the range is empty or negative.
        """
        ...

    async def read(self, key: str, limit_bytes: int) -> bytes:
        """Give a whole object.

        Raises:
            NotFound: no such object.
            TooLarge: it is longer than ``limit_bytes``; it was not read.
        """
        ...

    async def stat(self, key: str) -> ObjectInfo:
        """Describe an object.

        Raises:
            NotFound: no such object.
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove an object; that there is none is fine."""
        ...

    async def list(
        self, prefix: str = "", *, after: str | None = None, limit: int = LIST_MAX
    ) -> Sequence[ObjectEntry]:
        """List objects whose keys begin with ``prefix``, in ascending byte order of their keys.

        The next page begins ``after`` the last key of this one; ``limit`` is 1 to ``LIST_MAX``. A
        page that is shorter than ``limit`` is the last. An object that is there all the time is
        never skipped, whatever comes and goes around it.
        """
        ...

    async def presign(
        self,
        method: Method,
        key: str,
        expires_s: int,
        *,
        content_type: str | None = None,
        size_bytes: int | None = None,
        filename: str | None = None,
        inline: bool = True,
    ) -> str:
        """Sign a URL that allows one method on one key until it expires, without a login.

        GET (at most 7 days): ``content_type`` overrides the stored one; ``filename`` and
        ``inline`` become the answer's Content-Disposition. The object need not be there yet.

        PUT (at most 15 minutes): ``content_type`` and ``size_bytes`` are needed; the request must
        carry exactly this Content-Type and Content-Length.
        """
        ...

    async def check(self) -> None:
        """Find out whether objects can be read and written now.

        Raises:
            EngineUnavailable: they cannot; the sentence says why.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections; closing twice is fine."""
        ...


def validate_key(key: str) -> str:
    """Give ``key`` back if it is one: segments of ``[A-Za-z0-9._-]`` parted by single slashes.

    At most 512 characters, 200 in a segment (so that file systems can hold it), and no segment
    is ``.`` or ``..``. Keys are made by us; a name that a user chose never becomes part of one.

    Raises:
        Invalid: it is none.
    """
    if len(key) > KEY_MAX_CHARACTERS:
        raise Invalid(f"An object key has at most {KEY_MAX_CHARACTERS} characters")
    for segment in key.split("/"):
        if segment in {".", ".."} or not _SEGMENT.fullmatch(segment):
            raise Invalid(f"{key!r} is no object key")
        if len(segment) > SEGMENT_MAX_CHARACTERS:
            raise Invalid(f"A segment of a key has at most {SEGMENT_MAX_CHARACTERS} characters")
    return key


def validate_listing(prefix: str, after: str | None, limit: int) -> None:
    """Check the arguments of ``ObjectStore.list``.

    Raises:
        Invalid: a character that no key has, too long, or a limit outside 1 to ``LIST_MAX``.
    """
    for text in (prefix, after or ""):
        if len(text) > KEY_MAX_CHARACTERS or not _PREFIX.fullmatch(text):
            raise Invalid("A listing's prefix and start are beginnings of keys")
    if not 1 <= limit <= LIST_MAX:
        raise Invalid(f"A listing has 1 to {LIST_MAX} entries")


def validate_content_type(content_type: str) -> str:
    """Give ``content_type`` back if it is ``type/subtype``, with parameters or without.

    Raises:
        Invalid: it is not, or over 255 characters (RFC 9110 section 8.3 gives the form).
    """
    too_long = len(content_type) > CONTENT_TYPE_MAX_CHARACTERS
    if too_long or not _CONTENT_TYPE.fullmatch(content_type):
        raise Invalid("A content type has the form type/subtype")
    return content_type


def validate_presign(
    method: Method,
    key: str,
    expires_s: int,
    *,
    content_type: str | None,
    size_bytes: int | None,
    filename: str | None,
) -> None:
    """Check the arguments of ``ObjectStore.presign``.

    Raises:
        Invalid: the link would live too long or not at all, allow too much, or say two things.
    """
    validate_key(key)
    longest_s = GET_MAX_S if method == "GET" else PUT_MAX_S
    if not 1 <= expires_s <= longest_s:
        raise Invalid(f"A signed {method} lives 1 to {longest_s} seconds")
    if content_type is not None:
        validate_content_type(content_type)
    if method == "PUT":
        if content_type is None or size_bytes is None or filename is not None:
            raise Invalid("A signed PUT names its content type and its size, and no file name")
        if not 0 <= size_bytes <= PUT_MAX_BYTES:
            raise Invalid(f"A signed PUT carries 0 to {PUT_MAX_BYTES} bytes")
    elif size_bytes is not None:
        raise Invalid("A signed GET names no size")
    if filename is not None and not 1 <= len(filename) <= FILENAME_MAX_CHARACTERS:
        raise Invalid(f"A file name has 1 to {FILENAME_MAX_CHARACTERS} characters")


def clip_range(size_bytes: int, start: int, end: int | None) -> tuple[int, int]:
    """Give the part of an object that ``start`` and ``end`` (not included) mean.

    Raises:
        Invalid: code ``range_not_satisfiable``; see ``ObjectStore.get``.
    """
    empty = end is not None and end <= start
    outside = start < 0 or (start >= size_bytes and start > 0)
    if empty or outside:
        raise Invalid(
            f"The object has {size_bytes} bytes; it has no such range",
            code="range_not_satisfiable",
        )
    return start, size_bytes if end is None else min(end, size_bytes)


def content_disposition(filename: str | None, *, inline: bool) -> str:
    """Give the Content-Disposition header for a file name of any origin (RFC 6266, RFC 8187).

    The plain form is ASCII for old clients, the extended one UTF-8. Control characters, slashes,
    lone surrogates and marks that turn the reading direction become ``_``.
    """
    kind = "inline" if inline else "attachment"
    if filename is None:
        return kind
    name = "".join("_" if _is_unsafe(character) else character for character in filename)
    plain = "".join(c if c.isascii() and c not in '"%' else "_" for c in name)
    if plain == name:
        return f'{kind}; filename="{plain}"'
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _is_unsafe(character: str) -> bool:
    return (
        character in "/\\"
        or character in _DIRECTION_MARKS
        or unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}
    )

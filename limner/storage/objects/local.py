"""The object store in a folder (``file://``): nothing to install, and durable.

Links are signed by us and lead to our own front at ``/o/{key}``; see ``SignedAccess``.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import ParamSpec, TypeVar
from urllib.parse import unquote, urlsplit

from limner.core.clock import Clock
from limner.core.errors import EngineUnavailable, Forbidden, Invalid
from limner.core.failpoints import step
from limner.core.objects import (
    DELETE,
    LIST_MAX,
    PUT,
    PUT_MAX_S,
    Method,
    ObjectEntry,
    ObjectInfo,
    Reading,
    clip_range,
    validate_content_type,
    validate_key,
    validate_listing,
    validate_presign,
)
from limner.core.signing import Grant, Signer
from limner.storage.objects.folder import READ_BYTES, Folder, Incoming, Opened

MIN_FREE_BYTES = 64 * 1024 * 1024
WRITE_BYTES = 256 * 1024


P = ParamSpec("P")
R = TypeVar("R")


class LocalObjects:
    """Objects in a folder of this machine; all disk work runs in threads.

    Several processes of one machine can share the folder.

    Args:
        root: the folder; made when first needed.
        signer: signs the links.
        public_url: what links begin with, without ``/o``.
        clock: the time that links and sweeps go by.
        min_free_bytes: what writes leave free on the disk.
    """

    def __init__(
        self,
        root: Path,
        signer: Signer,
        public_url: str,
        clock: Clock,
        *,
        min_free_bytes: int = MIN_FREE_BYTES,
    ) -> None:
        self._folder = Folder(root, min_free_bytes)
        self._signer = signer
        self._public_url = public_url
        self._clock = clock

    async def put(
        self,
        key: str,
        data: bytes | AsyncIterator[bytes],
        content_type: str,
        *,
        size_limit_bytes: int,
    ) -> ObjectInfo:
        """Store an object."""
        if isinstance(data, bytes):
            return await self._put_whole(key, data, content_type, size_limit_bytes)
        return await self._put(key, data, content_type, size_limit_bytes, _proceed)

    @asynccontextmanager
    async def get(
        self, key: str, *, start: int = 0, end: int | None = None
    ) -> AsyncIterator[Reading]:
        """Open an object for reading."""
        async with self._opened(key) as (opened, info):
            start, end = clip_range(info.size_bytes, start, end)
            async with aclosing(_chunks(opened, start, end)) as chunks:
                yield Reading(info, start, end, chunks)

    async def read(self, key: str, limit_bytes: int) -> bytes:
        """Give a whole object."""
        opened = Opened(self._folder.path_of(validate_key(key)), key)
        return await _on_disk(opened.read_whole, limit_bytes)

    async def stat(self, key: str) -> ObjectInfo:
        """Describe an object."""
        opened = Opened(self._folder.path_of(validate_key(key)), key)
        return await _on_disk(opened.describe)

    async def delete(self, key: str) -> None:
        """Remove an object."""
        validate_key(key)
        async with step(DELETE):
            await _on_disk(self._folder.remove, key)

    async def list(
        self, prefix: str = "", *, after: str | None = None, limit: int = LIST_MAX
    ) -> Sequence[ObjectEntry]:
        """List objects."""
        validate_listing(prefix, after, limit)
        return await _on_disk(self._folder.entries, prefix, after or "", limit)

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
        """Sign a URL."""
        validate_presign(
            method,
            key,
            expires_s,
            content_type=content_type,
            size_bytes=size_bytes,
            filename=filename,
        )
        return self._signer.sign_url(
            self._public_url,
            method,
            key,
            expires_at=self._clock.now() + timedelta(seconds=expires_s),
            content_type=content_type,
            size_bytes=size_bytes,
            filename=filename,
            inline=inline,
        )

    def verify_request(
        self,
        method: str,
        path_key: str,
        query: Mapping[str, str],
        content_type: str | None,
        content_length: int | None,
        now: datetime,
    ) -> Grant:
        """Give what a link allows."""
        return self._signer.verify_request(
            method, path_key, query, content_type, content_length, now
        )

    async def receive(self, grant: Grant, body: AsyncIterator[bytes]) -> ObjectInfo:
        """Store the body of a signed PUT, once."""
        if grant.method != "PUT" or grant.content_type is None or grant.size_bytes is None:
            raise Forbidden("This link is for reading")
        if await _on_disk(self._folder.is_spent, grant.id):
            raise _used()

        async def redeem(size_bytes: int) -> None:
            if size_bytes != grant.size_bytes:
                raise Invalid(f"The link is for {grant.size_bytes} bytes; {size_bytes} came")
            # Spent as late as possible, so that an upload that broke off can be tried again, but
            # before the object is visible: a crash between costs the client a new link at most.
            if not await _on_disk(self._folder.spend, grant.id):
                raise _used()

        return await self._put(grant.key, body, grant.content_type, grant.size_bytes, redeem)

    async def sweep_temporary(self, older_than_s: float) -> int:
        """Remove files that a crash left unfinished and give their number.

        A file counts as left when nothing was written to it for ``older_than_s``. Marks of used
        upload links go too, once their links have expired anyway; they are not counted.
        """
        now = self._clock.now()
        await _on_disk(self._folder.sweep_spent, now - timedelta(seconds=2 * PUT_MAX_S))
        return await _on_disk(self._folder.sweep_incoming, now - timedelta(seconds=older_than_s))

    async def check(self) -> None:
        """Write, force to the disk and remove a small file."""
        await _on_disk(self._folder.probe)

    async def aclose(self) -> None:
        """Nothing stays open."""

    async def _put_whole(
        self, key: str, data: bytes, content_type: str, size_limit_bytes: int
    ) -> ObjectInfo:
        """Store bytes by one trip to a thread; a caller that is cancelled leaves it to its end."""
        validate_key(key)
        validate_content_type(content_type)
        incoming = self._folder.begin(key, size_limit_bytes)
        async with step(PUT):
            return await _on_disk(incoming.store, data, content_type)

    async def _put(
        self,
        key: str,
        data: AsyncIterator[bytes],
        content_type: str,
        size_limit_bytes: int,
        before_publishing: Callable[[int], Awaitable[None]],
    ) -> ObjectInfo:
        validate_key(key)
        validate_content_type(content_type)
        incoming = self._folder.begin(key, size_limit_bytes)
        try:
            await _fill(incoming, data)
            info = await _on_disk(incoming.seal, content_type)
            await before_publishing(info.size_bytes)
            async with step(PUT):
                await _on_disk(incoming.publish)
            return info
        finally:
            await _on_disk(incoming.discard)

    @asynccontextmanager
    async def _opened(self, key: str) -> AsyncIterator[tuple[Opened, ObjectInfo]]:
        opened = Opened(self._folder.path_of(validate_key(key)), key)
        try:
            yield opened, await _on_disk(opened.open)
        finally:
            await _on_disk(opened.close)


def local_objects(url: str, signer: Signer, public_url: str, clock: Clock) -> LocalObjects:
    """Give the store of a ``file://`` URL; what follows the two slashes is the path.

    ``file:///srv/objects`` is absolute, ``file://./var/objects`` relative to the working folder.

    Raises:
        Invalid: another scheme, no path, or a query.
    """
    parts = urlsplit(url)
    path = unquote(parts.netloc + parts.path)
    if parts.scheme != "file" or not path or parts.query or parts.fragment:
        raise Invalid("An object store in a folder is written file://FOLDER")
    return LocalObjects(Path(path), signer, public_url, clock)


async def _on_disk(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run disk work in a thread; what the system refuses becomes ``EngineUnavailable``.

    The sentence names the reason but not the path: it may reach a client.
    """
    try:
        return await asyncio.to_thread(call, *args, **kwargs)
    except OSError as error:
        raise EngineUnavailable(f"The object store fails: {error.strerror}") from error


async def _fill(incoming: Incoming, chunks: AsyncIterator[bytes]) -> None:
    """Write all chunks, small ones together so that each trip to a thread is worth it."""
    gathered = bytearray()
    async for chunk in chunks:
        gathered += chunk
        if len(gathered) >= WRITE_BYTES:
            await _on_disk(incoming.write, bytes(gathered))
            gathered.clear()
    await _on_disk(incoming.write, bytes(gathered))


async def _chunks(opened: Opened, start: int, end: int) -> AsyncGenerator[bytes, None]:
    for offset in range(start, end, READ_BYTES):
        yield await _on_disk(opened.read, offset, min(READ_BYTES, end - offset))


async def _proceed(size_bytes: int) -> None:
    """Have nothing against publishing."""


def _used() -> Forbidden:
    return Forbidden("This link has been used")

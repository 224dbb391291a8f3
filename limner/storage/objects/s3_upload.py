"""How bytes go up to an S3 store: cut into parts, each hashed in a thread and sent."""

import asyncio
import base64
import hashlib
import io
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from limner.core.errors import EngineUnavailable, LimnerError, NotFound, TooLarge
from limner.core.failpoints import step
from limner.core.objects import PUT
from limner.storage.objects.s3_connection import TRANSFER_S, Connection

PART_BYTES = 8 * 1024 * 1024
"""What goes up in one request; longer objects go in parts of this length (S3 wants 5 MiB)."""
PARTS_MAX = 10_000
IN_FLIGHT = 2
ABORT_S = 5.0
INLINE_BYTES: Final = 64 * 1024
"""Up to here a hash takes less than the way to a thread."""


class Hash:
    """The SHA-256 of an object that comes in parts."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0

    async def add(self, part: io.BytesIO) -> str:
        """Add a part and give its own MD5 in base64, by which the store verifies what it got."""
        size_bytes = part.getbuffer().nbytes
        self.size_bytes += size_bytes
        if size_bytes <= INLINE_BYTES:
            return self._add(part)
        return await asyncio.to_thread(self._add, part)

    def _add(self, part: io.BytesIO) -> str:
        with part.getbuffer() as view:
            self._sha256.update(view)
            md5 = hashlib.md5(view, usedforsecurity=False)
        return base64.b64encode(md5.digest()).decode()

    def hexdigest(self) -> str:
        """Give the hash of all parts so far."""
        return self._sha256.hexdigest()


async def cut(
    data: bytes | AsyncIterator[bytes], limit_bytes: int
) -> AsyncGenerator[io.BytesIO, None]:
    """Give ``data`` in parts of ``PART_BYTES``, the last shorter; an empty one if it is empty.

    Raises:
        TooLarge: it is longer than ``limit_bytes``, or than the parts that an object can have.
    """
    limit_bytes = min(limit_bytes, PARTS_MAX * PART_BYTES)
    size_bytes = 0
    part = io.BytesIO()
    async for chunk in _chunks(data):
        size_bytes += len(chunk)
        if size_bytes > limit_bytes:
            raise TooLarge(f"The object has more than {limit_bytes} bytes")
        view = memoryview(chunk)
        while view:
            if part.tell() == PART_BYTES:
                part.seek(0)
                yield part
                part = io.BytesIO()
            view = view[part.write(view[: PART_BYTES - part.tell()]) :]
    part.seek(0)
    yield part


async def _chunks(data: bytes | AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if isinstance(data, bytes):
        yield data
        return
    async for chunk in data:
        yield chunk


async def put_whole(
    connection: Connection, key: str, content_type: str, part: io.BytesIO, digest: Hash
) -> None:
    """Store an object that is one part, with its SHA-256 beside it."""
    md5 = await digest.add(part)
    async with step(PUT):
        await connection.call(
            "put_object",
            TRANSFER_S,
            Key=key,
            Body=part,
            ContentType=content_type,
            ContentMD5=md5,
            Metadata={"sha256": digest.hexdigest()},
        )


@dataclass
class Parts:
    """An upload in parts: nothing is visible before ``complete``; ``abort`` takes it all back."""

    connection: Connection
    key: str
    upload_id: str
    etags: dict[int, str] = field(default_factory=dict)
    _running: set[asyncio.Task[None]] = field(default_factory=set)
    _number: int = 0

    async def send(self, part: io.BytesIO, md5: str) -> None:
        """Begin to send a part, as soon as fewer than ``IN_FLIGHT`` others are on their way."""
        await self._wait_below(IN_FLIGHT)
        self._number += 1
        self._running.add(asyncio.create_task(self._send(self._number, part, md5)))

    async def complete(self) -> None:
        """Wait for all parts and make the object of them."""
        await self._wait_below(1)
        numbered = [{"PartNumber": n, "ETag": self.etags[n]} for n in sorted(self.etags)]
        async with step(PUT):
            await self._call("complete_multipart_upload", MultipartUpload={"Parts": numbered})

    async def abort(self) -> None:
        """Stop sending and throw away what was sent, if the store can be reached.

        What cannot be thrown away now is left to the sweep.
        """
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        with suppress(LimnerError):
            await self._call("abort_multipart_upload", ABORT_S)

    async def _wait_below(self, count: int) -> None:
        while len(self._running) >= count:
            done, self._running = await asyncio.wait(
                self._running, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                task.result()

    async def _send(self, number: int, part: io.BytesIO, md5: str) -> None:
        answer = await self._call("upload_part", PartNumber=number, Body=part, ContentMD5=md5)
        self.etags[number] = answer["ETag"]

    async def _call(self, operation: str, limit_s: float = TRANSFER_S, **parameters: Any) -> Any:
        try:
            return await self.connection.call(
                operation, limit_s, Key=self.key, UploadId=self.upload_id, **parameters
            )
        except NotFound as error:
            raise EngineUnavailable("The object store has given up the upload") from error


async def put_parts(
    connection: Connection,
    key: str,
    content_type: str,
    parts: AsyncIterator[io.BytesIO],
    digest: Hash,
) -> None:
    """Store an object of several parts, at most ``IN_FLIGHT`` on their way and one being filled.

    An error of the source or of the store, or a cancellation, takes back what was sent.
    """
    answer = await connection.call("create_multipart_upload", Key=key, ContentType=content_type)
    upload = Parts(connection, key, answer["UploadId"])
    try:
        async for part in parts:
            await upload.send(part, await digest.add(part))
        await upload.complete()
    except BaseException:
        await upload.abort()
        raise

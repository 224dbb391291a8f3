"""The object store in an S3 bucket (``s3://``): Amazon's, Cloudflare's R2, MinIO and their like.

The bucket is Limner's alone. Links are signed for the store itself (AWS Signature Version 4, query
parameters), so that pictures go from there to the browser without passing through us; unlike
those of a folder, a link for an upload works until it expires, not only once.
"""

import io
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from limner.core.clock import Clock, SystemClock
from limner.core.errors import EngineUnavailable, Invalid, NotFound, TooLarge
from limner.core.failpoints import step
from limner.core.objects import (
    DELETE,
    LIST_MAX,
    Method,
    ObjectEntry,
    ObjectInfo,
    Reading,
    clip_range,
    content_disposition,
    validate_content_type,
    validate_key,
    validate_listing,
    validate_presign,
)
from limner.storage.objects.s3_address import read_address
from limner.storage.objects.s3_connection import Connection
from limner.storage.objects.s3_errors import broken_off, no_bucket, translated
from limner.storage.objects.s3_upload import Hash, cut, put_parts, put_whole

READ_BYTES = 256 * 1024
PROBE_KEY = "limner-probe"
WRITABLE_S = 300.0
TYPE_UNKNOWN = "application/octet-stream"


_SHA256 = re.compile(r"[0-9a-f]{64}")
_CONTENT_RANGE = re.compile(r"bytes \d+-\d+/(\d+)")


class S3Objects:
    """Objects in a bucket.

    ``stat`` knows the SHA-256 of objects up to one part (8 MiB); that of longer ones is known only
    when their head has long been sent.

    Args:
        connection: to the bucket.
        clock: the time that sweeps go by.
    """

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._writable_until_s = float("-inf")

    async def put(
        self,
        key: str,
        data: bytes | AsyncIterator[bytes],
        content_type: str,
        *,
        size_limit_bytes: int,
    ) -> ObjectInfo:
        """Store an object."""
        validate_key(key)
        validate_content_type(content_type)
        digest = Hash()
        async with aclosing(cut(data, size_limit_bytes)) as parts:
            first = await anext(parts)
            second = await anext(parts, None)
            if second is None:
                await put_whole(self._connection, key, content_type, first, digest)
            else:
                all_parts = _chain(first, second, parts)
                # Held here they would stay in memory to the end.
                del first, second
                async with aclosing(all_parts):
                    await put_parts(self._connection, key, content_type, all_parts, digest)
        return ObjectInfo(
            key=key,
            size_bytes=digest.size_bytes,
            content_type=content_type,
            sha256=digest.hexdigest(),
            modified_at=self._clock.now(),
        )

    @asynccontextmanager
    async def get(
        self, key: str, *, start: int = 0, end: int | None = None
    ) -> AsyncIterator[Reading]:
        """Open an object for reading: one answer of the store, which is of one object."""
        validate_key(key)
        if start < 0 or (end is not None and end <= start):
            clip_range((await self.stat(key)).size_bytes, start, end)
        answer = await self._open(key, start, end)
        try:
            info = _info(key, answer, _whole_size(answer, start))
            start, end = clip_range(info.size_bytes, start, end)
            async with aclosing(_chunks(answer["Body"], end - start)) as chunks:
                yield Reading(info, start, end, chunks)
        finally:
            answer["Body"].close()

    async def read(self, key: str, limit_bytes: int) -> bytes:
        """Give a whole object."""
        async with self.get(key) as reading:
            size_bytes = reading.info.size_bytes
            if size_bytes > limit_bytes:
                raise TooLarge(f"The object has {size_bytes} bytes, over {limit_bytes}")
            return b"".join([chunk async for chunk in reading.chunks])

    async def stat(self, key: str) -> ObjectInfo:
        """Describe an object."""
        validate_key(key)
        try:
            answer = await self._connection.call("head_object", Key=key)
        except NotFound:
            # An answer to HEAD has no body that could tell a missing object from a missing bucket.
            await self._find_bucket()
            raise
        return _info(key, answer, int(answer["ContentLength"]))

    async def delete(self, key: str) -> None:
        """Remove an object."""
        validate_key(key)
        async with step(DELETE):
            await self._connection.call("delete_object", Key=key)

    async def list(
        self, prefix: str = "", *, after: str | None = None, limit: int = LIST_MAX
    ) -> Sequence[ObjectEntry]:
        """List objects; a page that the store cut short is filled up."""
        validate_listing(prefix, after, limit)
        found: list[ObjectEntry] = []
        place: dict[str, Any] = {"StartAfter": after} if after else {}
        while len(found) < limit:
            answer = await self._connection.call(
                "list_objects_v2", Prefix=prefix, MaxKeys=limit - len(found), **place
            )
            found += [
                ObjectEntry(entry["Key"], int(entry["Size"]), entry["LastModified"])
                for entry in answer.get("Contents", ())
            ]
            if not answer.get("IsTruncated") or "NextContinuationToken" not in answer:
                break
            place = {"ContinuationToken": answer["NextContinuationToken"]}
        return found[:limit]

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
        """Sign a URL of the store, at its public endpoint if it has one."""
        validate_presign(
            method,
            key,
            expires_s,
            content_type=content_type,
            size_bytes=size_bytes,
            filename=filename,
        )
        if method == "PUT":
            rest: dict[str, Any] = {"ContentType": content_type, "ContentLength": size_bytes}
            return await self._connection.sign("put_object", expires_s, Key=key, **rest)
        rest = {"ResponseContentDisposition": content_disposition(filename, inline=inline)}
        if content_type is not None:
            rest["ResponseContentType"] = content_type
        return await self._connection.sign("get_object", expires_s, Key=key, **rest)

    async def sweep_temporary(self, older_than_s: float) -> int:
        """Abort uploads in parts that nobody went on with and give their number."""
        before = self._clock.now() - timedelta(seconds=older_than_s)
        aborted = 0
        place: dict[str, Any] = {}
        while True:
            answer = await self._connection.call("list_multipart_uploads", **place)
            for upload in answer.get("Uploads", ()):
                if upload["Initiated"] < before:
                    aborted += await self._abort_left(upload["Key"], upload["UploadId"], before)
            if not answer.get("IsTruncated"):
                return aborted
            place = {
                "KeyMarker": answer["NextKeyMarker"],
                "UploadIdMarker": answer["NextUploadIdMarker"],
            }

    async def check(self) -> None:
        """Find the bucket and, now and then, begin and abort an upload, which a put needs too.

        Health is looked at every few seconds, and a store counts each request.
        """
        await self._find_bucket()
        now_s = self._clock.monotonic()
        if now_s < self._writable_until_s:
            return
        answer = await self._connection.call(
            "create_multipart_upload", Key=PROBE_KEY, ContentType=TYPE_UNKNOWN
        )
        await self._connection.call(
            "abort_multipart_upload", Key=PROBE_KEY, UploadId=answer["UploadId"]
        )
        self._writable_until_s = now_s + WRITABLE_S

    async def aclose(self) -> None:
        """Close the connections."""
        await self._connection.aclose()

    async def _open(self, key: str, start: int, end: int | None) -> Any:
        """Ask for the bytes; a range of an empty object is refused by S3 but fine here."""
        if start == 0 and end is None:
            return await self._connection.call("get_object", Key=key)
        last = "" if end is None else end - 1
        try:
            return await self._connection.call("get_object", Key=key, Range=f"bytes={start}-{last}")
        except Invalid:
            if start > 0:
                raise
            return await self._connection.call("get_object", Key=key)

    async def _find_bucket(self) -> None:
        try:
            await self._connection.call("head_bucket")
        except NotFound as error:
            raise no_bucket() from error

    async def _abort_left(self, key: str, upload_id: str, before: datetime) -> bool:
        """Abort an upload if its newest part is old, too, and say whether that was done."""
        about: dict[str, Any] = {"Key": key, "UploadId": upload_id}
        place: dict[str, Any] = {}
        try:
            while True:
                answer = await self._connection.call("list_parts", **about, **place)
                if any(part["LastModified"] >= before for part in answer.get("Parts", ())):
                    return False
                if not answer.get("IsTruncated"):
                    break
                place = {"PartNumberMarker": answer["NextPartNumberMarker"]}
            await self._connection.call("abort_multipart_upload", **about)
        except NotFound:
            # It was completed or aborted meanwhile.
            return False
        return True


def s3_objects(url: str, access_key: str, secret_key: str, clock: Clock | None = None) -> S3Objects:
    """Give the store of an ``s3://`` URL; see ``s3_address.Address``. Nothing is connected yet.

    Raises:
        NotConfigured: the URL or the keys cannot be right.
    """
    return S3Objects(Connection(read_address(url, access_key, secret_key)), clock or SystemClock())


async def _chain(
    first: io.BytesIO, second: io.BytesIO, rest: AsyncIterator[io.BytesIO]
) -> AsyncGenerator[io.BytesIO, None]:
    waiting = [second, first]
    del first, second
    while waiting:
        yield waiting.pop()
    async for part in rest:
        yield part


async def _chunks(body: Any, size_bytes: int) -> AsyncGenerator[bytes, None]:
    """Give the bytes of an answer, as many as were asked for.

    Raises:
        EngineUnavailable: the answer broke off.
    """
    left_bytes = size_bytes
    while left_bytes > 0:
        with translated():
            chunk: bytes = await body.read(min(READ_BYTES, left_bytes))
        if not chunk:
            raise broken_off()
        left_bytes -= len(chunk)
        yield chunk


def _whole_size(answer: Any, start: int) -> int:
    """Give the length of the whole object, whatever part of it the answer carries."""
    if "ContentRange" not in answer:
        if start > 0:
            raise EngineUnavailable("The object store does not know ranges")
        return int(answer["ContentLength"])
    match = _CONTENT_RANGE.fullmatch(answer["ContentRange"])
    if match is None:
        raise EngineUnavailable("The object store's answer about a range makes no sense")
    return int(match[1])


def _info(key: str, answer: Any, size_bytes: int) -> ObjectInfo:
    sha256 = answer.get("Metadata", {}).get("sha256", "")
    return ObjectInfo(
        key=key,
        size_bytes=size_bytes,
        content_type=answer.get("ContentType") or TYPE_UNKNOWN,
        sha256=sha256 if _SHA256.fullmatch(sha256) else None,
        modified_at=answer["LastModified"],
    )

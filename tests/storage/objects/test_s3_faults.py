"""How the store in a bucket meets an S3 that refuses, breaks off, stalls, or has its own ways."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web

from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable, Invalid, NotFound
from limner.storage.objects import s3_connection
from limner.storage.objects.s3 import S3Objects, s3_objects
from limner.storage.objects.s3_upload import PART_BYTES
from tests.contracts.objects import LIMIT, PNG

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeS3:
    """Answers every request by the first of its answers that is left, the last one for ever.

    Without any it does not answer.
    """

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.url = ""
        self.over = asyncio.Event()

    async def stall(self, request: web.Request) -> web.StreamResponse:
        """Answer nothing until the test is over."""
        await self.over.wait()
        return web.Response(status=500)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((f"{request.method} {request.raw_path}", headers, body))
        if not self.answers:
            return await self.stall(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await answer(request)

    @property
    def asked(self) -> list[str]:
        return [line for line, _, _ in self.requests]


@pytest.fixture
async def opened() -> AsyncIterator[Callable[..., Awaitable[tuple[S3Objects, FakeS3]]]]:
    """Give a function that opens a store at a server with these answers."""
    fakes, stores, runners = [], [], []

    async def open_store(*answers: Answer) -> tuple[S3Objects, FakeS3]:
        fake = FakeS3(*answers)
        fakes.append(fake)
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", fake.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        fake.url = f"http://{host}:{port}"
        store = s3_objects(
            f"s3://bucket?endpoint={fake.url}", "the-access", "the-secret", HeldClock(NOW)
        )
        stores.append(store)
        return store, fake

    yield open_store
    for fake in fakes:
        fake.over.set()
    for store in stores:
        await store.aclose()
    for runner in runners:
        await runner.cleanup()


Open = Callable[..., Awaitable[tuple[S3Objects, FakeS3]]]


def refusing(status: int, code: str) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.method == "HEAD":
            return web.Response(status=status)
        text = f"<Error><Code>{code}</Code><Message>the-secret of bucket</Message></Error>"
        return web.Response(status=status, text=text, content_type="application/xml")

    return answer


def answering(text: str = "", headers: dict[str, str] | None = None) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(text=text, headers=headers, content_type="application/xml")

    return answer


REFUSALS = [
    (403, "AccessDenied", "must be allowed"),
    (403, "InvalidAccessKeyId", "does not accept the keys"),
    (403, "SignatureDoesNotMatch", "does not accept the keys"),
    (403, "RequestTimeTooSkewed", "set the clock"),
    (404, "NoSuchBucket", "no such bucket"),
    (400, "AuthorizationHeaderMalformed", "set region"),
    (301, "PermanentRedirect", "set region"),
    (507, "InsufficientStorage", "fails: InsufficientStorage"),
    (405, "MethodNotAllowed", "fails: MethodNotAllowed"),
]


@pytest.mark.parametrize(("status", "code", "sentence"), REFUSALS)
async def test_a_refusal_is_an_engine_out_of_reach_with_its_mend(
    opened: Open, status: int, code: str, sentence: str
) -> None:
    store, _ = await opened(refusing(status, code))
    calls = (
        store.put("a", b"x", PNG, size_limit_bytes=LIMIT),
        store.put("a", bytes(PART_BYTES + 1), PNG, size_limit_bytes=LIMIT),
        store.read("a", LIMIT),
        store.delete("a"),
        store.list(),
    )
    for call in calls:
        with pytest.raises(EngineUnavailable, match=sentence) as caught:
            await call
        assert "the-" not in str(caught.value)
    if status in {301, 403}:
        for call in (store.stat("a"), store.check()):
            with pytest.raises(EngineUnavailable):
                await call


async def test_a_missing_object_in_a_bucket_that_is_there_is_not_found(opened: Open) -> None:
    store, fake = await opened(refusing(404, "NoSuchKey"), answering())
    with pytest.raises(NotFound):
        await store.stat("a")
    assert fake.asked == ["HEAD /bucket/a", "HEAD /bucket"]


async def test_an_upload_is_sent_again_whole_when_the_store_asks_to_slow_down(
    opened: Open,
) -> None:
    data = bytes(range(256)) * 8_000
    store, fake = await opened(refusing(503, "SlowDown"), answering(headers={"ETag": '"x"'}))
    info = await store.put("a", data, PNG, size_limit_bytes=LIMIT)
    assert [body for _, _, body in fake.requests] == [data, data]
    for line, headers, body in fake.requests:
        assert line.startswith("PUT /bucket/a")
        assert headers["content-length"] == str(len(data))
        md5 = hashlib.md5(body, usedforsecurity=False).digest()
        assert headers["content-md5"] == base64.b64encode(md5).decode()
        assert headers["x-amz-meta-sha256"] == info.sha256
        assert headers["content-type"] == PNG
        # What S3 stores of other makers may not know.
        assert headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
        assert "content-md5" in headers["authorization"]
        assert not {"expect", "x-amz-trailer", "transfer-encoding"} & set(headers)
        assert not any("checksum" in name for name in headers)


async def test_a_store_that_stays_slow_is_asked_three_times(opened: Open) -> None:
    store, fake = await opened(refusing(503, "SlowDown"))
    with pytest.raises(EngineUnavailable, match="slow down"):
        await store.delete("a")
    assert len(fake.requests) == 3


async def test_a_body_that_breaks_off_is_told(opened: Open) -> None:
    async def breaking_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Length": "100000", "Last-Modified": "Sun, 22 Nov 2026 12:00:00 GMT"}
        )
        await response.prepare(request)
        await response.write(bytes(60_000))
        assert request.transport is not None
        request.transport.close()
        return response

    store, _ = await opened(breaking_off)
    with pytest.raises(EngineUnavailable):
        await store.read("a", LIMIT)


async def test_a_store_that_never_answers_is_left_in_time(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_connection, "READ_S", 0.1)
    monkeypatch.setattr(s3_connection, "ATTEMPTS", 1)
    store, _ = await opened()
    for call in (store.stat("a"), store.read("a", LIMIT), store.list(), store.check()):
        with pytest.raises(EngineUnavailable, match="in time"):
            await asyncio.wait_for(call, 5)


async def test_a_body_that_stalls_is_told(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_connection, "READ_S", 0.1)

    async def stalls(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Length": "1000", "Last-Modified": "Sun, 22 Nov 2026 12:00:00 GMT"}
        )
        await response.prepare(request)
        await response.write(bytes(10))
        await fake.over.wait()
        return response

    store, fake = await opened(stalls)
    with pytest.raises(EngineUnavailable, match="in time"):
        await asyncio.wait_for(store.read("a", LIMIT), 5)


async def test_an_upload_that_is_not_taken_off_our_hands_is_left_in_time(
    opened: Open,
) -> None:
    store, fake = await opened()
    connection = store._connection
    await store.presign("GET", "a", 60)
    with pytest.raises(EngineUnavailable, match="in time"):
        await asyncio.wait_for(connection.call("put_object", 0.2, Key="a", Body=b"x"), 5)
    assert fake.asked == ["PUT /bucket/a"]


async def test_a_store_that_knows_no_ranges_is_told(opened: Open) -> None:
    store, _ = await opened(
        answering("0123456789", {"Last-Modified": "Sun, 22 Nov 2026 12:00:00 GMT"})
    )
    with pytest.raises(EngineUnavailable, match="ranges"):
        async with store.get("a", start=5):
            pass
    async with store.get("a", start=0, end=4) as reading:
        assert (reading.info.size_bytes, reading.start, reading.end) == (10, 0, 4)
        assert b"".join([chunk async for chunk in reading.chunks]) == b"0123"


async def test_a_range_beyond_the_end_is_not_satisfiable(opened: Open) -> None:
    store, _ = await opened(refusing(416, "InvalidRange"))
    with pytest.raises(Invalid) as caught:
        async with store.get("a", start=5):
            pass
    assert caught.value.code == "range_not_satisfiable"


def page(*keys: str, more: str = "") -> str:
    entries = "".join(
        f"<Contents><Key>{key}</Key><Size>1</Size>"
        "<LastModified>2026-11-22T12:00:00.000Z</LastModified></Contents>"
        for key in keys
    )
    truncated = f"<NextContinuationToken>{more}</NextContinuationToken>" if more else ""
    return (
        f"<ListBucketResult><IsTruncated>{'true' if more else 'false'}</IsTruncated>"
        f"{truncated}{entries}</ListBucketResult>"
    )


async def test_pages_that_the_store_cuts_short_are_filled_up(opened: Open) -> None:
    store, fake = await opened(
        answering(page("a", more="t1")), answering(page(more="t2")), answering(page("b", "c"))
    )
    assert [entry.key for entry in await store.list(limit=10, after="0")] == ["a", "b", "c"]
    assert "start-after=0" in fake.asked[0]
    assert "continuation-token=t1" in fake.asked[1]
    assert "continuation-token=t2" in fake.asked[2]
    assert "max-keys=9" in fake.asked[2]


async def test_an_upload_that_began_lately_is_not_swept(opened: Open) -> None:
    def line(key: str, initiated: datetime) -> str:
        return (
            f"<Upload><Key>{key}</Key><UploadId>of-{key}</UploadId>"
            f"<Initiated>{initiated:%Y-%m-%dT%H:%M:%S.000Z}</Initiated></Upload>"
        )

    lines = line("late", NOW - timedelta(seconds=50)) + line("old", NOW - timedelta(seconds=70))
    more = (
        "<IsTruncated>true</IsTruncated><NextKeyMarker>old</NextKeyMarker>"
        "<NextUploadIdMarker>of-old</NextUploadIdMarker>"
    )
    store, fake = await opened(
        answering(f"<ListMultipartUploadsResult>{more}{lines}</ListMultipartUploadsResult>"),
        answering("<ListPartsResult><IsTruncated>false</IsTruncated></ListPartsResult>"),
        answering(),
        answering("<ListMultipartUploadsResult/>"),
    )
    assert await store.sweep_temporary(60) == 1
    asked = [(line.split()[0], line.partition("?")[0].split()[1]) for line in fake.asked]
    assert asked == [
        ("GET", "/bucket"),
        ("GET", "/bucket/old"),
        ("DELETE", "/bucket/old"),
        ("GET", "/bucket"),
    ]
    assert "upload-id-marker=of-old" in fake.asked[-1]


async def test_an_upload_that_someone_else_ended_is_not_counted(opened: Open) -> None:
    store, _ = await opened(
        answering(
            "<ListMultipartUploadsResult><Upload><Key>a</Key><UploadId>u</UploadId>"
            "<Initiated>2020-01-01T00:00:00.000Z</Initiated></Upload></ListMultipartUploadsResult>"
        ),
        refusing(404, "NoSuchUpload"),
    )
    assert await store.sweep_temporary(60) == 0


async def test_an_upload_that_was_swept_under_our_hands_is_told(opened: Open) -> None:
    store, _ = await opened(
        answering(
            "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
        ),
        refusing(404, "NoSuchUpload"),
    )
    with pytest.raises(EngineUnavailable, match="given up"):
        await store.put("a", bytes(PART_BYTES + 1), PNG, size_limit_bytes=LIMIT)

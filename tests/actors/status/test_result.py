"""Results: only pictures and videos come into the store, whatever their sender calls them."""

import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from PIL import Image

from limner.actors.status.result import Result, fetch, sniff
from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable, Permanent, Refused, TooLarge, Transient
from limner.core.objects import ObjectStore
from limner.core.outgoing import Outgoing
from limner.core.signing import Signer
from limner.storage.objects.local import LocalObjects
from tests.fakes.provider import png
from tests.fakes.raw_http import RawHttp, answer, cut, endless, redirect

MAX_BYTES = 3_000_000


def picture(form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, form, **options)
    return buffer.getvalue()


def video(form: str, codec: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = cast("av.VideoStream", container.add_stream(codec, rate=4))
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        for packet in (*stream.encode(frame), *stream.encode()):
            container.mux(packet)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("form", "content_type"),
    [
        ("PNG", "image/png"),
        ("JPEG", "image/jpeg"),
        ("GIF", "image/gif"),
        ("WEBP", "image/webp"),
        ("AVIF", "image/avif"),
    ],
)
def test_a_picture_that_was_really_written_is_known(form: str, content_type: str) -> None:
    media = sniff(picture(form))
    assert media is not None
    assert media.content_type == content_type


@pytest.mark.parametrize(
    ("form", "codec", "content_type"),
    [("mp4", "mpeg4", "video/mp4"), ("webm", "libvpx", "video/webm")],
)
def test_a_video_that_was_really_written_is_known(form: str, codec: str, content_type: str) -> None:
    media = sniff(video(form, codec))
    assert media is not None
    assert media.content_type == content_type


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\x89PNG",
        b"<svg xmlns='http://www.w3.org/2000/svg'>",
        b"<!doctype html><html>",
        b"%PDF-1.7",
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"\x1a\x45\xdf\xa3\x01\0\0\0\0\0\0\x23\x42\x82\x88matroska",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"\0\0\0\x14ftypqt  \0\0\0\0qt  ",
        b"\0\0\0\x10ftypxxxx\0\0\0\0isom",
        b"MZ\x90\0",
        b"GIF90a",
    ],
)
def test_anything_else_is_not(head: bytes) -> None:
    assert sniff(head) is None


def test_a_compatible_brand_counts_where_the_major_one_is_not_known() -> None:
    for brands, ending in ((b"mif1miafavif", "avif"), (b"xxxxmp42isom", "mp4")):
        size = (8 + len(brands) + 8).to_bytes(4, "big")
        media = sniff(size + b"ftyp" + brands[:4] + b"\0\0\0\0" + brands)
        assert media is not None
        assert media.ending == ending


@pytest.fixture
async def server() -> AsyncIterator[RawHttp]:
    async with RawHttp() as running:
        yield running


@pytest.fixture
async def outgoing(server: RawHttp) -> AsyncIterator[Outgoing]:
    client = Outgoing(allow_private_hosts=frozenset({server.host}))
    yield client
    await client.aclose()


@pytest.fixture
async def objects(tmp_path: Path, clock: HeldClock) -> AsyncIterator[ObjectStore]:
    store = LocalObjects(tmp_path, Signer([bytes(32)]), "https://limner.test", clock)
    yield store
    await store.aclose()


@pytest.fixture
def fetched(server: RawHttp, outgoing: Outgoing, objects: ObjectStore) -> Any:
    async def fetching(url: str = "") -> Result:
        return await fetch(
            url or server.url,
            "results/task_1/1-1",
            outgoing=outgoing,
            objects=objects,
            max_bytes=MAX_BYTES,
        )

    return fetching


@pytest.mark.parametrize("size_bytes", [0, 10, 2_500_000])
async def test_a_result_is_stored_whole_under_its_true_type(
    server: RawHttp, objects: ObjectStore, fetched: Any, size_bytes: int
) -> None:
    whole = png() + bytes(size_bytes)
    server.script(answer(200, whole, {"Content-Type": "text/html"}))
    result = await fetched()
    assert result == Result("results/task_1/1-1.png", "image/png")
    assert await objects.read(result.key, MAX_BYTES) == whole
    assert (await objects.stat(result.key)).content_type == "image/png"


async def test_a_redirect_to_the_result_is_followed(server: RawHttp, fetched: Any) -> None:
    server.script(redirect("/there"), answer(200, png()))
    assert (await fetched()).content_type == "image/png"


@pytest.mark.parametrize(
    ("play", "error"),
    [
        (answer(200, b"<html>sign in</html>", {"Content-Type": "image/png"}), Permanent),
        (answer(200, b""), Permanent),
        (answer(200, png() + bytes(MAX_BYTES)), TooLarge),
        (answer(204), Permanent),
        (answer(403), Permanent),
        (answer(410), Permanent),
        (answer(404), Transient),
        (answer(429), Transient),
        (answer(500), Transient),
        (answer(200, png(), length=9000), Transient),
        (cut(), Transient),
        (redirect("http://169.254.169.254/"), Refused),
    ],
)
async def test_a_result_that_cannot_be_had_says_whether_to_try_again(
    server: RawHttp, objects: ObjectStore, fetched: Any, play: Any, error: type[Exception]
) -> None:
    server.script(play)
    with pytest.raises(error):
        await fetched()
    assert await objects.list() == []


async def test_a_result_without_end_is_cut_off(
    server: RawHttp, objects: ObjectStore, fetched: Any
) -> None:
    server.script(endless())
    with pytest.raises(Permanent):
        await fetched()
    assert await objects.list() == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a", "file:///etc/passwd", "data:,x", "x"])
async def test_an_address_that_must_not_be_called_is_refused(fetched: Any, url: str) -> None:
    with pytest.raises(Refused):
        await fetched(url)


async def test_a_store_that_is_full_is_the_engines_trouble(
    server: RawHttp, outgoing: Outgoing, tmp_path: Path, clock: HeldClock
) -> None:
    full = LocalObjects(
        tmp_path, Signer([bytes(32)]), "https://limner.test", clock, min_free_bytes=2**62
    )
    server.script(answer(200, png()))
    with pytest.raises(EngineUnavailable):
        await fetch(server.url, "results/1", outgoing=outgoing, objects=full, max_bytes=MAX_BYTES)
    await full.aclose()

"""What the store in a folder adds to the contract: full disks, crashes, left-over files, links."""

import asyncio
import errno
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from limner.core.clock import HeldClock, SystemClock
from limner.core.errors import EngineUnavailable, Forbidden, Invalid, NotFound, TooLarge
from limner.core.failpoints import steps
from limner.core.objects import PUT_MAX_S
from limner.core.signing import Grant, Signer
from limner.storage.objects.local import LocalObjects, local_objects

SIGNER = Signer([b"a secret of thirty-two bytes ...."])
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
LIMIT = 10_000_000
PNG = "image/png"


def opened(root: Path, min_free_bytes: int = 0) -> LocalObjects:
    return LocalObjects(root, SIGNER, "http://x.test", SystemClock(), min_free_bytes=min_free_bytes)


async def body(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def left_over(root: Path) -> list[Path]:
    incoming = root / "incoming"
    return list(incoming.iterdir()) if incoming.exists() else []


async def test_a_disk_without_room_is_an_engine_out_of_reach(tmp_path: Path) -> None:
    full = opened(tmp_path, min_free_bytes=1 << 60)
    with pytest.raises(EngineUnavailable, match="No space left"):
        await full.put("a", b"x", PNG, size_limit_bytes=LIMIT)
    with pytest.raises(EngineUnavailable, match="No space left"):
        await full.check()
    assert left_over(tmp_path) == []
    assert await full.list() == []


async def test_a_disk_that_fills_up_midway_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path)
    await store.put("a", b"former", PNG, size_limit_bytes=LIMIT)
    write, written = os.write, 0

    def filling(descriptor: int, data: bytes) -> int:
        nonlocal written
        if written > 600_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = write(descriptor, data)
        written += count
        return count

    monkeypatch.setattr(os, "write", filling)
    chunks = [bytes(300_000)] * 5
    with pytest.raises(EngineUnavailable, match="No space left") as caught:
        await store.put("a", body(*chunks), PNG, size_limit_bytes=LIMIT)
    monkeypatch.undo()
    assert str(tmp_path) not in str(caught.value)
    assert left_over(tmp_path) == []
    assert await store.read("a", LIMIT) == b"former"


async def test_a_root_that_is_no_folder_is_an_engine_out_of_reach(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = opened(tmp_path / "file")
    with pytest.raises(EngineUnavailable):
        await store.check()
    with pytest.raises(EngineUnavailable):
        await store.put("a", b"x", PNG, size_limit_bytes=LIMIT)
    with pytest.raises(EngineUnavailable):
        await store.list()


async def test_refused_uploads_leave_no_file_behind(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with pytest.raises(TooLarge):
        await store.put("a", body(bytes(400_000), bytes(400_000)), PNG, size_limit_bytes=500_000)
    assert left_over(tmp_path) == []


CRASH = """
import asyncio, sys
from pathlib import Path
from limner.core import failpoints
from limner.core.clock import SystemClock
from limner.core.signing import Signer
from limner.storage.objects.local import LocalObjects

async def main():
    store = LocalObjects(Path(sys.argv[1]), Signer([bytes(32)]), "http://x.test", SystemClock())
    failpoints.arm(sys.argv[2])
    if sys.argv[2].startswith("objects.delete"):
        await store.delete("a")
    else:
        await store.put("a", body(), "text/plain", size_limit_bytes=100)

async def body():
    yield b"next"

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("failpoint", "stays"),
    [
        ("objects.put.before:kill", b"former"),
        ("objects.put.after:kill", b"next"),
        ("objects.delete.before:kill", b"former"),
        ("objects.delete.after:kill", None),
    ],
)
async def test_a_killed_process_leaves_one_object_whole_and_rubbish_that_is_swept(
    tmp_path: Path, failpoint: str, stays: bytes | None
) -> None:
    store = opened(tmp_path)
    await store.put("a", b"former", PNG, size_limit_bytes=LIMIT)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CRASH, str(tmp_path), failpoint
    )
    assert await asyncio.wait_for(child.wait(), 30) == -signal.SIGKILL
    if stays is None:
        with pytest.raises(NotFound):
            await store.read("a", LIMIT)
    else:
        assert await store.read("a", LIMIT) == stays
    unfinished = 1 if failpoint == "objects.put.before:kill" else 0
    assert len(left_over(tmp_path)) == unfinished
    assert [entry.key for entry in await store.list()] == ([] if stays is None else ["a"])
    assert await store.sweep_temporary(3600) == 0
    for path in left_over(tmp_path):
        os.utime(path, (time.time() - 7200, time.time() - 7200))
    assert await store.sweep_temporary(3600) == unfinished
    assert left_over(tmp_path) == []


async def test_a_sweep_spares_an_upload_that_goes_on(tmp_path: Path) -> None:
    store = opened(tmp_path)
    written, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield bytes(300_000)
        written.set()
        await go_on.wait()
        yield bytes(300_000)

    task = asyncio.create_task(store.put("a", slow(), PNG, size_limit_bytes=LIMIT))
    await asyncio.wait_for(written.wait(), 10)
    assert len(left_over(tmp_path)) == 1
    assert await store.sweep_temporary(60) == 0
    go_on.set()
    assert (await task).size_bytes == 600_000


async def test_an_upload_that_was_swept_fails_and_stores_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)

    async def swept() -> AsyncIterator[bytes]:
        yield bytes(300_000)
        for path in left_over(tmp_path):
            path.unlink()

    with pytest.raises(EngineUnavailable):
        await store.put("a", swept(), PNG, size_limit_bytes=LIMIT)
    assert await store.list() == []


async def grant_for(store: LocalObjects, size_bytes: int = 5) -> Grant:
    url = await store.presign("PUT", "up/1", 60, content_type=PNG, size_bytes=size_bytes)
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    key = parts.path.removeprefix("/o/")
    return store.verify_request("PUT", key, query, PNG, size_bytes, datetime.now(UTC))


async def test_a_body_that_does_not_have_the_signed_length_is_not_stored(tmp_path: Path) -> None:
    store = opened(tmp_path)
    grant = await grant_for(store)
    with pytest.raises(Invalid):
        await store.receive(grant, body(b"1234"))
    with pytest.raises(TooLarge):
        await store.receive(grant, body(b"123", b"456"))
    assert await store.list() == []
    assert (await store.receive(grant, body(b"12345"))).size_bytes == 5


async def test_a_grant_for_reading_receives_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    grant = Grant(
        id="x",
        method="GET",
        key="a",
        expires_at=NOW,
        content_type=PNG,
        size_bytes=None,
        filename=None,
        inline=True,
    )
    with pytest.raises(Forbidden):
        await store.receive(grant, body(b"x"))
    assert await store.list() == []


async def test_an_upload_that_broke_off_can_be_tried_again(tmp_path: Path) -> None:
    store = opened(tmp_path)
    grant = await grant_for(store)

    async def broken() -> AsyncIterator[bytes]:
        yield b"12"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await store.receive(grant, broken())
    await store.receive(grant, body(b"12345"))
    with pytest.raises(Forbidden):
        await store.receive(grant, body(b"12345"))


async def test_of_two_uploads_at_once_by_one_link_the_later_is_refused(tmp_path: Path) -> None:
    store = opened(tmp_path)
    grant = await grant_for(store)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        begun.set()
        await go_on.wait()
        yield b"later"

    later = asyncio.create_task(store.receive(grant, slow()))
    await asyncio.wait_for(begun.wait(), 10)
    await store.receive(grant, body(b"first"))
    go_on.set()
    with pytest.raises(Forbidden):
        await later
    assert await store.read("up/1", LIMIT) == b"first"


async def test_marks_of_used_links_go_when_the_links_have_expired_anyway(tmp_path: Path) -> None:
    clock = HeldClock(datetime.now(UTC))
    store = LocalObjects(tmp_path, SIGNER, "http://x.test", clock, min_free_bytes=0)
    await store.receive(await grant_for(store), body(b"12345"))
    clock.advance(PUT_MAX_S)
    await store.sweep_temporary(3600)
    assert len(list((tmp_path / "spent").iterdir())) == 1
    clock.advance(2 * PUT_MAX_S)
    await store.sweep_temporary(3600)
    assert list((tmp_path / "spent").iterdir()) == []


async def test_several_processes_of_one_folder_share_objects_and_used_links(
    tmp_path: Path,
) -> None:
    one, two = opened(tmp_path), opened(tmp_path)
    grant = await grant_for(one)
    await one.receive(grant, body(b"12345"))
    assert await two.read("up/1", LIMIT) == b"12345"
    with pytest.raises(Forbidden):
        await two.receive(grant, body(b"12345"))


async def test_a_put_and_a_stat_say_the_same(tmp_path: Path) -> None:
    store = opened(tmp_path)
    info = await store.put("a", b"x", PNG, size_limit_bytes=LIMIT)
    assert await store.stat("a") == info
    assert abs(info.modified_at - datetime.now(UTC)) < timedelta(minutes=1)


async def test_reading_and_writing_leave_no_descriptor_open(tmp_path: Path) -> None:
    store = opened(tmp_path)
    await store.put("warm", b"x", PNG, size_limit_bytes=LIMIT)
    before = open_descriptors()
    for number in range(20):
        await store.put(f"f/{number}", bytes(300_000), PNG, size_limit_bytes=LIMIT)
        async with store.get(f"f/{number}") as reading:
            async for _ in reading.chunks:
                break
        with pytest.raises(NotFound):
            await store.stat("missing")
    assert open_descriptors() <= before


@pytest.mark.parametrize(
    ("url", "key_file"),
    [("file://{}/o", "o/data/a"), ("file://{}/with%20space", "with space/data/a")],
)
async def test_a_file_url_names_the_folder(tmp_path: Path, url: str, key_file: str) -> None:
    store = local_objects(url.format(tmp_path), SIGNER, "http://x.test", SystemClock())
    await store.put("a", b"x", PNG, size_limit_bytes=LIMIT)
    assert (tmp_path / key_file).exists()


async def test_a_file_url_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("file://./var/objects", "file://var/objects"):
        store = local_objects(url, SIGNER, "http://x.test", SystemClock())
        await store.put("a", b"x", PNG, size_limit_bytes=LIMIT)
        assert (tmp_path / "var/objects/data/a").exists()
        await store.delete("a")


@pytest.mark.parametrize(
    "url", ["", "file:", "file://", "s3://bucket", "file:///a?b=c", "file:///a#b"]
)
def test_what_is_no_file_url_is_refused(url: str) -> None:
    with pytest.raises(Invalid):
        local_objects(url, SIGNER, "http://x.test", SystemClock())


def test_the_effects_can_be_failed_by_name() -> None:
    assert {"objects.put", "objects.delete"} <= steps()

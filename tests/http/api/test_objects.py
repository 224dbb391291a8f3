"""Objects over signed links: whole, in ranges, under conditions; and written once."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from limner.core.clock import HeldClock
from limner.core.objects import ObjectInfo
from tests.fakes.front import Stage, problem, staged

CONTENT = bytes(range(256)) * 4
SIZE = len(CONTENT)


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


async def link(stage: Stage, key: str = "a/b.png", **options: Any) -> str:
    return stage.path(await stage.front.objects.presign("GET", key, 600, **options))


async def put(stage: Stage, content: bytes = CONTENT, content_type: str = "image/png") -> None:
    await stage.front.objects.put("a/b.png", content, content_type, size_limit_bytes=1 << 20)


async def test_a_link_gives_the_object_and_says_how_to_keep_it(stage: Stage) -> None:
    await put(stage)
    client = await stage.client()
    answer = await client.get(await link(stage, filename="猫.png"))
    assert (answer.status, await answer.read()) == (200, CONTENT)
    assert answer.content_type == "image/png"
    assert answer.headers["Cache-Control"] == "private, max-age=600"
    assert answer.headers["Content-Disposition"].startswith("inline; filename=")
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Accept-Ranges"] == "bytes"
    head = await client.head(await link(stage, filename="猫.png"))
    assert (head.status, await head.read()) == (200, b"")
    assert head.headers["Content-Length"] == str(SIZE)


RANGES = [
    ("bytes=0-0", 206, (0, 1)),
    ("bytes=10-19", 206, (10, 20)),
    ("bytes=1000-", 206, (1000, SIZE)),
    ("bytes=-24", 206, (1000, SIZE)),
    ("bytes=-99999", 206, (0, SIZE)),
    ("bytes=0-99999", 206, (0, SIZE)),
    (f"bytes={SIZE}-", 416, None),
    ("bytes=99999-", 416, None),
    ("bytes=-0", 416, None),
    ("bytes=5-4", 200, (0, SIZE)),
    ("bytes=-", 200, (0, SIZE)),
    ("bytes=0-1,5-6", 200, (0, SIZE)),
    ("lines=0-1", 200, (0, SIZE)),
    ("bytes=x", 200, (0, SIZE)),
]


@pytest.mark.parametrize(("asked", "status", "part"), RANGES)
async def test_one_range_is_given_and_what_is_none_is_passed_over(
    stage: Stage, asked: str, status: int, part: tuple[int, int] | None
) -> None:
    await put(stage)
    client = await stage.client()
    answer = await client.get(await link(stage), headers={"Range": asked})
    assert answer.status == status
    if part is None:
        assert (await problem(answer))["code"] == "range_not_satisfiable"
        return
    assert await answer.read() == CONTENT[slice(*part)]
    if status == 206:
        assert answer.headers["Content-Range"] == f"bytes {part[0]}-{part[1] - 1}/{SIZE}"


async def test_a_range_of_another_version_gives_the_whole(stage: Stage) -> None:
    await put(stage)
    client = await stage.client()
    tag = (await client.get(await link(stage))).headers["ETag"]
    ranged = {"Range": "bytes=0-1"}
    same = await client.get(await link(stage), headers={**ranged, "If-Range": tag})
    assert same.status == 206
    other = await client.get(await link(stage), headers={**ranged, "If-Range": '"x"'})
    assert (other.status, await other.read()) == (200, CONTENT)


async def test_whoever_has_the_bytes_is_not_sent_them_again(stage: Stage) -> None:
    await put(stage)
    client = await stage.client()
    tag = (await client.get(await link(stage))).headers["ETag"]
    answer = await client.get(await link(stage), headers={"If-None-Match": tag})
    assert (answer.status, answer.headers["ETag"]) == (304, tag)
    await put(stage, b"new")
    answer = await client.get(await link(stage), headers={"If-None-Match": tag})
    assert await answer.read() == b"new"


async def test_an_empty_object_is_given(stage: Stage) -> None:
    await put(stage, b"")
    client = await stage.client()
    answer = await client.get(await link(stage))
    assert (answer.status, await answer.read()) == (200, b"")


@pytest.mark.parametrize("content_type", ["text/html", "image/svg+xml", "application/pdf"])
async def test_what_could_act_under_our_name_is_only_downloaded(
    stage: Stage, content_type: str
) -> None:
    await put(stage, b"<script>alert(1)</script>", content_type)
    client = await stage.client()
    answer = await client.get(await link(stage, filename="x.html"))
    assert answer.content_type == "application/octet-stream"
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_link_opens_one_object_for_its_time(stage: Stage) -> None:
    await put(stage)
    client = await stage.client()
    path = await link(stage)
    assert (await client.get(path.replace("b.png", "c.png"))).status == 403
    assert (await client.get(path.replace("a/b", "a/../b"))).status in {403, 404}
    assert (await client.get(path + "&x=1")).status == 403
    assert (await client.get("/o/a/b.png")).status == 403
    assert (await client.put(path, data=b"x")).status == 403
    gone = await client.get(await link(stage, "a/none.png"))
    assert gone.status == 404
    stage.clock.advance(600)
    assert (await problem(await client.get(path)))["code"] == "link_expired"


async def test_an_object_that_is_replaced_between_look_and_read_is_not_mixed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(stage)
    stat = stage.front.objects.stat

    async def stat_then_replace(key: str) -> ObjectInfo:
        info = await stat(key)
        await put(stage, b"y" * SIZE)
        return info

    monkeypatch.setattr(stage.front.objects, "stat", stat_then_replace)
    client = await stage.client()
    assert (await client.get(await link(stage))).status == 404


async def test_a_signed_upload_is_stored_once(stage: Stage) -> None:
    url = await stage.front.objects.presign(
        "PUT", "up/x.png", 600, content_type="image/png", size_bytes=SIZE
    )
    path, client = stage.path(url), await stage.client()
    headers = {"Content-Type": "image/png"}
    short = await client.put(path, data=CONTENT[:-1], headers=headers)
    assert short.status == 403
    typed = await client.put(path, data=CONTENT, headers={"Content-Type": "image/gif"})
    assert typed.status == 403
    packed = {**headers, "Content-Encoding": "x-gzip"}
    assert (await client.put(path, data=CONTENT, headers=packed)).status == 403
    done = await client.put(path, data=CONTENT, headers=headers)
    assert done.status == 200
    assert await stage.front.objects.read("up/x.png", 1 << 20) == CONTENT
    again = await client.put(path, data=CONTENT, headers=headers)
    assert again.status == 403
    read = await client.get(await link(stage, "up/x.png"))
    assert read.headers["ETag"]


async def test_where_the_store_serves_its_own_links_there_is_nothing_here(
    migrated_file: Path, tmp_path: Path, clock: HeldClock
) -> None:
    async with staged(migrated_file, tmp_path, clock, signed=False) as stage:
        await put(stage)
        client = await stage.client()
        assert (await client.get(await link(stage))).status == 404

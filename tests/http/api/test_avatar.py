"""One's own picture: made small elsewhere, kept under a key of ours, replaced, taken away."""

import asyncio
import io
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient
from PIL import Image

from limner.core.clock import HeldClock
from limner.core.errors import Busy, EngineUnavailable, TimedOut
from limner.http.api import avatar
from limner.http.auth import csrf
from limner.storage.sql.accounts import User
from limner.storage.sql.audit import AuditLine
from tests.fakes.front import Stage, problem, staged
from tests.fakes.paper import Visitor

PATH = avatar.PATH
TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


@pytest.fixture
async def user(stage: Stage) -> User:
    return await stage.user()


def picture(kind: str = "PNG", colour: str = "teal", **options: Any) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (300, 200), colour).save(made, kind, **options)
    return made.getvalue()


async def sent(
    client: TestClient[Any, Any], body: Any = None, kind: str = "image/png", **headers: str
) -> ClientResponse:
    """Send a picture, or what is none."""
    data = picture() if body is None else body
    return await client.put(PATH, data=data, headers={"Content-Type": kind, **headers})


async def keys(stage: Stage) -> list[str]:
    return [entry.key for entry in await stage.front.objects.list("avatars/")]


async def url_of(client: TestClient[Any, Any]) -> str | None:
    found: str | None = (await (await client.get("/api/me")).json())["avatar_url"]
    return found


@pytest.mark.parametrize("kind", TYPES)
async def test_a_picture_is_put_and_shown_by_a_link(stage: Stage, user: User, kind: str) -> None:
    client = await stage.bearer(user)
    assert await url_of(client) is None
    answer = await sent(client, picture(kind), TYPES[kind])
    assert answer.status == 200, await answer.text()
    url = (await answer.json())["avatar_url"]
    stranger = await stage.client()
    shown = await stranger.get(stage.path(url))
    assert (shown.status, shown.content_type) == (200, "image/png")
    assert "sandbox" in shown.headers["Content-Security-Policy"]
    image = Image.open(io.BytesIO(await shown.read()))
    assert (image.format, image.size, image.info) == ("PNG", (256, 256), {})
    (key,) = await keys(stage)
    assert key == (await User.get(id=user.id)).avatar_key
    assert key.startswith(f"avatars/{user.id}/")
    line = await AuditLine.get(event="user.avatar_changed")
    assert (line.actor, line.subject, line.data) == (user.id, user.id, {"has_avatar": True})


async def test_where_a_picture_was_taken_and_how_it_lay_is_not_kept(
    stage: Stage, user: User
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 0.0)})
    client = await stage.bearer(user)
    answer = await sent(client, picture("JPEG", exif=exif.tobytes()), "image/jpeg")
    assert answer.status == 200
    (key,) = await keys(stage)
    stored = await stage.front.objects.read(key, 1 << 20)
    assert not Image.open(io.BytesIO(stored)).getexif()
    assert b"Exif" not in stored


async def test_the_link_is_made_anew_and_ends(stage: Stage, user: User) -> None:
    client = await stage.bearer(user)
    await sent(client)
    first = await url_of(client)
    tag = (await client.get("/api/me")).headers["ETag"]
    ttl_s = (await stage.front.tunables.current()).result_link_ttl_s
    stage.clock.advance(ttl_s + 1)
    client = await stage.bearer(user)
    second = await url_of(client)
    assert first is not None
    assert second is not None
    assert first != second
    seen = await client.get("/api/me", headers={"If-None-Match": tag})
    assert seen.status == 200
    stranger = await stage.client()
    assert (await stranger.get(stage.path(first))).status == 403
    assert (await stranger.get(stage.path(second))).status == 200


async def test_the_tag_of_the_account_changes_with_its_picture(stage: Stage, user: User) -> None:
    client = await stage.bearer(user)
    seen = {"If-None-Match": (await client.get("/api/me")).headers["ETag"]}
    assert (await client.get("/api/me", headers=seen)).status == 304
    await sent(client)
    assert (await client.get("/api/me", headers=seen)).status == 200


async def test_a_new_picture_takes_the_place_of_the_old(stage: Stage, user: User) -> None:
    client = await stage.bearer(user)
    await sent(client)
    (old,), old_url = await keys(stage), await url_of(client)
    await sent(client, picture(colour="red"))
    (new,) = await keys(stage)
    assert new != old
    assert old_url is not None
    assert (await (await stage.client()).get(stage.path(old_url))).status == 404


async def test_a_picture_is_taken_away(stage: Stage, user: User) -> None:
    client = await stage.signed_in(user)
    await sent(client)
    answer = await client.delete(PATH)
    assert (answer.status, await answer.read()) == (204, b"")
    assert await url_of(client) is None
    assert await keys(stage) == []
    assert (await client.delete(PATH)).status == 204
    lines = await AuditLine.filter(event="user.avatar_changed").order_by("id")
    assert [line.data for line in lines] == [{"has_avatar": True}, {"has_avatar": False}]


async def test_everybody_changes_their_own_and_no_other(stage: Stage, user: User) -> None:
    other = await stage.user()
    mine, theirs = await stage.bearer(user), await stage.bearer(other)
    await sent(mine)
    kept = await keys(stage)
    assert await url_of(theirs) is None
    assert (await theirs.delete(PATH)).status == 204
    assert (await sent(theirs)).status == 200
    assert set(kept) < set(await keys(stage))
    for path in (f"{PATH}?user_id={user.id}", f"{PATH}?id={user.id}"):
        assert (await theirs.put(path, data=picture())).status == 422
        assert (await theirs.delete(path)).status == 422
    assert set(kept) < set(await keys(stage))
    assert (await User.get(id=user.id)).avatar_key == kept[0]


# Refused


def header_bomb() -> bytes:
    whole = picture()
    return whole[:16] + struct.pack(">II", 50_000, 50_000) + whole[24:]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        PNG,
        b"GIF89a/*\x01\x00\x01\x00*/=1;alert(1)//",
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        b"<!doctype html><script>alert(1)</script>",
        PNG + b"<html><script>alert(1)</script></html>",
        b"\xff\xd8\xff\xe0/*<svg onload=alert(1)>*/",
        picture()[:-100],
        picture("JPEG")[:400],
        header_bomb(),
    ],
    ids=[
        *("empty", "bare", "gif", "svg", "html", "png page", "jpeg page"),
        *("cut png", "cut jpeg", "header bomb"),
    ],
)
async def test_what_is_no_picture_is_refused(stage: Stage, user: User, body: bytes) -> None:
    client = await stage.bearer(user)
    found = await problem(await sent(client, body))
    assert (found["status"], found["code"]) == (422, "invalid")
    assert await keys(stage) == []
    assert (await User.get(id=user.id)).avatar_key == ""


@pytest.mark.parametrize(
    "kind",
    [
        *("image/gif", "image/svg+xml", "text/html", "application/json", "image/*", "multipart/x"),
        *("application/octet-stream", "image/pngx"),
    ],
)
async def test_only_three_types_are_taken(stage: Stage, user: User, kind: str) -> None:
    found = await problem(await sent(await stage.bearer(user), kind=kind))
    assert (found["status"], found["code"]) == (415, "unsupported_media_type")


async def test_a_type_with_parameters_and_capitals_is_one(stage: Stage, user: User) -> None:
    client = await stage.bearer(user)
    assert (await sent(client, kind="Image/PNG; charset=binary")).status == 200


@pytest.mark.parametrize("is_announced", [True, False])
async def test_over_a_mebibyte_is_too_large(stage: Stage, user: User, is_announced: bool) -> None:
    client = await stage.bearer(user)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield bytes(65_536)

    body: Any = io.BytesIO(bytes((1 << 20) + 1)) if is_announced else pieces()
    answer = await sent(client, body)
    assert (answer.status, (await problem(answer))["code"]) == (413, "too_large")


async def test_a_mebibyte_is_not(stage: Stage, user: User) -> None:
    whole = picture("JPEG")
    body = whole + bytes((1 << 20) - len(whole))
    assert (await sent(await stage.bearer(user), body, "image/jpeg")).status == 200


async def test_a_compressed_body_is_refused(stage: Stage, user: User) -> None:
    client = await stage.bearer(user)
    answer = await sent(client, picture(), **{"Content-Encoding": "gzip"})
    assert answer.status == 400


async def test_another_site_cannot_change_it(stage: Stage, user: User) -> None:
    client = await stage.signed_in(user)
    assert (await sent(client)).status == 200
    kept = await keys(stage)
    del client.session.headers[csrf.HEADER]
    for answer in (await sent(client), await client.delete(PATH)):
        assert (answer.status, (await problem(answer))["code"]) == (403, "csrf")
    foreign = await sent(client, Origin="https://evil.test")
    assert foreign.status == 403
    assert await keys(stage) == kept


async def test_it_needs_the_scope(stage: Stage, user: User) -> None:
    assert (await sent(await stage.client())).status == 401
    narrow = await stage.client(await stage.key("account:read", user=user))
    assert (await sent(narrow)).status == 403
    assert (await narrow.delete(PATH)).status == 403
    wide = await stage.client(await stage.key("account:write", user=user))
    assert (await sent(wide)).status == 200


async def test_pictures_are_few(stage: Stage, user: User) -> None:
    client = await stage.bearer(user)
    for _ in range(avatar.CHANGES_BURST):
        assert (await sent(client, b"")).status == 422
    answer = await sent(client)
    assert answer.status == 429
    assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("error", [Busy("full", retry_after_s=5), TimedOut("slow")])
async def test_what_cannot_be_made_now_is_asked_for_again(
    stage: Stage, user: User, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def away(_: bytes) -> bytes:
        raise error

    monkeypatch.setattr(stage.front.portraits, "make", away)
    answer = await sent(await stage.bearer(user))
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert await keys(stage) == []


# Between the store and the database


async def test_of_two_at_once_one_wins_and_no_object_is_left_over(stage: Stage, user: User) -> None:
    client = await stage.bearer(user)
    answers = await asyncio.gather(*(sent(client, picture(colour=one)) for one in ("red", "blue")))
    statuses = sorted(answer.status for answer in answers)
    assert statuses in ([200, 200], [200, 409])
    assert await keys(stage) == [(await User.get(id=user.id)).avatar_key]


async def test_who_was_overtaken_leaves_no_object(
    stage: Stage, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await stage.bearer(user)
    made = stage.front.portraits.make

    async def overtaken(content: bytes) -> bytes:
        portrait = await made(content)
        await User.filter(id=user.id).update(avatar_key="avatars/x/1.png")
        return portrait

    monkeypatch.setattr(stage.front.portraits, "make", overtaken)
    found = await problem(await sent(client))
    assert (found["status"], found["code"]) == (409, "stale")
    assert await keys(stage) == []
    assert (await User.get(id=user.id)).avatar_key == "avatars/x/1.png"


async def test_an_account_that_is_deleted_meanwhile_gets_no_picture(
    stage: Stage, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await stage.bearer(user)
    made = stage.front.portraits.make

    async def late(content: bytes) -> bytes:
        portrait = await made(content)
        await User.filter(id=user.id).update(state="deleted")
        return portrait

    monkeypatch.setattr(stage.front.portraits, "make", late)
    assert (await sent(client)).status == 409
    assert await keys(stage) == []


async def test_an_old_object_that_cannot_be_deleted_is_left_to_the_sweeper(
    stage: Stage, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await stage.bearer(user)
    await sent(client)

    async def away(_: str) -> None:
        raise EngineUnavailable("away")

    monkeypatch.setattr(stage.front.objects, "delete", away)
    assert (await sent(client)).status == 200
    assert len(await keys(stage)) == 2


async def test_without_the_store_nothing_is_changed(
    stage: Stage, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise EngineUnavailable("away")

    monkeypatch.setattr(stage.front.objects, "put", away)
    assert (await sent(await stage.bearer(user))).status == 503
    assert (await User.get(id=user.id)).avatar_key == ""


async def test_a_cache_that_is_away_stops_nobody(
    stage: Stage, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> None:
        raise EngineUnavailable("away")

    client = await stage.bearer(user)
    monkeypatch.setattr(stage.front.cache, "take", away)
    assert (await sent(client)).status == 200


# Elsewhere


async def test_the_export_names_the_picture(stage: Stage, user: User) -> None:
    client = await stage.bearer(user)
    await sent(client)
    found = json.loads(await (await client.post("/api/me/export")).text())
    assert [found["account"]["avatar_key"]] == await keys(stage)


async def test_a_deleted_account_names_no_picture(stage: Stage, user: User) -> None:
    client = await stage.bearer(user)
    await sent(client)
    assert (await client.delete("/api/me")).status == 204
    assert (await User.get(id=user.id)).avatar_key == ""


async def test_the_page_shows_it_with_a_way_to_change_it(stage: Stage, user: User) -> None:
    client = await stage.signed_in(user)
    page = await Visitor(client).open("/account")
    assert 'id="avatar-form" hidden' in page.source
    assert '<img class="face"' not in page.source
    assert 'data-delete="/api/me/avatar"' not in page.source
    await sent(client)
    page = await Visitor(client).open("/account")
    assert f'<img class="face" src="{stage.front.settings.base_url}/o/avatars/' in page.source
    assert 'data-delete="/api/me/avatar"' in page.source


async def test_the_description_names_the_bodies_that_are_taken(stage: Stage) -> None:
    client = await stage.client()
    document = await (await client.get("/openapi.json")).json()
    operation = document["paths"][PATH]["put"]
    assert set(operation["requestBody"]["content"]) == set(TYPES.values())
    assert {"200", "409", "413", "415", "422"} <= set(operation["responses"])
    reference = await (await client.get("/docs")).text()
    assert "--data-binary @FILE" in reference

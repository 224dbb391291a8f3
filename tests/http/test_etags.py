"""Entity tags: an object that has not changed is not sent again, and one that has is."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from limner.core.clock import HeldClock
from limner.http.table import ROUTES
from limner.storage.sql.comments import Comment
from limner.storage.sql.messaging import DeadLetter
from tests.fakes.front import PROVIDER, Stage, staged

Client = TestClient[Any, Any]


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


async def made(client: Client, path: str, body: dict[str, Any]) -> str:
    answer = await client.post(path, json=body)
    assert answer.status == 201, await answer.text()
    return f"{path}/{(await answer.json())['id']}"


async def objects(stage: Stage, client: Client) -> list[str]:
    """Make one object of each kind and give their paths."""
    await stage.task()
    comment = await Comment.first()
    assert comment is not None
    letter = DeadLetter(
        id="dead_1", consumer="x", topic="x.y", message_id="1", app_id="", body=b"{}", attempt=1,
        reason="r", detail="d", trace_id="", state="open", created_at=stage.clock.now(),
    )  # fmt: skip
    await stage.add(letter)
    return [
        await made(client, "/api/suppressions", {"address": "anna@example.com"}),
        await made(client, "/api/keys", {"scopes": ["tasks:read"]}),
        await made(client, "/api/sources", {"name": "x", "connector": "demo"}),
        await made(client, "/api/providers", PROVIDER),
        f"/api/comments/{comment.id}",
        f"/api/ops/dead-letters/{letter.id}",
    ]


async def test_who_has_the_newest_version_is_not_sent_it_again(stage: Stage) -> None:
    client = await stage.admin()
    for path in await objects(stage, client):
        first = await client.get(path)
        tag = first.headers["ETag"]
        for given in (tag, f'"other", {tag}', "*", tag.removeprefix("W/")):
            again = await client.get(path, headers={"If-None-Match": given})
            assert (again.status, await again.read()) == (304, b""), path
            assert again.headers["ETag"] == tag
        other = await client.get(path, headers={"If-None-Match": '"other"'})
        assert other.status == 200
        assert await other.json() == await first.json()


async def test_a_change_gives_another_tag(stage: Stage) -> None:
    client = await stage.admin()
    _, key, source, provider, *_ = await objects(stage, client)
    tags = {path: (await client.get(path)).headers["ETag"] for path in (key, source, provider)}
    await client.delete(key)
    await client.patch(source, json={"name": "y"})
    await client.patch(provider, json={"kind": "image"})
    for path, tag in tags.items():
        changed = await client.get(path, headers={"If-None-Match": tag})
        assert changed.status == 200, path
        assert changed.headers["ETag"] != tag


def test_every_single_object_has_a_tag() -> None:
    single = {
        route.path
        for route in ROUTES
        if route.method == "GET" and route.path.startswith("/api/") and route.path.endswith("{id}")
    }
    tagged = {route.path for route in ROUTES if route.is_tagged}
    assert single <= tagged

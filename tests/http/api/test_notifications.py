"""Notifications: listed, counted, read; made with what they tell of, and announced."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from limner.core.clock import HeldClock
from limner.core.message import Event
from limner.storage.sql.accounts import User
from limner.storage.sql.notifications import Notification, notify
from tests.fakes.front import Stage, staged

LIMIT_S = 10.0


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


async def told(stage: Stage, user: User, *kinds: str) -> list[str]:
    """Tell a person of things, one a second, and give the notifications' ids."""
    for kind in kinds:
        work = stage.work()
        notify(work, user.id, kind, subject="key_1", data={"prefix": "lim_"})
        await stage.front.units.commit(work)
        stage.clock.advance(1)
    rows = await Notification.filter(user_id=user.id).order_by("created_at")
    return [row.id for row in rows]


async def test_ones_own_are_listed_newest_first_with_the_count_of_unread(stage: Stage) -> None:
    user, other = await stage.user(), await stage.user()
    first, second = await told(stage, user, "key.created", "user.totp_enabled")
    await told(stage, other, "key.created")
    client = await stage.bearer(user)
    found = await (await client.get("/api/notifications")).json()
    assert [row["id"] for row in found["data"]] == [second, first]
    assert found["unread"] == 2
    assert found["next_cursor"] is None
    assert found["data"][1] == {
        "id": first,
        "kind": "key.created",
        "subject": "key_1",
        "data": {"prefix": "lim_"},
        "created_at": "2026-11-22T12:00:00Z",
        "read_at": None,
    }


async def test_pages_follow_each_other_and_each_has_the_count(stage: Stage) -> None:
    user = await stage.user()
    idents = await told(stage, user, "a", "b", "c")
    client = await stage.bearer(user)
    first = await client.get("/api/notifications?limit=2")
    page = await first.json()
    assert 'rel="next"' in first.headers["Link"]
    rest = await (
        await client.get("/api/notifications", params={"cursor": page["next_cursor"]})
    ).json()
    assert [row["id"] for row in page["data"] + rest["data"]] == idents[::-1]
    assert (page["unread"], rest["unread"]) == (3, 3)


async def test_what_was_read_is_told_apart_and_stays_read(stage: Stage) -> None:
    user = await stage.user()
    first, second = await told(stage, user, "a", "b")
    client = await stage.bearer(user)
    answer = await client.post("/api/notifications/read", json={"ids": [first]})
    assert await answer.json() == {"unread": 1}
    read_at = (await Notification.get(id=first)).read_at
    stage.clock.advance(1)
    await client.post("/api/notifications/read", json={"ids": [first, "notification_none"]})
    assert (await Notification.get(id=first)).read_at == read_at
    for asked, expected in (("true", [second]), ("false", [first])):
        page = await (await client.get(f"/api/notifications?unread={asked}")).json()
        assert [row["id"] for row in page["data"]] == expected
    kinds = await (await client.get("/api/notifications?kind=b")).json()
    assert [row["id"] for row in kinds["data"]] == [second]


async def test_all_are_read_at_once(stage: Stage) -> None:
    user, other = await stage.user(), await stage.user()
    await told(stage, user, "a", "b")
    await told(stage, other, "a")
    client = await stage.bearer(user)
    assert await (await client.post("/api/notifications/read-all")).json() == {"unread": 0}
    assert await Notification.filter(read_at=None).count() == 1


async def test_nobody_reads_or_marks_what_is_somebody_elses(stage: Stage) -> None:
    user = await stage.user()
    (ident,) = await told(stage, user, "a")
    for client in (await stage.bearer(await stage.user()), await stage.admin()):
        found = await (await client.get("/api/notifications")).json()
        assert (found["data"], found["unread"]) == ([], 0)
        await client.post("/api/notifications/read", json={"ids": [ident]})
        await client.post("/api/notifications/read-all")
    assert (await Notification.get(id=ident)).read_at is None


@pytest.mark.parametrize(
    "body", [{}, {"ids": []}, {"ids": ["x" * 49]}, {"ids": ["x"] * 201}, {"ids": [5]}, {"id": "x"}]
)
async def test_a_body_that_does_not_fit_is_refused(stage: Stage, body: dict[str, object]) -> None:
    client = await stage.admin()
    assert (await client.post("/api/notifications/read", json=body)).status == 422


async def test_a_notification_is_announced_to_its_owner(stage: Stage) -> None:
    user = await stage.user()
    async with stage.front.broker.subscribe() as events:
        (ident,) = await told(stage, user, "key.created")
        async with asyncio.timeout(LIMIT_S):
            event = Event.from_bytes((await anext(events)).body)
    assert (event.type, event.user_id) == ("notification.created", user.id)
    assert event.subject == {"kind": "notification", "id": ident}
    assert event.data == {"kind": "key.created", "subject": "key_1"}


async def test_what_is_not_committed_tells_nobody(stage: Stage) -> None:
    user = await stage.user()
    work = stage.work()
    work.move(user, expected="disabled", to="active")
    notify(work, user.id, "a")
    await stage.front.units.commit(work)
    assert not await Notification.exists()


async def test_a_new_key_is_told_without_the_key(stage: Stage) -> None:
    user = await stage.user()
    client = await stage.signed_in(user)
    made = await (await client.post("/api/keys", json={"scopes": ["tasks:read"]})).json()
    row = await Notification.get(user_id=user.id)
    assert (row.kind, row.subject, row.data) == (
        "key.created",
        made["id"],
        {"prefix": made["prefix"]},
    )


@pytest.mark.parametrize(("before", "after"), [("pending", "needs_review"), ("running", "failed")])
async def test_the_owner_of_a_source_learns_of_tasks_that_need_them(
    stage: Stage, before: str, after: str
) -> None:
    user = await stage.user()
    task = await stage.task(before, user_id=user.id)
    await stage.move(task, after)
    row = await Notification.get(user_id=user.id)
    assert (row.kind, row.subject) == (f"task.{after}", task.id)


async def test_a_task_that_goes_well_tells_nobody(stage: Stage) -> None:
    task = await stage.task("running")
    await stage.move(task, "succeeded", "emailed")
    assert not await Notification.exists()

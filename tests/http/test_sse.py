"""Event streams: replay, snapshot, live news, the end; lost news, slow clients and shutdown."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientPayloadError
from aiohttp.test_utils import TestClient

from limner.core import failpoints
from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable
from limner.core.ids import uuid7
from limner.core.message import Envelope, Event
from limner.http import stream as connection
from limner.http.sse import HUB
from limner.storage.sql import lines as line_reads
from limner.storage.sql.accounts import ApiKey, revoke_key
from limner.storage.sql.tasks import Task
from limner.storage.sql.timeline import TimelineLine
from tests.fakes.front import PATIENCE_S, Stage, problem, staged, until
from tests.fakes.sse import Listener, quick


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


_quick = quick


async def connect(
    client: TestClient[Any, Any], task: Task, last: str | None = None, *, by_query: bool = False
) -> Listener:
    path, headers = f"/api/tasks/{task.id}/stream", {}
    if last is not None and by_query:
        path += f"?last_event_id={last}"
    elif last is not None:
        headers["Last-Event-ID"] = last
    answer = await client.get(path, headers=headers)
    assert answer.status == 200, await answer.text()
    return Listener(answer)


async def live(stage: Stage, task: Task, count: int = 1) -> None:
    """Return when ``count`` streams of a task are fed."""
    hub = stage.server.app[HUB]

    def is_fed() -> bool:
        channel = hub._channels.get(task.id)
        return channel is not None and sum(one.is_live for one in channel.streams) == count

    await until(is_fed)


async def ended(stage: Stage) -> Task:
    """Give a task with lines 1 to 4: pending, extracted, cancelled, done."""
    task = await stage.task()
    return await stage.move(task, "extracted", "cancelled")


async def progress(stage: Stage, task: Task, percent: int) -> None:
    event = Event(
        id=uuid7().hex,
        type="task.progress",
        at=stage.clock.now(),
        subject={"kind": "task", "id": task.id},
        data={"percent": percent, "step": percent, "steps": 100},
    )
    await stage.front.broker.publish([envelope_of(event.type, event.to_bytes())])


def envelope_of(topic: str, body: bytes) -> Envelope:
    return Envelope(message_id=uuid7().hex, topic=topic, body=body, kind="event")


async def test_a_stream_begins_with_its_headers_and_a_reconnection_time(stage: Stage) -> None:
    listener = await connect(await stage.admin(), await ended(stage))
    headers = listener.response.headers
    assert listener.response.content_type == "text/event-stream"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Accel-Buffering"] == "no"
    await listener.rest()
    assert listener.retries == [3000]


# What is asked for against what comes: the ids of a stream on a task that has ended.
REPLAYS = [
    (None, [("snapshot", "3"), ("done", "4")]),
    ("0", [("status", "1"), ("status", "2"), ("status", "3"), ("done", "4")]),
    ("2", [("status", "3"), ("done", "4")]),
    ("3", [("done", "4")]),
    ("nonsense", [("snapshot", "3"), ("done", "4")]),
    ("-1", [("snapshot", "3"), ("done", "4")]),
    ("99999999999999999999", [("snapshot", "3"), ("done", "4")]),
]


@pytest.mark.parametrize("by_query", [False, True])
@pytest.mark.parametrize(("last", "expected"), REPLAYS)
async def test_a_task_that_has_ended_is_told_from_where_the_client_was(
    stage: Stage, last: str | None, expected: list[tuple[str, str]], by_query: bool
) -> None:
    task = await ended(stage)
    listener = await connect(await stage.admin(), task, last, by_query=by_query)
    assert [(heard.name, heard.id) for heard in await listener.rest()] == expected


async def test_whoever_is_at_the_end_gets_nothing_more(stage: Stage) -> None:
    task = await ended(stage)
    admin = await stage.admin()
    path = f"/api/tasks/{task.id}/stream"
    answer = await admin.get(path, headers={"Last-Event-ID": "4"})
    assert (answer.status, await answer.read()) == (204, b"")
    for beyond in (4, 7):
        assert (await admin.get(f"{path}?last_event_id={beyond}")).status == 204


async def test_an_event_says_what_happened_and_when(stage: Stage) -> None:
    task = await stage.task()
    await stage.move(task, "failed", detail="no\nprovider 猫", data={"a": 1})
    heard = await (await connect(await stage.admin(), task, "1")).rest()
    assert [(one.name, one.id) for one in heard] == [("status", "2"), ("error", "3"), ("done", "4")]
    assert heard[0].data == {
        "a": 1,
        "n": 2,
        "at": "2026-11-22T12:00:00Z",
        "state": "failed",
        "detail": "no\nprovider 猫",
    }


async def test_a_snapshot_shows_the_task_as_a_read_does(stage: Stage) -> None:
    task = await stage.task()
    admin = await stage.admin()
    listener = await connect(admin, task)
    heard = await listener.next()
    assert heard is not None
    assert (heard.name, heard.id) == ("snapshot", "1")
    assert heard.data == await (await admin.get(f"/api/tasks/{task.id}")).json()


async def test_what_happens_comes_as_it_happens_to_all_who_listen(stage: Stage) -> None:
    task = await stage.task()
    admin = await stage.admin()
    listeners = [await connect(admin, task), await connect(admin, task, "0")]
    await live(stage, task, 2)
    assert (await listeners[0].until("snapshot")).id == "1"
    assert (await listeners[1].until("status")).id == "1"
    await stage.move(task, "extracted")
    for listener in listeners:
        assert (await listener.until("status")).data["state"] == "extracted"
    work = stage.work()
    work.note(await Task.get(id=task.id), "log", {"message": "almost"})
    await stage.front.units.commit(work)
    await stage.move(task, "cancelled")
    for listener in listeners:
        heard = await listener.rest()
        assert [(one.name, one.id) for one in heard] == [
            ("log", "3"),
            ("status", "4"),
            ("done", "5"),
        ]
        assert heard[0].data["message"] == "almost"
    metrics = await (await admin.get("/metrics")).text()
    assert "limner_sse_connections 0.0" in metrics


async def test_progress_comes_without_a_number_and_is_not_kept(stage: Stage) -> None:
    task = await stage.task()
    admin = await stage.admin()
    listener = await connect(admin, task)
    await live(stage, task)
    await progress(stage, task, 40)
    heard = await listener.until("progress")
    assert (heard.id, heard.data) == ("", {"percent": 40, "step": 40, "steps": 100})
    again = await connect(admin, task, "0")
    await live(stage, task, 2)
    await stage.move(task, "cancelled")
    assert [one.name for one in await again.rest()] == ["status", "status", "done"]


async def test_of_much_progress_the_latest_is_enough(stage: Stage) -> None:
    task = await stage.task()
    listener = await connect(await stage.admin(), task)
    await live(stage, task)
    for percent in range(100):
        await progress(stage, task, percent)
    seen = [(await listener.until("progress")).data["percent"]]
    while seen[-1] < 99:
        seen.append((await listener.until("progress")).data["percent"])
    assert len(seen) < 50
    assert seen == sorted(seen)


async def test_a_retried_task_is_replayed_through_with_done_only_at_the_end(stage: Stage) -> None:
    task = await stage.task()
    await stage.move(task, "failed", "pending")
    admin = await stage.admin()
    listener = await connect(admin, task, "0")
    await live(stage, task)
    await stage.move(task, "cancelled")
    heard = await listener.rest()
    assert [(one.name, one.data["state"]) for one in heard] == [
        ("status", "pending"),
        ("status", "failed"),
        ("error", "failed"),
        ("status", "failed"),
        ("status", "pending"),
        ("status", "cancelled"),
        ("done", "cancelled"),
    ]
    assert [int(one.id) for one in heard] == list(range(1, 8))
    # Whoever was at the first end is not at the end any more.
    later = await (await connect(admin, task, "4")).rest()
    assert [one.id for one in later] == ["5", "6", "7"]


async def test_what_is_noted_after_the_end_is_no_news(stage: Stage) -> None:
    task = await ended(stage)
    work = stage.work()
    work.note(task, "log", {"message": "late"})
    await stage.front.units.commit(work)
    admin = await stage.admin()
    heard = await (await connect(admin, task, "2")).rest()
    assert [(one.name, one.id) for one in heard] == [("status", "3"), ("done", "4")]
    answer = await admin.get(f"/api/tasks/{task.id}/stream", headers={"Last-Event-ID": "5"})
    assert answer.status == 204


async def test_a_task_whose_history_is_gone_still_ends(stage: Stage) -> None:
    task = await ended(stage)
    await stage.front.database.write().execute("DELETE FROM timeline")
    admin = await stage.admin()
    heard = await (await connect(admin, task)).rest()
    assert [one.name for one in heard] == ["snapshot", "done"]
    assert (heard[1].id, heard[1].data["state"]) == ("4", "cancelled")
    heard = await (await connect(admin, task, "1")).rest()
    assert [(one.name, one.id) for one in heard] == [("done", "4")]
    answer = await admin.get(f"/api/tasks/{task.id}/stream", headers={"Last-Event-ID": "4"})
    assert answer.status == 204


async def test_a_long_history_is_replayed_piece_by_piece_without_a_gap(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await stage.task()
    for _ in range(3):
        await stage.move(task, "failed", "pending")
    await stage.move(task, "cancelled")
    count = await TimelineLine.all().count()
    admin = await stage.admin()
    for limit in range(2, count + 2):
        monkeypatch.setattr(line_reads, "LINES_PER_READ", limit)
        heard = await (await connect(admin, task, "0")).rest()
        assert [int(one.id) for one in heard] == list(range(1, count + 1)), limit
        assert [one.name for one in heard].count("done") == 1
        assert heard[-1].name == "done"
        heard = await (await connect(admin, task)).rest()
        assert [one.id for one in heard] == [str(count - 1), str(count)]


async def test_an_event_that_was_lost_delays_and_never_hides(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await stage.task()
    listener = await connect(await stage.admin(), task)
    await live(stage, task)

    async def lose(_: Envelope) -> None:
        pass

    monkeypatch.setattr(stage.server.app[HUB], "_hear", lose)
    await stage.move(task, "extracted", "cancelled")
    assert [one.name for one in await listener.rest()] == ["snapshot", "status", "status", "done"]


async def test_what_is_no_event_is_passed_over(stage: Stage) -> None:
    task = await stage.task()
    listener = await connect(await stage.admin(), task)
    await live(stage, task)
    await stage.front.broker.publish([envelope_of("task.x", b"{}")])
    await stage.move(task, "cancelled")
    assert (await listener.rest())[-1].name == "done"


async def test_a_broker_that_was_away_is_made_up_for(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = stage.server.app[HUB]
    monkeypatch.setattr(hub, "ping_s", 3600)
    task = await stage.task()
    listener = await connect(await stage.admin(), task)
    await live(stage, task)

    def fail(_: Envelope) -> None:
        raise EngineUnavailable("away")

    with monkeypatch.context() as away:
        # The news itself breaks the subscription; what follows comes after the new one.
        away.setattr(hub, "_hear", fail)
        await stage.move(task, "extracted")
        assert (await listener.until("status")).data["state"] == "extracted"
    await stage.move(task, "cancelled")
    assert (await listener.rest())[-1].name == "done"


async def test_a_loop_that_fails_begins_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = stage.server.app[HUB]
    task = await stage.task()
    listener = await connect(await stage.admin(), task)
    await live(stage, task)
    refresh, failures = hub._refresh, [RuntimeError("bug"), EngineUnavailable("away")]

    async def fail_first(batch: Any) -> None:
        if failures:
            raise failures.pop()
        await refresh(batch)

    monkeypatch.setattr(hub, "_refresh", fail_first)
    await stage.move(task, "extracted", "cancelled")
    assert (await listener.rest())[-1].name == "done"
    assert not failures


@pytest.mark.parametrize("point", ["before", "after"])
async def test_a_write_that_fails_is_made_good_and_nothing_comes_twice(
    stage: Stage, point: str
) -> None:
    task = await stage.task()
    listener = await connect(await stage.admin(), task)
    await live(stage, task)
    failpoints.arm(f"sse.write.{point}:2:raise")
    await stage.move(task, "extracted", "cancelled")
    heard = await listener.rest()
    assert f"sse.write.{point}" in failpoints.fired()
    assert [one.id for one in heard] == ["1", "2", "3", "4"]


async def test_a_replay_that_breaks_ends_the_connection_and_is_taken_up_again(
    stage: Stage,
) -> None:
    task = await ended(stage)
    admin = await stage.admin()
    failpoints.arm("sse.write.before:3:raise")
    listener = await connect(admin, task, "0")
    first = await listener.next()
    assert first is not None
    with pytest.raises(ClientPayloadError):
        await listener.rest()
    heard = await (await connect(admin, task, first.id)).rest()
    assert [one.id for one in heard] == ["2", "3", "4"]


async def test_a_client_that_does_not_read_is_cut_and_the_others_go_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "BACKLOG_LIMIT_BYTES", 200_000)
    task = await stage.task()
    admin = await stage.admin()
    listener = await connect(admin, task)
    host, port = stage.server.host, stage.server.port
    reader, writer = await asyncio.open_connection(host, port, limit=1024)
    key = admin.session.headers["Authorization"]
    request = f"GET /api/tasks/{task.id}/stream HTTP/1.1\r\nHost: x\r\nAuthorization: {key}"
    writer.write(f"{request}\r\n\r\n".encode())
    await live(stage, task, 2)
    hub = stage.server.app[HUB]
    frames = asyncio.create_task(listener.rest())
    for _ in range(400):
        if len(hub._channels[task.id].streams) < 2:
            break
        work = stage.work()
        work.note(await Task.get(id=task.id), "log", {"message": "x" * 100_000})
        await stage.front.units.commit(work)
        await asyncio.sleep(0)
    assert len(hub._channels[task.id].streams) == 1
    await stage.move(task, "cancelled")
    assert (await frames)[-1].name == "done"
    reader.feed_eof()
    writer.close()


async def test_an_old_client_gets_its_stream_without_chunks(stage: Stage) -> None:
    task = await ended(stage)
    key = await stage.key()
    reader, writer = await asyncio.open_connection(stage.server.host, stage.server.port)
    request = f"GET /api/tasks/{task.id}/stream HTTP/1.0\r\nAuthorization: Bearer {key}\r\n\r\n"
    writer.write(request.encode())
    raw = await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    head, _, content = raw.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    content = content.replace(b": ping\n\n", b"")
    assert content.startswith(b"retry: 3000\n\nid: 3\nevent: snapshot\ndata: {")
    assert b"event: done" in content


async def test_a_quiet_stream_is_pinged(stage: Stage) -> None:
    task = await stage.task()
    hub, started = stage.server.app[HUB], time.monotonic()
    listener = await connect(await stage.admin(), task)
    reading = asyncio.create_task(listener.rest())
    await until(lambda: listener.pings >= 3)
    lasted = time.monotonic() - started
    assert listener.pings <= lasted / hub.ping_s + 1
    await stage.move(task, "cancelled")
    assert [one.name for one in await reading] == ["snapshot", "status", "done"]


async def test_a_client_that_leaves_is_forgotten(stage: Stage) -> None:
    task = await stage.task()
    listener = await connect(await stage.admin(), task)
    await live(stage, task)
    listener.response.close()
    hub = stage.server.app[HUB]
    await until(lambda: not hub._channels)


@pytest.mark.parametrize("how", ["revoked", "disabled", "expired"])
async def test_whoever_may_not_be_here_any_more_is_sent_away(stage: Stage, how: str) -> None:
    task = await stage.task()
    client = await stage.client(await stage.key("admin", expires_s=60))
    browser = await stage.signed_in()
    listener, other = await connect(client, task), await connect(browser, task)
    await live(stage, task, 2)
    work = stage.work()
    if how == "revoked":
        revoke_key(work, await ApiKey.get())
    elif how == "disabled":
        work.move(stage.owner, expected="active", to="disabled")
    else:
        stage.clock.advance(60)
    await stage.front.units.commit(work)
    assert [one.name for one in await listener.rest()] == ["snapshot"]
    answer = await client.get(f"/api/tasks/{task.id}/stream", headers={"Last-Event-ID": "1"})
    assert (await problem(answer))["status"] == 401
    if how != "disabled":
        await live(stage, task, 1)
        other.response.close()
    else:
        assert [one.name for one in await other.rest()] == ["snapshot"]


async def test_at_shutdown_clients_are_told_when_to_come_back(stage: Stage) -> None:
    task = await stage.task()
    admin = await stage.admin()
    listeners = [await connect(admin, task) for _ in range(5)]
    await live(stage, task, 5)
    waiting = asyncio.create_task(admin.get(f"/api/tasks/{task.id}", headers={"Prefer": "wait=60"}))
    hub = stage.server.app[HUB]
    await until(lambda: bool(hub._channels[task.id].waiters))
    await hub.close()
    for listener in listeners:
        assert [one.name for one in await listener.rest()] == ["snapshot"]
        first, last = listener.retries
        assert first == 3000
        assert 1000 <= last <= 5000
    assert (await (await waiting).json())["state"] == "pending"
    late = await connect(admin, task)
    assert [one.name for one in await late.rest()] == ["snapshot"]
    assert len(late.retries) == 2

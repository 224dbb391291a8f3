"""The stream of everything an account owns: cursors, replay, gaps, scopes, and what it ends of."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient

from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable
from limner.core.ids import new_id, uuid7
from limner.core.message import Envelope, Event
from limner.http import channels, revocation, sse
from limner.http import stream as connection
from limner.http.auth.callers import Caller, still_valid
from limner.http.channels import Reader
from limner.http.frames import settled_in
from limner.http.ports import Front
from limner.http.sse import HUB, Hub
from limner.storage.sql import lines as line_reads
from limner.storage.sql import remembered
from limner.storage.sql.accounts import User
from limner.storage.sql.connection import Connection
from limner.storage.sql.jobs import Job
from limner.storage.sql.sessions import revoke_sessions
from limner.storage.sql.tasks import Task
from limner.storage.sql.timeline import TimelineLine
from tests.fakes.front import PATIENCE_S, Stage, staged, until
from tests.fakes.sse import Heard, Listener, quick

RECHECK_S = revocation.RECHECK_S
"""As it is: the tests look more often."""
STATEMENTS_S = 1.0
"""For the statements of a look."""


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


_quick = quick


def hub_of(stage: Stage) -> Hub:
    return stage.server.app[HUB]


async def connect(
    stage: Stage, client: TestClient[Any, Any], last: str | None = None, *, count: int = 1
) -> Listener:
    """Open an account's stream and wait until ``count`` of them are fed."""
    headers = {} if last is None else {"Last-Event-ID": last}
    answer = await client.get("/api/stream", headers=headers)
    assert answer.status == 200, await answer.text()
    hub = hub_of(stage)
    await until(lambda: sum(len(one.live) for one in hub._accounts.values()) >= count)
    return Listener(answer)


async def job(stage: Stage, user: User | None = None) -> Job:
    made = Job(
        id=new_id("job"), state="queued", user_id=(user or stage.owner).id, prompt="a red circle"
    )
    await stage.add(made)
    return made


async def announce(stage: Stage, kind: str, verb: str, ident: str, **data: Any) -> None:
    event = Event(
        id=uuid7().hex,
        type=f"{kind}.{verb}",
        at=stage.clock.now(),
        user_id=stage.owner.id,
        subject={"kind": kind, "id": ident},
        data=data,
    )
    envelope = Envelope(message_id=event.id, topic=event.type, body=event.to_bytes(), kind="event")
    await stage.front.broker.publish([envelope])


def about(heard: Heard) -> tuple[str, str, int]:
    return heard.data["object"]["kind"], heard.data["object"]["id"], heard.data["n"]


async def take(listener: Listener, count: int) -> list[Heard]:
    found = [await listener.next() for _ in range(count)]
    assert None not in found
    return [one for one in found if one is not None]


async def test_everything_of_ones_own_comes_and_names_its_object_and_number(stage: Stage) -> None:
    listener = await connect(stage, await stage.admin())
    task = await stage.move(await stage.task(), "extracted", "cancelled")
    heard = await take(listener, 4)
    assert [about(one) for one in heard] == [("task", task.id, n) for n in (1, 2, 3, 4)]
    assert [one.name for one in heard] == ["status", "status", "status", "done"]
    assert heard[1].data["state"] == "extracted"
    assert len({one.id for one in heard}) == 4
    # The end of one object is not the end of the stream.
    made = await job(stage)
    assert about((await take(listener, 1))[0]) == ("job", made.id, 1)


async def test_what_happened_before_is_not_told_to_who_asks_for_nothing(stage: Stage) -> None:
    task = await stage.task()
    listener = await connect(stage, await stage.admin())
    await stage.move(task, "extracted")
    assert about((await take(listener, 1))[0]) == ("task", task.id, 2)


async def test_others_objects_do_not_come_not_even_to_an_admin(stage: Stage) -> None:
    other = await stage.user()
    theirs = await stage.client(await stage.key("tasks:read", user=other))
    mine, listener = (
        await connect(stage, await stage.admin()),
        await connect(stage, theirs, count=2),
    )
    task = await stage.task()
    foreign = await stage.task(user_id=other.id)
    assert about((await take(listener, 1))[0])[1] == foreign.id
    assert about((await take(mine, 1))[0])[1] == task.id
    await stage.move(task, "extracted")
    assert about((await take(mine, 1))[0]) == ("task", task.id, 2)


async def test_anothers_cursor_shows_nothing_but_ones_own(stage: Stage) -> None:
    mine = await connect(stage, await stage.admin())
    task = await stage.task()
    cursor = (await take(mine, 1))[0].id
    other = await stage.user()
    own = await stage.task(user_id=other.id)
    client = await stage.client(await stage.key("tasks:read", user=other))
    for last in (cursor, "0"):
        listener = await connect(stage, client, last, count=2)
        assert about((await take(listener, 1))[0])[1] == own.id
        listener.response.close()
    assert task.id != own.id


@pytest.mark.parametrize(
    ("scope", "kinds"),
    [
        ("tasks:read", ["task"]),
        ("generate:read", ["job"]),
        ("account:read", ["notification"]),
        ("sources:read", []),
        ("admin", ["task", "job", "notification"]),
    ],
)
async def test_a_key_hears_of_what_its_scopes_allow(
    stage: Stage, scope: str, kinds: list[str]
) -> None:
    listener = await connect(stage, await stage.client(await stage.key(scope)))
    for _ in range(2):
        # Again by a replay, which filters the same.
        await stage.task()
        await job(stage)
        await announce(stage, "notification", "created", "notification_1")
    hub = hub_of(stage)
    found = [about_kind(one) for one in await take(listener, 2 * len(kinds))]
    assert sorted(found) == sorted(2 * kinds)
    await until(lambda: not hub._dirty)
    replayed = await connect(stage, await stage.client(await stage.key(scope)), "0", count=2)
    stored = [kind for kind in kinds if kind != "notification"]
    again = [about_kind(one) for one in await take(replayed, 2 * len(stored))]
    assert sorted(again) == sorted(2 * stored)


def about_kind(heard: Heard) -> str:
    return str(heard.data["object"]["kind"])


async def test_what_is_not_stored_comes_live_without_an_id(stage: Stage) -> None:
    listener = await connect(stage, await stage.admin())
    made = await job(stage)
    await take(listener, 1)
    await announce(stage, "job", "progress", made.id, percent=40, step=4, steps=10)
    heard = await listener.until("progress")
    assert heard.id == ""
    assert heard.data["percent"] == 40
    assert heard.data["object"] == {"kind": "job", "id": made.id}
    await announce(stage, "notification", "created", "notification_1", what="key.created")
    heard = await listener.until("notification.created")
    assert (heard.id, heard.data["what"]) == ("", "key.created")
    await announce(stage, "webhook", "made", "webhook_1")
    await stage.move(await stage.task(), "extracted")
    assert [one.name for one in await take(listener, 2)] == ["status", "status"]


async def test_a_cursor_takes_up_where_it_was_and_skips_nothing(stage: Stage) -> None:
    admin = await stage.admin()
    listener = await connect(stage, admin)
    tasks = [await stage.task() for _ in range(3)]
    first = (await take(listener, 2))[1]
    listener.response.close()
    for task in tasks:
        await stage.move(task, "extracted", "cancelled")
    again = await connect(stage, admin, first.id)
    wanted = {("task", task.id, n) for task in tasks for n in range(1, 5)}
    told = {about(one) for one in await take(again, 12)}
    assert told >= wanted - {about(first)}


async def test_what_has_settled_is_not_repeated(stage: Stage) -> None:
    admin = await stage.admin()
    listener = await connect(stage, admin)
    old = await stage.task()
    await take(listener, 1)
    stage.clock.advance(line_reads.SETTLE_S + 1)
    # The next ping takes note of it, and says so even where nothing happens.
    hub = hub_of(stage)
    [account] = hub._accounts.values()
    await until(lambda: all(reader.settled > 0 for reader in account.live))
    assert not any(reader.known for reader in account.live)
    young = await stage.task()
    cursor = (await take(listener, 1))[0].id
    assert (settled_in(cursor) or 0) > 0
    again = await connect(stage, admin, cursor, count=2)
    assert about((await take(again, 1))[0])[1] == young.id
    assert old.id != young.id


async def test_a_quiet_stream_is_told_where_it_is_without_an_event(stage: Stage) -> None:
    await stage.task()
    stage.clock.advance(line_reads.SETTLE_S + 1)
    answer = await (await stage.admin()).get("/api/stream")
    async with asyncio.timeout(PATIENCE_S):
        while not (line := await answer.content.readline()).startswith(b"id:"):
            assert line
    assert settled_in(line.decode().removeprefix("id:").strip())
    answer.close()


@pytest.mark.parametrize(
    ("last", "reason"), [("nonsense", "cursor"), ("ffffffff", "cursor"), ("-5", "cursor")]
)
async def test_a_cursor_that_is_none_of_ours_is_a_gap_and_the_stream_begins_now(
    stage: Stage, last: str, reason: str
) -> None:
    task = await stage.task()
    listener = await connect(stage, await stage.admin(), last)
    heard = await listener.next()
    assert heard is not None
    assert (heard.name, heard.id, heard.data["reason"]) == ("gap", "", reason)
    await stage.move(task, "extracted")
    assert about((await take(listener, 1))[0]) == ("task", task.id, 2)


async def test_what_is_older_than_a_day_is_a_gap_and_the_rest_is_replayed(stage: Stage) -> None:
    await stage.task()
    stage.clock.advance(line_reads.HISTORY_S + 1)
    young = await stage.task()
    listener = await connect(stage, await stage.admin(), "0")
    heard = await listener.next()
    assert heard is not None
    assert (heard.name, heard.data["reason"]) == ("gap", "history")
    assert about((await take(listener, 1))[0])[1] == young.id


@pytest.mark.parametrize("page", [1, 2, 100])
async def test_of_more_lines_than_the_history_holds_the_newest_are_replayed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(line_reads, "HISTORY_LINES", 3)
    monkeypatch.setattr(sse, "REPLAY_LINES", page)
    tasks = [await stage.task() for _ in range(5)]
    admin = await stage.admin()
    listener = await connect(stage, admin, "0")
    heard = await take(listener, 4)
    assert heard[0].name == "gap"
    assert [about(one)[1] for one in heard[1:]] == [task.id for task in tasks[2:]]
    ids = sorted(line.id for line in await TimelineLine.all())
    within = await connect(stage, admin, f"{ids[1]:x}", count=2)
    assert [about(one)[1] for one in await take(within, 3)] == [task.id for task in tasks[2:]]


async def test_an_event_that_was_lost_delays_and_never_hides(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = await connect(stage, await stage.admin())
    task = await stage.task()
    await take(listener, 1)

    async def lose(_: Envelope) -> None:
        pass

    monkeypatch.setattr(hub_of(stage), "_hear", lose)
    other = await stage.task()
    await stage.move(task, "extracted")
    assert {about(one) for one in await take(listener, 2)} == {
        ("task", other.id, 1),
        ("task", task.id, 2),
    }


async def test_too_many_rings_at_once_are_found_at_the_next_ping(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "DIRTY_LIMIT", 0)
    listener = await connect(stage, await stage.admin())
    hub, ring = hub_of(stage), Hub._ring
    heard: list[str] = []

    def note(self: Hub, idents: Iterable[str], owner: str = "") -> None:
        heard.extend(idents)
        ring(self, idents, owner)

    monkeypatch.setattr(Hub, "_ring", note)
    task = await stage.task()
    await until(lambda: task.id in heard)
    assert not hub._dirty
    monkeypatch.setattr(sse, "DIRTY_LIMIT", 100)
    assert about((await take(listener, 1))[0])[1] == task.id


async def test_a_database_that_was_away_is_made_up_for(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = await connect(stage, await stage.admin())
    query, failures = Connection.query, [0]

    async def fail(self: Connection, sql: str, values: Any = ()) -> list[dict[str, Any]]:
        if "timeline" in sql and failures[0] < 3:
            failures[0] += 1
            raise EngineUnavailable("away")
        return await query(self, sql, values)

    monkeypatch.setattr(Connection, "query", fail)
    task = await stage.task()
    assert about((await take(listener, 1))[0])[1] == task.id
    await until(lambda: failures[0] == 3)
    other = await stage.task()
    assert about((await take(listener, 1))[0])[1] == other.id


async def test_a_line_that_becomes_visible_late_is_told_and_replayed(stage: Stage) -> None:
    """A server gives ids before the commit: here the one with the smaller id comes second."""
    admin = await stage.admin()
    listener = await connect(stage, admin)
    writer = stage.front.database.write()
    first = await stage.task()
    await take(listener, 1)
    # Make room below, as a transaction that is still open would hold it.
    await writer.execute("UPDATE timeline SET id = id + 1000")
    late = await stage.task()
    await writer.execute("UPDATE timeline SET id = 500 WHERE object_id = ?", [late.id])
    heard = (await take(listener, 1))[0]
    assert about(heard)[1] == late.id
    again = await connect(stage, admin, heard.id, count=2)
    assert late.id in {about(one)[1] for one in await take(again, 2)}
    assert first.id != late.id


async def test_a_transaction_that_commits_late_is_not_skipped(stage: Stage) -> None:
    """The real thing, on a server: an open transaction holds an id below one that is visible."""
    if stage.front.database.dialect == "sqlite":
        pytest.skip("SQLite has one writer: ids become visible in their order")
    admin = await stage.admin()
    listener = await connect(stage, admin)
    late, now = new_id("task"), stage.clock.now()
    async with stage.front.database.transaction() as connection:
        await connection.execute(
            "INSERT INTO timeline (kind, object_id, n, at, type, state, detail, data, user_id) "
            "VALUES ('task', ?, 1, ?, 'status', 'pending', '', '{}', ?)",
            [late, now, stage.owner.id],
        )
        seen = await stage.task()
        heard = (await take(listener, 1))[0]
        assert about(heard)[1] == seen.id
        listener.response.close()
    # Its event was lost, too: who is live finds it at a ping, who comes back by its cursor.
    again = await connect(stage, admin, heard.id)
    assert late in {about(one)[1] for one in await take(again, 2)}


@pytest.mark.parametrize("how", ["account", "object"])
async def test_a_replay_goes_at_the_clients_pace_and_one_that_is_not_read_is_cut(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(sse, "REPLAY_LINES", 1)
    monkeypatch.setattr(line_reads, "LINES_PER_READ", 2)
    task = await stage.task()
    for _ in range(100):
        work = stage.work()
        work.note(task, "log", {"message": "x" * 60_000})
        await stage.front.units.commit(work)
    path = "/api/stream" if how == "account" else f"/api/tasks/{task.id}/stream"
    # Six times the bound, and nobody who reads is cut.
    answer = await (await stage.admin()).get(path, headers={"Last-Event-ID": "0"})
    heard = await _read_all(answer, 101)
    assert heard == 101
    answer.close()
    monkeypatch.setattr(connection, "REPLAY_PATIENCE_S", 0.1)
    _, writer = await asyncio.open_connection(stage.server.host, stage.server.port, limit=1024)
    key = await stage.key()
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nLast-Event-ID: 0\r\n"
        f"Authorization: Bearer {key}\r\n\r\n".encode()
    )
    hub = hub_of(stage)
    await until(lambda: len(hub.seats) > 0)
    await until(lambda: len(hub.seats) == 0, 10)
    writer.close()


async def _read_all(answer: ClientResponse, count: int) -> int:
    """Read until so many events came; gives how many."""
    seen = 0
    async with asyncio.timeout(20):
        while seen < count and (part := await answer.content.readany()):
            seen += part.count(b"event: ")
    return seen


async def test_nothing_is_skipped_however_many_commit_and_come_back_at_once(stage: Stage) -> None:
    admin = await stage.admin()
    steady = await connect(stage, admin)
    made: list[Task] = []

    async def make() -> None:
        task = await stage.task()
        await stage.move(task, "extracted", "cancelled")
        made.append(task)

    async def come_and_go() -> set[tuple[str, str, int]]:
        told, last = set[tuple[str, str, int]](), "0"
        while len(told) < 4 * 20:
            answer = await admin.get("/api/stream", headers={"Last-Event-ID": last})
            listener = Listener(answer)
            # Nothing settles so soon: each visit begins anew, and stays a little longer.
            for _ in range(len(told) + 7):
                if len(told) == 4 * 20:
                    break
                heard = await listener.next()
                assert heard is not None
                last = heard.id
                told.add(about(heard))
            listener.response.close()
        return told

    async with asyncio.TaskGroup() as group:
        visitor = group.create_task(come_and_go())
        for _ in range(20):
            group.create_task(make())
    wanted = {("task", task.id, n) for task in made for n in range(1, 5)}
    assert visitor.result() == wanted
    assert {about(one) for one in await take(steady, len(wanted))} == wanted


async def test_who_has_not_read_is_cut_when_it_would_need_too_much(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "KNOWN_LIMIT", 2)
    listener = await connect(stage, await stage.admin())
    for _ in range(3):
        await stage.task()
    hub = hub_of(stage)
    await until(lambda: not hub._accounts)
    listener.response.close()


async def test_an_account_settles_although_there_are_always_young_lines_on_their_way(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = await connect(stage, await stage.admin())
    hub = hub_of(stage)
    old = await stage.task()
    await take(listener, 1)
    refresh = hub._refresh

    async def hold(batch: dict[str, str]) -> None:
        hub._ring_again(batch)

    with monkeypatch.context() as held:
        held.setattr(hub, "_refresh", hold)
        stage.clock.advance(line_reads.SETTLE_S + 1)
        await stage.move(old, "extracted")
        young = await stage.task()
        [account] = hub._accounts.values()
        await until(lambda: all(reader.settled > 0 for reader in account.live))
        assert not any(reader.known for reader in account.live)
    assert hub._refresh == refresh
    heard = await take(listener, 2)
    assert {about(one) for one in heard} == {("task", old.id, 2), ("task", young.id, 1)}
    assert all((settled_in(one.id) or 0) > 0 for one in heard)


async def test_a_settled_line_that_is_still_on_its_way_is_not_passed_by(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = await stage.admin()
    listener = await connect(stage, admin)
    hub, looks = hub_of(stage), [0]
    look_at = hub._look_at

    async def hold(batch: dict[str, str]) -> None:
        hub._ring_again(batch)

    async def count(live: Mapping[str, list[Reader]]) -> None:
        await look_at(live)
        looks[0] += 1

    monkeypatch.setattr(hub, "_look_at", count)
    [account] = hub._accounts.values()
    with monkeypatch.context() as held:
        held.setattr(hub, "_refresh", hold)
        late = await stage.task()
        stage.clock.advance(line_reads.SETTLE_S + 1)
        before = looks[0]
        await until(lambda: looks[0] >= before + 2)
        assert [reader.settled for reader in account.live] == [0]
    assert about((await take(listener, 1))[0]) == ("task", late.id, 1)
    await until(lambda: all(reader.settled > 0 for reader in account.live))


async def revoke_elsewhere(stage: Stage) -> None:
    """Revoke all keys as another process does whose events are lost: this one remembers them."""
    await stage.front.database.write().execute(
        "UPDATE api_keys SET revoked_at = ?", [stage.clock.now()]
    )


@pytest.mark.parametrize("is_away", [False, True])
async def test_a_stream_that_opens_on_what_was_revoked_elsewhere_ends_at_once(
    migrated_file: Path,
    tmp_path: Path,
    clock: HeldClock,
    monkeypatch: pytest.MonkeyPatch,
    is_away: bool,
) -> None:
    monkeypatch.setattr(revocation, "RECHECK_S", 3600)
    failures = [EngineUnavailable("away")] if is_away else []

    async def ask(front: Front, callers: Collection[Caller]) -> set[Caller]:
        if callers and failures:
            raise failures.pop()
        return await still_valid(front, callers)

    monkeypatch.setattr(revocation, "still_valid", ask)
    async with staged(migrated_file, tmp_path, clock) as stage:
        admin, task = await stage.admin(), await stage.task()
        # From here on this process remembers who calls, and no time passes for it.
        assert (await admin.get("/api/tasks")).status == 200
        await revoke_elsewhere(stage)
        for path in ("/api/stream", f"/api/tasks/{task.id}/stream"):
            answer = await admin.get(path)
            assert answer.status == 200
            await Listener(answer).rest()
        assert not failures


async def test_a_stream_ends_when_its_key_is_revoked_elsewhere(stage: Stage) -> None:
    listener = await connect(stage, await stage.admin())
    await revoke_elsewhere(stage)
    assert await listener.rest() == []


def test_a_stream_outlives_what_was_revoked_by_less_than_five_seconds() -> None:
    # Opened on the last moment of what is remembered, it is asked about at once; else in its turn.
    worst_s = max(remembered.LIFE_S, RECHECK_S)
    assert worst_s + STATEMENTS_S <= 5


async def test_a_session_that_is_revoked_ends_its_streams_at_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation, "RECHECK_S", 3600)
    browser, admin = await stage.signed_in(), await stage.admin()
    listener, other = (
        await connect(stage, browser),
        await connect(stage, admin, count=2),
    )
    hub = hub_of(stage)
    [session] = [
        stream.caller.session
        for stream in hub.seats.of(stage.owner.id)
        if stream.caller.session is not None
    ]
    await announce(stage, "session", "revoked", session.id)
    assert [one.name for one in await listener.rest()] == ["session.revoked"]
    task = await stage.task()
    await other.until("session.revoked")
    assert about((await take(other, 1))[0])[1] == task.id


async def test_when_all_sessions_but_one_are_revoked_the_streams_of_the_others_end_at_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = await connect(stage, await stage.signed_in())
    kept = await connect(stage, await stage.signed_in(), count=2)
    hub = hub_of(stage)
    sessions = [stream.caller.session for stream in hub.seats.of(stage.owner.id)]
    newest = max(session.id for session in sessions if session is not None)
    work = stage.work()
    revoke_sessions(work, stage.owner.id, but=newest, because="password changed")
    await stage.front.units.commit(work)
    assert [one.name for one in await ended.rest()] == ["session.revoked"]
    assert (await kept.until("session.revoked")).data["object"]["kind"] == "user"
    task = await stage.task()
    assert about((await take(kept, 1))[0])[1] == task.id


async def test_who_is_no_admin_any_more_hears_nothing_more_of_others(stage: Stage) -> None:
    demoted = await stage.user("admin")
    client = await stage.client(await stage.key("admin", user=demoted))
    task = await stage.task()
    answer = await client.get(f"/api/tasks/{task.id}/stream")
    listener = Listener(answer)
    await listener.until("snapshot")
    work = stage.work()
    work.change(demoted, role="user")
    await stage.front.units.commit(work)
    assert await listener.rest() == []
    assert (await client.get(f"/api/tasks/{task.id}/stream")).status == 404


async def test_a_disabled_account_hears_nothing_more(stage: Stage) -> None:
    listener = await connect(stage, await stage.admin())
    work = stage.work()
    work.move(stage.owner, expected="active", to="disabled")
    await stage.front.units.commit(work)
    assert await listener.rest() == []


async def test_at_shutdown_the_client_is_told_when_to_come_back(stage: Stage) -> None:
    admin = await stage.admin()
    listener = await connect(stage, admin)
    await hub_of(stage).close()
    assert await listener.rest() == []
    assert len(listener.retries) == 2
    answer = await admin.get("/api/stream")
    late = Listener(answer)
    assert await late.rest() == []
    assert len(late.retries) == 2


async def test_a_second_process_hears_what_the_first_one_commits(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(stage.front, 0.2)
    async with hub.running():
        monkeypatch.setitem(stage.server.app._state, HUB, hub)
        answer = await (await stage.admin()).get("/api/stream")
        listener = Listener(answer)
        await until(lambda: any(one.live for one in hub._accounts.values()))
        task = await stage.task()
        assert about((await take(listener, 1))[0])[1] == task.id
        await hub.close()
        assert await listener.rest() == []


async def test_an_old_client_gets_its_stream_without_chunks(stage: Stage) -> None:
    key = await stage.key()
    reader, writer = await asyncio.open_connection(stage.server.host, stage.server.port)
    writer.write(f"GET /api/stream HTTP/1.0\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
    hub = hub_of(stage)
    await until(lambda: any(one.live for one in hub._accounts.values()))
    await stage.task()
    async with asyncio.timeout(PATIENCE_S):
        raw = await reader.readuntil(b'"state":"pending","detail":"",')
    writer.close()
    assert b"chunked" not in raw.lower()
    assert b"\n\nid: 0\n\nid: 0-" in raw.replace(b": ping\n\n", b"")


async def test_many_streams_of_one_account_are_told_alike(stage: Stage) -> None:
    admin = await stage.admin()
    listeners = [await connect(stage, admin, count=place) for place in range(1, 6)]
    task: Task = await stage.move(await stage.task(), "extracted")
    for listener in listeners:
        assert [about(one) for one in await take(listener, 2)] == [
            ("task", task.id, 1),
            ("task", task.id, 2),
        ]

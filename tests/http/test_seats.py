"""How many streams there may be: of an account, and of a process."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from limner.core.clock import HeldClock
from limner.http import seats
from limner.http.seats import Seats
from limner.http.sse import HUB
from tests.fakes.front import Stage, problem, staged, until


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


def limited(stage: Stage, limit: int, per_account: int) -> Seats:
    hub = stage.server.app[HUB]
    hub.seats = Seats(limit, per_account)
    return hub.seats


async def test_an_account_has_so_many_streams_and_others_have_theirs(stage: Stage) -> None:
    limited(stage, 10, 2)
    mine = await stage.admin()
    task = await stage.task()
    held = [await mine.get("/api/stream"), await mine.get(f"/api/tasks/{task.id}/stream")]
    for path in ("/api/stream", f"/api/tasks/{task.id}/stream"):
        answer = await mine.get(path)
        found = await problem(answer)
        assert (found["status"], found["code"]) == (429, "too_many_streams")
        assert int(answer.headers["Retry-After"]) > 0
    theirs = await stage.client(await stage.key("tasks:read", user=await stage.user()))
    other = await theirs.get("/api/stream")
    assert other.status == 200
    for one in (*held, other):
        one.close()


async def test_a_place_is_free_again_as_soon_as_its_client_has_left(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = stage.server.app[HUB]
    monkeypatch.setattr(hub, "ping_s", 3600)
    places = limited(stage, 10, 1)
    mine = await stage.admin()
    held = await mine.get("/api/stream")
    held.close()
    # Nothing was written since: its stream does not know yet.
    await until(lambda: all(seat.is_empty for mine in places._seats.values() for seat in mine))
    again = await mine.get("/api/stream")
    assert again.status == 200
    again.close()


async def test_a_process_has_so_many_streams(stage: Stage) -> None:
    limited(stage, 1, 10)
    mine = await stage.admin()
    held = await mine.get("/api/stream")
    answer = await mine.get("/api/stream")
    found = await problem(answer)
    assert (found["status"], found["code"]) == (503, "busy")
    assert int(answer.headers["Retry-After"]) > 0
    held.close()


def test_connections_are_left_for_plain_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seats, "room", lambda: 100)
    assert Seats()._limit == 90
    monkeypatch.setattr(seats, "room", lambda: 1)
    assert Seats()._limit == 1

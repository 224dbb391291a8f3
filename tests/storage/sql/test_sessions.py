"""Sessions as rows: when they live, how they end, how refresh tokens are used up."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from limner.core.clock import HeldClock
from limner.core.ids import new_id
from limner.core.unit import Commit
from limner.storage.sql.database import Database
from limner.storage.sql.remembered import Remembered
from limner.storage.sql.sessions import (
    RefreshToken,
    Session,
    add_session,
    idle_end,
    living_sessions_of,
    note_session_use,
    revoke_session,
    revoke_sessions,
    session_lives,
    use_refresh_token,
)
from limner.storage.sql.unit import SqlUnits

USER = "user_1"


def session(now: datetime, user_id: str = USER, **fields: Any) -> Session:
    return Session(
        **{
            "id": new_id("session"),
            "user_id": user_id,
            "kind": Session.WEB,
            "created_at": now,
            "last_seen_at": now,
            "idle_until": now + timedelta(seconds=100),
            "expires_at": now + timedelta(seconds=1000),
            **fields,
        }
    )


async def added(units: SqlUnits, *rows: Session) -> None:
    for row in rows:
        work = units.open("test")
        add_session(work, row)
        assert await units.commit(work) is Commit.DONE


@pytest.mark.parametrize(
    ("after_s", "fields", "lives"),
    [
        (0, {}, True),
        (99, {}, True),
        (100, {}, False),
        (999, {"idle": 2000}, True),
        (1000, {"idle": 2000}, False),
        (0, {"revoked": True}, False),
    ],
)
def test_a_session_lives_until_one_of_its_ends(
    clock: HeldClock, after_s: int, fields: dict[str, Any], lives: bool
) -> None:
    now = clock.now()
    row = session(now)
    if "idle" in fields:
        row.idle_until = now + timedelta(seconds=fields["idle"])
    if "revoked" in fields:
        row.revoked_at = now
    assert session_lives(row, now + timedelta(seconds=after_s)) is lives


def test_being_used_moves_the_idle_end_and_never_beyond_the_last(clock: HeldClock) -> None:
    now = clock.now()
    row = session(now)
    assert idle_end(row, 100, now) == now + timedelta(seconds=100)
    assert idle_end(row, 5000, now) == row.expires_at


async def test_use_is_noted_once_a_minute_and_never_of_a_revoked_session(
    units: SqlUnits, database: Database, clock: HeldClock
) -> None:
    row = session(clock.now(), idle_until=clock.now() + timedelta(seconds=500))
    await added(units, row)
    clock.advance(59)
    await note_session_use(database.write(), row, 500, clock.now())
    assert (await Session.get()).last_seen_at == row.created_at
    clock.advance(1)
    await note_session_use(database.write(), row, 500, clock.now())
    stored = await Session.get()
    assert stored.last_seen_at == row.last_seen_at == clock.now()
    assert stored.idle_until == row.idle_until == clock.now() + timedelta(seconds=500)
    work = units.open("test")
    revoke_session(work, row, because="test")
    await units.commit(work)
    clock.advance(60)
    await note_session_use(database.write(), row, 500, clock.now())
    assert (await Session.get()).last_seen_at == stored.last_seen_at


async def test_a_session_that_must_be_revoked_once_drops_the_second_unit(
    units: SqlUnits, clock: HeldClock
) -> None:
    row = session(clock.now())
    await added(units, row)
    outcomes = []
    for because in ("first", "second"):
        work = units.open("test")
        revoke_session(work, row, because=because, once=True)
        outcomes.append(await units.commit(work))
    assert outcomes == [Commit.DONE, Commit.STALE]
    assert (await Session.get()).revoked_because == "first"
    work = units.open("test")
    revoke_session(work, row, because="third")
    assert await units.commit(work) is Commit.DONE
    assert (await Session.get()).revoked_because == "first"


async def test_all_but_one_of_an_account_are_revoked_and_what_was_remembered_is_forgotten(
    units: SqlUnits, database: Database, clock: HeldClock
) -> None:
    memory: Remembered[str] = database.memory("sessions")
    mine, kept, other = (
        session(clock.now()),
        session(clock.now()),
        session(clock.now(), "user_2"),
    )
    await added(units, mine, kept, other)

    async def load() -> tuple[str, list[str]]:
        return "caller", [USER, mine.id]

    await memory.get("credential", load)
    work = units.open("test")
    revoke_sessions(work, USER, but=kept.id, because="test")
    await units.commit(work)
    assert len(memory) == 0
    assert [row.id for row in await living_sessions_of(USER, clock.now())] == [kept.id]
    assert [row.id for row in await living_sessions_of("user_2", clock.now())] == [other.id]


async def test_what_has_ended_is_not_among_the_living(units: SqlUnits, clock: HeldClock) -> None:
    now = clock.now()
    living = session(now)
    ended = [
        session(now, idle_until=now),
        session(now, expires_at=now),
        session(now, revoked_at=now),
    ]
    await added(units, living, *ended)
    assert [row.id for row in await living_sessions_of(USER, now)] == [living.id]


def refresh_token(row: Session, **fields: Any) -> RefreshToken:
    return RefreshToken(
        **{
            "id": new_id("refresh"),
            "session_id": row.id,
            "user_id": row.user_id,
            "sha256": new_id("hash"),
            "created_at": row.created_at,
            "expires_at": row.expires_at,
            **fields,
        }
    )


async def used(units: SqlUnits, token: RefreshToken, row: Session) -> Commit:
    work = units.open("test")
    use_refresh_token(work, token, row, 100)
    return await units.commit(work)


async def test_a_refresh_token_is_used_once_and_keeps_its_session_awake(
    units: SqlUnits, clock: HeldClock
) -> None:
    row = session(clock.now())
    token = refresh_token(row)
    await added(units, row)
    work = units.open("test")
    work.add(token)
    await units.commit(work)
    clock.advance(50)
    assert await used(units, token, row) is Commit.DONE
    assert (await Session.get()).idle_until == clock.now() + timedelta(seconds=100)
    assert await used(units, token, row) is Commit.STALE


@pytest.mark.parametrize("end", ["token", "idle", "session", "revoked"])
async def test_a_refresh_token_of_what_has_ended_is_not_used(
    units: SqlUnits, clock: HeldClock, end: str
) -> None:
    now = clock.now()
    row = session(
        now,
        idle_until=now if end == "idle" else now + timedelta(seconds=100),
        expires_at=now if end == "session" else now + timedelta(seconds=1000),
        revoked_at=now if end == "revoked" else None,
    )
    token = refresh_token(row, expires_at=now if end == "token" else now + timedelta(seconds=9))
    work = units.open("test")
    work.add(row, token)
    await units.commit(work)
    assert await used(units, token, row) is Commit.STALE
    assert (await RefreshToken.get()).used_at is None

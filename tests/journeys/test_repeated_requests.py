"""A request with an Idempotency-Key over the death of its server: made once, whenever it dies."""

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import aiohttp
import pytest

from tests.journeys.process import Limner, prepare, until

pytestmark = [pytest.mark.journey, pytest.mark.timeout(150)]

HEADERS = {"Idempotency-Key": '"one key"'}
SOURCE = {"name": "x", "connector": "demo"}
ENDED = "UPDATE idempotent_requests SET lease_until = '2000-01-01 00:00:00+00:00'"
# The first commit of a server is that of the owner's sign-in link.
BEFORE, AFTER = "db.commit.before:2:kill", "db.commit.after:2:kill"


@asynccontextmanager
async def client(limner: Limner) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {limner.key}", **HEADERS}
    async with aiohttp.ClientSession(limner.url, headers=headers) as session:
        yield session


async def ready(limner: Limner, failpoint: str = "") -> None:
    limner.launch("--actors", "none", failpoint=failpoint)

    async def answers() -> bool:
        return limner.code is None and await limner.probe("/readyz") == 200

    await until(answers, 30, "ready")


def rows(limner: Limner, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(limner.home / "limner.db")) as database, database:
        return database.execute(statement).fetchall()


@pytest.mark.parametrize("failpoint", [BEFORE, AFTER])
async def test_what_a_dying_server_made_or_not_is_made_once(tmp_path: Path, failpoint: str) -> None:
    prepared = await asyncio.to_thread(prepare, tmp_path)
    async with Limner(prepared.home, prepared.key) as limner:
        await ready(limner, failpoint)
        async with client(limner) as asking:
            with suppress(aiohttp.ClientError):
                await asking.post("/api/sources", json=SOURCE)
        assert await limner.ended() == -signal.SIGKILL
        made = len(rows(limner, "SELECT id FROM sources"))
        assert made == (failpoint == AFTER)
        await ready(limner)
        async with client(limner) as asking:
            if not made:
                # Nobody can know yet whether the one who was first is dead.
                early = await asking.post("/api/sources", json=SOURCE)
                assert (early.status, early.headers["Retry-After"]) == (409, "1")
                rows(limner, ENDED)
            answers = [await asking.post("/api/sources", json=SOURCE) for _ in range(2)]
            assert [answer.status for answer in answers] == [201, 201]
            replayed = ["Idempotency-Replayed" in answer.headers for answer in answers]
            assert replayed == [bool(made), True]
            bodies = [await answer.json() for answer in answers]
            assert bodies[0] == bodies[1]
            assert rows(limner, "SELECT id FROM sources") == [(bodies[0]["id"],)]
            assert rows(limner, "SELECT token FROM idempotent_requests") == [(1 if made else 2,)]
        await limner.stop()

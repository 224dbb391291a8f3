"""Fronts on loopback, each in a process of its own: Limner's, and a bare one as its ceiling.

The bare one is a handler of aiohttp for each question. It asks the database what Limner asks it,
by the same statements through the same driver, and does nothing else: no authorisation but one
look into a dictionary, no checks, limits, headers, logs, metrics or events.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from benchmarks import memory, questions
from benchmarks.child import Measured, gate
from benchmarks.clients import DONE, PID
from benchmarks.questions import JOB, MESSAGE, REQUEST, UNIT, BareDatabase, Questions
from limner.actors.generator.rules import Wanted
from limner.app import Engines, Service, open_engines
from limner.core.ids import new_id, uuid7_hex
from limner.core.settings import HttpSettings, Settings
from limner.ops import keys, migration
from limner.storage.sql.accounts import OWNER_ID, digest
from limner.storage.sql.aggregate import ID_LENGTH
from limner.storage.sql.jobs import RUNNING, SUCCEEDED, Job

LOOK_S = 0.05
PLENTY = {"rate_limit_account_per_s": 100_000, "rate_limit_account_burst": 1_000_000}
OUTPUT = {
    "content_type": "image/png",
    "width": 256,
    "height": 256,
    "blurhash": "LEHV6nWB2yk8pyo0adR*.7kCMdnj",
    "size_bytes": 20_000,
}


@asynccontextmanager
async def engines(home: str, port: int, database_url: str) -> AsyncIterator[Engines]:
    settings = Settings(
        home=Path(home),
        database_url=database_url,
        http=HttpSettings(port=port),
    )
    async with open_engines(settings, check_schema=False) as opened:
        yield opened


async def fill(home: str, database_url: str, jobs: int) -> Measured:
    """Make the tables, a key, and ``jobs`` jobs of the owner's that have a picture each."""
    async with engines(home, 0, database_url) as opened:
        ports = opened.ports
        await migration.migrate(ports.database, ports.units)
        work = ports.units.open("benchmark")
        await ports.tunables.put(work, PLENTY, OWNER_ID)
        made = [
            Job(
                id=new_id("job"),
                state=RUNNING,
                user_id=OWNER_ID,
                **Wanted(prompt="a red circle").columns(),
            )
            for _ in range(jobs)
        ]
        work.add(*made)
        await ports.units.commit(work)
        work = ports.units.open("benchmark")
        for job in made:
            outputs = [{"key": f"jobs/{job.id}/1-0.png", **OUTPUT}]
            work.move(job, expected=RUNNING, to=SUCCEEDED, progress=1.0, outputs=outputs)
        await ports.units.commit(work)
        key = await keys.create(ports.units, None, ("generate:read", "generate:write"), "benchmark")
        return {"key": key, "jobs": [job.id for job in made]}


async def limner(home: str, port: int, database_url: str) -> Measured:
    """Serve Limner's front without any actor, until the clients have done."""
    async with engines(home, port, database_url) as opened:
        service = Service(opened, (), {})
        await service.start(http=True)
        try:
            await _until_done(Path(home))
            return {"resident_mib": memory.resident_mib()}
        finally:
            await service.stop()


async def bare(home: str, port: int, database_url: str, key: str) -> Measured:
    """Serve the bare front, until the clients have done."""
    async with engines(home, 0, database_url) as opened:
        asked = await questions.of(opened.ports.database, opened.ports.broker)
    async with questions.opened(database_url or f"sqlite://{home}/limner.db") as database:
        application = web.Application()
        front = BareFront(database, asked, {digest(key): OWNER_ID})
        application.router.add_get("/api/generate/{id}", front.show)
        application.router.add_post("/api/generate/image", front.create)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            await _until_done(Path(home))
            return {"resident_mib": memory.resident_mib()}
        finally:
            await runner.cleanup()


class BareFront:
    """One handler for each question."""

    def __init__(self, database: BareDatabase, asked: Questions, users: Mapping[str, str]) -> None:
        self._database = database
        self._asked = asked
        self._users = users

    def _user(self, request: web.Request) -> str:
        secret = request.headers["Authorization"].removeprefix("Bearer ")
        user = self._users.get(hashlib.sha256(secret.encode()).hexdigest())
        if user is None:
            raise web.HTTPUnauthorized
        return user

    async def show(self, request: web.Request) -> web.Response:
        """Read one row and give it."""
        user = self._user(request)
        ident = {JOB: request.match_info["id"]}
        (row,) = await self._database.query(*self._asked.show.filled(ident))
        if row["user_id"] != user:
            raise web.HTTPNotFound
        row["outputs"] = json.loads(row["outputs"])
        return _json(row)

    async def create(self, request: web.Request) -> web.Response:
        """Make a job, once for each key."""
        self._user(request)
        body = await request.json()
        key = hashlib.sha256(request.headers["Idempotency-Key"].encode()).hexdigest()
        fresh = {
            JOB: new_id("job"),
            UNIT: uuid7_hex(),
            MESSAGE: uuid7_hex(),
            REQUEST: key[:ID_LENGTH],
        }
        await self._database.execute(*self._asked.claim.filled(fresh))
        (row,) = await self._database.query(*self._asked.place.filled(fresh))
        await self._database.transact([one.filled(fresh) for one in self._asked.create])
        return _json({"id": fresh[JOB], "queue_position": row["ahead"] + 1, **body}, 202)


def _json(document: Any, status: int = 200) -> web.Response:
    body = json.dumps(document, default=str).encode()
    return web.Response(body=body, status=status, content_type="application/json")


async def _until_done(home: Path) -> None:
    """Say that the front is there, and wait until the clients say that they are done."""
    await asyncio.to_thread((home / PID).write_text, str(os.getpid()))
    await gate()
    while not (home / DONE).exists():  # noqa: ASYNC110 - another process rings no event of ours
        await asyncio.sleep(LOOK_S)

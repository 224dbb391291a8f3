"""Event streams as Limner serves them: the whole front over SQLite, rung by another process.

The other process commits the lines of timelines and tells of them as a broker would; the server
hears the events, reads the rows, encodes them and writes them.
"""

import asyncio
import json
import math
import sqlite3
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from benchmarks import memory
from benchmarks.child import Measured, gate
from benchmarks.stock import parts
from benchmarks.streams_control import END, HOST, measured, store, stored
from limner.app import Service, open_engines
from limner.core.broker import Broker
from limner.core.ids import new_id, uuid7_hex
from limner.core.message import Envelope, Event
from limner.core.metrics import Metrics
from limner.core.settings import HttpSettings, Settings
from limner.ops import migration
from limner.storage.sql.accounts import User, create_key
from limner.storage.sql.tasks import Task

STREAMS_PER_ACCOUNT = 150
"""Within the burst that the rate limit leaves to one account."""
RUNG_TOGETHER = 200
SLICES = 10
PLACE_FILE = "place.json"
TOPIC = "task.running"
NOTE = "about as much as a line of a timeline holds"
INSERT = (
    "INSERT INTO timeline (kind, object_id, n, at, type, state, detail, data, user_id) "
    "VALUES ('task', ?, ?, ?, 'status', 'running', '', ?, ?)"
)


async def prepare(home: str, port: int, streams: int, objects: int) -> None:
    """Store accounts, keys and tasks; who streams what, and with which key, goes into a file."""
    async with open_engines(_settings(home, port), check_schema=False) as engines:
        ports = engines.ports
        await migration.migrate(ports.database, ports.units)
        keys, users, tasks = [], [], []
        for _ in range(math.ceil(streams / STREAMS_PER_ACCOUNT)):
            work = ports.units.open("benchmark")
            ident = new_id("user")
            user = User(id=ident, user_id=ident, state="active", email=f"{ident}@example.org")
            # One object is streamed by all accounts: only an admin sees what is not their own.
            user.role = "admin"
            work.add(user)
            keys.append(create_key(work, user, frozenset({"admin"}))[1])
            users.append(ident)
            await ports.units.commit(work)
        for part in parts(range(objects), RUNG_TOGETHER):
            work = ports.units.open("benchmark")
            made = [_task(users[n % len(users)]) for n in part]
            work.add(*made)
            tasks += [[task.id, task.user_id] for task in made]
            await ports.units.commit(work)
    paths = [f"/api/tasks/{tasks[n % objects][0]}/stream" for n in range(streams)]
    place = {"keys": keys, "tasks": tasks, "paths": paths}
    store(Path(home, PLACE_FILE), place)


def _task(owner: str) -> Task:
    return Task(
        id=new_id("task"),
        state="pending",
        user_id=owner,
        comment_id=new_id("comment"),
        source_id="source",
        comment_text="",
        author="",
        email="a@example.org",
        prompt="a red circle",
    )


def _settings(home: str, port: int) -> Settings:
    http = HttpSettings(host=HOST, port=port)
    return Settings(home=Path(home), http=http, log_level="warning")


async def serve(home: str, port: int, control: int, streams: int) -> Measured:
    """Serve ``streams`` connections until all have what was rung for, and give what that cost."""
    async with open_engines(_settings(home, port)) as engines:
        ports = engines.ports
        service = Service(engines, (), {})
        await service.start(http=True)
        try:
            return await measured(
                control,
                memory.settled_mib(),
                lambda: _open(ports.metrics) >= streams,
                take=partial(publish, ports.broker),
            )
        finally:
            await service.stop()


async def publish(broker: Broker, line: bytes) -> None:
    """Have a broker tell of the events in a line from the other process."""
    bodies = line.rstrip(b"\n").split(END)
    await broker.publish(
        [Envelope(message_id="", topic=TOPIC, body=body, kind="event") for body in bodies]
    )


def _open(metrics: Metrics) -> float:
    [family] = metrics.sse_connections.collect()
    return family.samples[0].value


async def ring(home: str, control: int, events: int, pause_s: float) -> None:
    """Write ``events`` lines to each task, a tenth of the tasks at a time, and tell of each."""
    tasks = stored(str(Path(home, PLACE_FILE)))["tasks"]
    rows = sqlite3.connect(Path(home, "limner.db"), isolation_level=None)
    rows.execute("PRAGMA synchronous = OFF")
    slices = [tasks[start::SLICES] for start in range(min(SLICES, len(tasks)))]
    await gate()
    _, writer = await asyncio.open_connection(HOST, control)
    for n in range(2, events + 2):
        for part in slices:
            now = datetime.now(UTC)
            data = json.dumps({"step": n, "note": NOTE})
            rows.execute("BEGIN IMMEDIATE")
            rows.executemany(
                INSERT, [(ident, n, now.isoformat(" "), data, owner) for ident, owner in part]
            )
            rows.execute("COMMIT")
            for together in parts(part, RUNG_TOGETHER):
                writer.write(END.join(_event(ident, owner, now) for ident, owner in together))
                writer.write(b"\n")
            await writer.drain()
            await asyncio.sleep(pause_s / len(slices))
    rows.close()
    writer.close()


def _event(ident: str, owner: str, now: datetime) -> bytes:
    return Event(
        id=uuid7_hex(),
        type=TOPIC,
        at=now,
        user_id=owner,
        subject={"kind": "task", "id": ident},
        data={"state": "running"},
    ).to_bytes()

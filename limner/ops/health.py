"""What is reachable and how it is: the engines, the disk, the queues, the schema."""

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from limner.core.broker import Broker
from limner.core.cache import Cache
from limner.core.errors import LimnerError
from limner.core.health import Check
from limner.core.objects import ObjectStore
from limner.storage.sql.database import Database
from limner.storage.sql.messaging import DeadLetter, OutboxRow

MIN_FREE_BYTES = 500 * 1024 * 1024
OLD_OUTBOX_S = 300.0


async def answers(name: str, check: Callable[[], Awaitable[None]], mend: str = "") -> Check:
    """Run one engine's check and give it as a line."""
    try:
        await check()
    except LimnerError as error:
        return Check(name, "fail", error.detail, mend)
    return Check(name, "pass")


def disk(home: Path) -> Check:
    """Warn when the home's disk is nearly full."""
    free = shutil.disk_usage(home if home.exists() else home.parent).free
    detail = f"{free // (1024 * 1024)} MiB free"
    if free < MIN_FREE_BYTES:
        return Check("disk", "warn", detail, f"make room on the disk of {home}")
    return Check("disk", "pass", detail)


async def backlog() -> list[Check]:
    """Tell of dead letters that wait for an operator and of messages that wait to go out."""
    dead = await DeadLetter.filter(state="open").count()
    waiting = await OutboxRow.all().count()
    lines = [Check("outbox", "pass", f"{waiting} rows")]
    if dead:
        lines.append(
            Check("dead letters", "warn", f"{dead} open", "look at them: run.py dead list")
        )
    else:
        lines.append(Check("dead letters", "pass", "none"))
    return lines


async def report(
    database: Database, broker: Broker, objects: ObjectStore, cache: Cache, home: Path
) -> list[Check]:
    """Give every line of the report of a running process."""

    async def read_database() -> None:
        await database.read().query("SELECT 1")

    lines = [
        await answers("database", read_database, "see LIMNER_DATABASE_URL"),
        await answers("broker", broker.check, "see LIMNER_BROKER_URL"),
        await answers("objects", objects.check, "see LIMNER_OBJECTS_URL"),
        await answers("cache", cache.check, "see LIMNER_CACHE_URL"),
        disk(home),
    ]
    if lines[0].status == "pass":
        lines += await backlog()
    return lines

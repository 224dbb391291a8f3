"""What is reachable and how it is: the engines, the disk, the queues, the schema.

A report looks when it is asked; the watch looks now and then, for the metrics and for whoever asks
whether requests shall be sent here. Every look has a limit of its own, and all go on at once: an
engine that swallows what it is sent hides none of the others.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from limner.core.broker import Broker
from limner.core.cache import Cache
from limner.core.errors import LimnerError
from limner.core.health import ANSWER_LIMIT_S, Check
from limner.core.logs import get_logger
from limner.core.metrics import Metrics
from limner.core.objects import ObjectStore
from limner.core.supervisor import LoopStatus
from limner.storage.sql.database import Database
from limner.storage.sql.messaging import DeadLetter, OutboxRow

MIN_FREE_BYTES = 500 * 1024 * 1024
OLD_OUTBOX_S = 300.0
WATCH_INTERVAL_S = 5.0

MENDS = {
    "database": "see LIMNER_DATABASE_URL",
    "broker": "see LIMNER_BROKER_URL",
    "objects": "see LIMNER_OBJECTS_URL",
    "cache": "see LIMNER_CACHE_URL",
}
"""The engines' names, as reports and metrics call them, and where each is set."""

log = get_logger("health")

Probe = Callable[[], Awaitable[None]]
"""Returns if a part answers; raises EngineUnavailable, or takes its time, if it does not."""


class Engines(Protocol):
    """The open engines of a process."""

    @property
    def database(self) -> Database:
        """Where everything is kept."""
        ...

    @property
    def broker(self) -> Broker:
        """What carries messages."""
        ...

    @property
    def objects(self) -> ObjectStore:
        """Where pictures are."""
        ...

    @property
    def cache(self) -> Cache:
        """What processes count and lock by."""
        ...


def probes(engines: Engines) -> dict[str, Probe]:
    """Give the probe of each engine by its name."""

    async def read_database() -> None:
        await engines.database.read().query("SELECT 1")

    return {
        "database": read_database,
        "broker": engines.broker.check,
        "objects": engines.objects.check,
        "cache": engines.cache.check,
    }


async def answers(
    name: str, probe: Probe, mend: str = "", limit_s: float = ANSWER_LIMIT_S
) -> Check:
    """Run one probe, cancelled after ``limit_s`` seconds, and give it as a line; never raises."""
    try:
        async with asyncio.timeout(limit_s):
            await probe()
    except TimeoutError:
        return Check(name, "fail", f"no answer in {limit_s:g} s", mend)
    except LimnerError as error:
        return Check(name, "fail", error.detail, mend)
    except Exception as error:
        # A bug of one adapter's must not take the lines of all others with it.
        log.exception("a check failed", check=name)
        return Check(name, "fail", f"the check itself failed: {type(error).__name__}", mend)
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


async def _backlog_if_known(limit_s: float) -> list[Check]:
    """Give no lines if the database does not answer: its own line says so."""
    try:
        async with asyncio.timeout(limit_s):
            return await backlog()
    except (TimeoutError, LimnerError):
        return []


async def engines(probed: Mapping[str, Probe], limit_s: float = ANSWER_LIMIT_S) -> list[Check]:
    """Give a line for each engine, all looked at together."""
    looks = (answers(name, probe, MENDS.get(name, ""), limit_s) for name, probe in probed.items())
    return list(await asyncio.gather(*looks))


async def report(
    engines: Mapping[str, Probe], home: Path, limit_s: float = ANSWER_LIMIT_S
) -> list[Check]:
    """Give every line of the report of a running process, within ``limit_s`` seconds."""
    async with asyncio.TaskGroup() as looks:
        found = [
            looks.create_task(answers(name, probe, MENDS.get(name, ""), limit_s))
            for name, probe in engines.items()
        ]
        counting = looks.create_task(_backlog_if_known(limit_s))
    return [*(one.result() for one in found), disk(home), *counting.result()]


def loops(statuses: Iterable[LoopStatus]) -> list[Check]:
    """Give a line for each loop of a process."""
    return [
        Check(
            f"loop {status.name}",
            "pass" if status.state == "running" else "fail",
            status.last_error,
        )
        for status in statuses
    ]


class EngineWatch:
    """Looks at each engine every ``interval_s`` seconds and keeps what it saw last."""

    def __init__(
        self,
        engines: Mapping[str, Probe],
        metrics: Metrics,
        interval_s: float = WATCH_INTERVAL_S,
        limit_s: float = ANSWER_LIMIT_S,
    ) -> None:
        self._engines = engines
        self._metrics = metrics
        self._interval_s = interval_s
        self._limit_s = limit_s
        self._up: dict[str, bool] = {}

    def is_up(self, name: str) -> bool:
        """Whether the engine answered at the last look; before the first one it counts as up."""
        return self._up.get(name, True)

    async def run(self, stop: asyncio.Event) -> None:
        """Look until ``stop`` is set; a look that is under way then is given up."""
        async with asyncio.TaskGroup() as group:
            following = [group.create_task(self._follow(name)) for name in self._engines]
            await stop.wait()
            for one in following:
                one.cancel()

    async def _follow(self, name: str) -> None:
        # Each engine has a rhythm of its own: a silent one delays no word of the others.
        while True:
            self._note(await answers(name, self._engines[name], limit_s=self._limit_s))
            await asyncio.sleep(self._interval_s)

    def _note(self, seen: Check) -> None:
        is_up = seen.status == "pass"
        was_up = self.is_up(seen.name)
        self._up[seen.name] = is_up
        self._metrics.engine_up.labels(seen.name).set(float(is_up))
        if was_up and not is_up:
            log.warning("engine lost", engine=seen.name, reason=seen.detail)
        elif is_up and not was_up:
            log.info("engine back", engine=seen.name)

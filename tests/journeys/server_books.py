"""The invariants of a cluster: those of a journey, read from MariaDB, RabbitMQ and S3."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.engines.mariadb import MariaDbServer
from tests.journeys import invariants
from tests.journeys.cluster import Cluster, Engines, Part, cluster
from tests.journeys.invariants import NOTHING, Allowed, Books, Rows
from tests.journeys.process import until
from tests.journeys.story import Journey, Variant, Wish, surrounded, wishes

INVARIANTS = (
    *("I-REST", "I-COM", "I-TERM", "I-MONO", "I-ONCE", "I-MAIL", "I-ORDER"),
    *("I-OUT", "I-OBJ", "I-AUDIT", "I-SSE", "I-LEAK"),
)
EMPTY_LIMIT_S = 30.0
ABOUT_LOST_ENGINES = ("error when creating transport",)
"""What drivers log as errors while an engine is away."""

PAGE_SIZE = 20
PICTURES = tuple(f"demo-{n}" for n in ("01", "02", "03", "06", "09", "13", "14", "15"))
OTHERS = tuple(f"demo-{n}" for n in ("04", "05", "07", "10", "16", "17"))
VIDEO = "demo-08"


def crowd(count: int, videos: int = 2) -> list[Wish]:
    """Give so many comments: ``videos`` wishes for a video; of the rest 6 in 10 for a picture."""
    pictures, others = wishes(PICTURES), wishes(OTHERS)
    chosen = wishes((VIDEO,)) * videos
    for n in range(count - videos):
        chosen.append(pictures[n % len(pictures)] if n % 10 < 6 else others[n % len(others)])
    return [replace(wish, id=f"{wish.id}-{n}") for n, wish in enumerate(chosen)]


class ServerBooks(Books):
    """A database on a server, read beside everybody else."""

    def __init__(self, server: MariaDbServer, url: str) -> None:
        self._server = server
        self._name = url.rpartition("/")[2]

    def rows(self, sql: str, *values: Any) -> Rows:
        found = self._server.query(sql.replace("?", "%s"), *values, database=self._name)
        return [{name: _plain(value) for name, value in row.items()} for row in found]


def _plain(value: Any) -> Any:
    """Give a value as SQLite gives it: times as text."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC).isoformat(timespec="microseconds")
    return value


@asynccontextmanager
async def travel(
    engines: Engines,
    parts: tuple[Part, ...],
    folder: Path,
    wanted: list[Wish],
    *,
    scheduled: bool = False,
) -> AsyncIterator["Travel"]:
    """Give a journey through a cluster that is not started yet; mails go to a mail server."""
    async with (
        surrounded(Variant(smtp=True, scheduled=scheduled), wanted) as world,
        cluster(engines, parts, folder, **world.settings) as made,
    ):
        world.feed.page_size = PAGE_SIZE
        journey = Journey(made.front, world)
        try:
            yield Travel(made, journey, wanted)
        finally:
            await journey.hang_up()


@dataclass
class Travel:
    """A journey through a cluster, and what was wished for."""

    cluster: Cluster
    journey: Journey
    wanted: list[Wish]

    @property
    def books(self) -> ServerBooks:
        """Its database."""
        engines = self.cluster.engines
        return ServerBooks(engines.mariadb, engines.database)

    async def prepare(self) -> None:
        """Make settings and source; the crowd has few addresses, and many mails go to each."""
        await self.journey.prepare()
        roomy = {"mail_per_address_per_day": 10_000}
        await self.journey.limner.request("PUT", "/api/settings", roomy)

    async def settled(self, limit_s: float) -> None:
        """Wait until everything has come to rest.

        Raises:
            AssertionError: it has not; with what the books say.
        """
        try:
            await self.journey.settled(limit_s)
        except AssertionError as error:
            said = await asyncio.to_thread(self.standing)
            raise AssertionError(f"not settled within {limit_s:g} s: {said}") from error

    def standing(self) -> dict[str, Any]:
        """Give how many rows are in which state, and what waits in the outbox and the queues."""
        standing: dict[str, Any] = {
            table: {
                row["state"]: row["n"]
                for row in self.books.rows(
                    f"SELECT state, COUNT(*) AS n FROM {table} GROUP BY state"  # noqa: S608
                )
            }
            for table in ("comments", "tasks", "jobs", "deliveries")
        }
        standing["outbox"] = self.books.rows("SELECT topic, attempt, due_at FROM outbox LIMIT 20")
        standing["dead"] = self.books.rows("SELECT topic, reason, detail FROM dead_letters LIMIT 9")
        standing["queues"] = {n: c for n, c in self.cluster.engines.queues().items() if c}
        return standing

    def errors(self) -> list[str]:
        """Give the first lines of the logs that tell of trouble."""
        lines = self.cluster.stderr_lines()
        return [line[:1000] for line in lines if '"level": "error"' in line][:20]

    async def findings(self, allowed: Allowed = NOTHING) -> list[str]:
        """Give what is wrong when everything has come to rest; stops the cluster."""
        found = [finding async for finding in invariants.over_rest(self.books, self.journey)]
        found += await self._queues()
        await self.cluster.stop()
        found += await asyncio.to_thread(lambda: list(self._written(allowed)))
        store = self.cluster.engines.store()
        try:
            found += [finding async for finding in invariants.objects(self.books, store)]
        finally:
            await store.aclose()
        return found

    async def hold(self, allowed: Allowed = NOTHING) -> None:
        """Check everything.

        Raises:
            AssertionError: with all findings.
        """
        findings = await self.findings(allowed)
        assert not findings, "\n".join(findings)

    async def _queues(self) -> list[str]:
        """I-OUT: nothing is left in any queue, the dead letters' included."""
        left: dict[str, int] = {}

        async def empty() -> bool:
            counted = await asyncio.to_thread(self.cluster.engines.queues)
            left.clear()
            left.update({name: count for name, count in counted.items() if count})
            return not left

        try:
            await until(empty, EMPTY_LIMIT_S, "empty queues", 0.2)
        except AssertionError:
            return [f"I-OUT the queues hold {left}"]
        return []

    def _written(self, allowed: Allowed) -> Iterable[str]:
        books, journey = self.books, self.journey
        for check in (
            invariants.comments,
            invariants.rest,
            invariants.timelines,
            invariants.leases,
            invariants.jobs,
            invariants.audit,
        ):
            yield from check(books, self.wanted, allowed)
        yield from invariants.mails(books, journey, allowed)
        yield from invariants.orders(books, journey)
        yield from invariants.outbox(books, allowed)
        yield from invariants.streams(books, journey)
        secret = invariants.canaries(books, journey, self.cluster.stdout())
        yield from invariants.log(self.cluster.stderr_lines(), secret, allowed)

"""Many processes of Limner over real engines, with no disk in common.

``Engines`` are RabbitMQ, MariaDB, Redis and S3, each behind a proxy that can cut it off or, in
private ones, with a server that can be killed. A ``Cluster`` is a set of ``Member``s, processes of
``run.py serve`` with their share of the actors, a home of their own each, and the secret key in
their environment. Its client goes to the first front and, as a patient client does, asks again
while that is away.
"""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from limner.core.clock import SystemClock
from limner.core.objects import ObjectStore
from limner.storage.objects.s3 import s3_objects
from tests.contracts.engines import Engine
from tests.engines import missing, shared
from tests.engines.mariadb import MariaDbServer
from tests.engines.rabbitmq import RabbitServer
from tests.engines.redis import RedisServer
from tests.engines.s3 import ACCESS_KEY, SECRET_KEY, S3Server
from tests.engines.server import HOST, Server
from tests.fakes.proxy import Proxy
from tests.journeys.process import Answered, Died, Limner, run, until

PATIENCE_S = 90.0
ASK_AGAIN_S = 0.2
START_LIMIT_S = 60.0
RETRIED = {429, 500, 502, 503, 504}
"""A client asks again after these; it never doubles what it finds by its name."""

NAMES = ("broker", "database", "cache", "objects")
"""The engines, as the health report calls them."""


@dataclass(frozen=True)
class Part:
    """What one process of a cluster runs."""

    name: str
    actors: str
    http: bool = False


THREE = (
    Part("front", "poller,intent", http=True),
    Part("middle", "submitter,status,scheduler"),
    Part("maker", "generator,mailer"),
)
TWICE = (
    Part("front", "poller,intent", http=True),
    Part("front2", "poller,intent", http=True),
    Part("middle", "submitter,status,scheduler"),
    Part("middle2", "submitter,status,scheduler"),
    Part("maker", "generator,mailer"),
    Part("maker2", "generator,mailer"),
)


@dataclass
class Engines:
    """The servers of one cluster, and where the cluster finds them."""

    rabbitmq: RabbitServer
    mariadb: MariaDbServer
    redis: RedisServer
    s3: S3Server
    vhost: str
    database: str
    databases: str
    bucket: str
    proxies: dict[str, Proxy] = field(default_factory=dict)

    def _through(self, name: str, url: str) -> str:
        """Give a URL with the port of the engine's proxy, if it has one."""
        port = urlsplit(url).port
        proxy = self.proxies.get(name)
        return url.replace(f":{port}", f":{proxy.port}", 1) if proxy else url

    @property
    def settings(self) -> dict[str, str]:
        """Give the settings of a process that uses them."""
        proxy = self.proxies.get("objects")
        endpoint = f"http://{HOST}:{proxy.port}" if proxy else ""
        return {
            "LIMNER_BROKER_URL": self._through("broker", self.vhost),
            "LIMNER_DATABASE_URL": self._through("database", self.database),
            "LIMNER_CACHE_URL": self._through("cache", self.databases),
            "LIMNER_OBJECTS_URL": self.s3.url(self.bucket, endpoint),
            "LIMNER_OBJECTS_ACCESS_KEY": ACCESS_KEY,
            "LIMNER_OBJECTS_SECRET_KEY": SECRET_KEY,
        }

    def store(self) -> ObjectStore:
        """Open the object store beside the cluster."""
        return s3_objects(self.s3.url(self.bucket), ACCESS_KEY, SECRET_KEY, clock=SystemClock())

    def queues(self) -> dict[str, int]:
        """Give what waits in each queue."""
        return self.rabbitmq.queues(self.vhost)


async def _engines(servers: tuple[RabbitServer, MariaDbServer, RedisServer, S3Server]) -> Engines:
    rabbitmq, mariadb, redis, s3 = servers

    def fresh() -> Engines:
        return Engines(
            *servers,
            vhost=rabbitmq.fresh_vhost(),
            database=mariadb.fresh_database(),
            databases=redis.fresh_database(),
            bucket=s3.fresh_bucket(),
        )

    return await asyncio.to_thread(fresh)


def _shared() -> tuple[RabbitServer, MariaDbServer, RedisServer, S3Server]:
    return shared.rabbitmq(), shared.mariadb(), shared.redis(), shared.s3()


@asynccontextmanager
async def shared_engines(*, proxied: bool = False) -> AsyncIterator[Engines]:
    """Give a fresh part of the run's servers, ``proxied`` if they shall be cut off."""
    engines = await _engines(await asyncio.to_thread(_shared))
    try:
        async with AsyncExitStack() as stack:
            if proxied:
                servers: tuple[Server, ...] = (
                    *(engines.rabbitmq, engines.mariadb),
                    *(engines.redis, engines.s3),
                )
                for name, server in zip(NAMES, servers, strict=True):
                    engines.proxies[name] = await stack.enter_async_context(Proxy(server.port))
            yield engines
    finally:
        await asyncio.to_thread(engines.rabbitmq.drop_vhost, engines.vhost)
        await asyncio.to_thread(engines.mariadb.drop_database, engines.database)


ALL_ENGINES: Engine[Engines] = Engine(
    "real engines", lambda _: shared_engines(), real=True, missing=missing.no_engines
)


@asynccontextmanager
async def private_engines(folder: Path) -> AsyncIterator[Engines]:
    """Start servers that may be killed; S3 keeps its objects in memory and has a proxy instead."""
    servers = (
        RabbitServer(folder / "rabbitmq"),
        MariaDbServer(folder / "mariadb"),
        RedisServer(folder / "redis"),
        S3Server(folder / "s3"),
    )
    try:
        async with asyncio.TaskGroup() as starts:
            for server in servers:
                starts.create_task(asyncio.to_thread(server.start))
        engines = await _engines(servers)
        async with Proxy(engines.s3.port) as proxy:
            engines.proxies["objects"] = proxy
            yield engines
    finally:
        for server in servers:
            await asyncio.to_thread(server.close)


@dataclass
class Member(Limner):
    """One process of a cluster; its log is kept under its name."""

    part: Part = THREE[0]

    @property
    def name(self) -> str:
        """What it is called."""
        return self.part.name

    def _log(self, name: str, start: int) -> Path:
        return self.home.parent / f"{self.part.name}-{start}.{name}"

    def go(self, failpoint: str = "") -> None:
        """Start the process without waiting for anything."""
        flags = () if self.part.http else ("--no-http",)
        self.launch("--actors", self.part.actors, *flags, failpoint=failpoint)

    async def start(self, failpoint: str = "") -> None:
        self.go(failpoint)
        await until(self.started, START_LIMIT_S, f"the start of {self.name}")

    async def started(self) -> bool:
        """Say whether it is at work: ready, or without a front, in its own words."""
        self._demand_life()
        if self.part.http:
            return await self.probe("/readyz") == 200
        events = [line for line in self.stderr().splitlines() if '"started"' in line]
        return any(json.loads(line).get("event") == "started" for line in events)

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: Mapping[str, str] | None = None,
    ) -> Any:
        """Make one request, again and again while the server is away or overtaxed."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = await self.ask(method, path, body, params)
            except (aiohttp.ClientError, OSError) as error:
                if time.monotonic() > deadline:
                    raise Died(f"{method} {path}: {error!r}") from error
                await asyncio.sleep(ASK_AGAIN_S)
                continue
            if answer.status not in RETRIED or time.monotonic() > deadline:
                break
            await asyncio.sleep(answer.retry_after_s or ASK_AGAIN_S)
        if answer.status >= 400:
            raise Answered(answer.status, answer.document)
        return answer.document


@dataclass
class Cluster:
    """The processes and their engines."""

    engines: Engines
    members: list[Member]

    @property
    def front(self) -> Member:
        """The process whose front the client uses."""
        return next(member for member in self.members if member.part.http)

    @property
    def fronts(self) -> list[Member]:
        """All processes with a front."""
        return [member for member in self.members if member.part.http]

    async def start(self) -> None:
        """Start all members that do not run, at once, and wait for them."""
        async with asyncio.TaskGroup() as starts:
            for member in self.members:
                if member.starts == 0 or member.code is not None:
                    starts.create_task(member.start())

    async def stop(self) -> None:
        """SIGTERM to all at once; each ends with 0."""
        async with asyncio.TaskGroup() as ends:
            for member in self.members:
                if member.starts and member.code is None:
                    ends.create_task(member.stop())

    def stderr_lines(self) -> list[str]:
        """Give what all of them have logged."""
        return [line for member in self.members for line in member.stderr_lines()]

    def stdout(self) -> str:
        """Give what all of them have printed."""
        return "".join(
            member.stdout(start) for member in self.members for start in range(1, member.starts + 1)
        )


@asynccontextmanager
async def cluster(
    engines: Engines, parts: tuple[Part, ...], folder: Path, **settings: str
) -> AsyncIterator[Cluster]:
    """Migrate the database, make a key, and give a cluster that is not started yet."""
    common = {
        **engines.settings,
        "LIMNER_SECRET_KEY": secrets.token_hex(32),
        **settings,
    }
    home = folder / "operator"
    for words in (("migrate",), ("key", "create")):
        ended = await asyncio.to_thread(run, home, *words, **common)
        assert ended.code == 0, ended.err
    key = ended.out.strip()
    members = [Member(folder / part.name, key, dict(common), part=part) for part in parts]
    made = Cluster(engines, members)
    for member in members:
        member.settings["LIMNER_PUBLIC_URL"] = made.front.url
    async with AsyncExitStack() as stack:
        for member in members:
            await stack.enter_async_context(member)
        yield made

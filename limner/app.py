"""The composition root: settings become adapters, adapters become actors and the web front."""

import asyncio
import importlib.metadata
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from limner import adapters
from limner.actors import registry
from limner.actors.ports import Ports
from limner.core import failpoints, logs
from limner.core.actor import Actor, ActorLoop, Loop
from limner.core.broker import Broker
from limner.core.cache import Cache
from limner.core.clock import Clock, SystemClock
from limner.core.errors import Conflict, LimnerError
from limner.core.health import Check
from limner.core.keyfile import secret_key
from limner.core.llm import ChatModel
from limner.core.metrics import Metrics
from limner.core.objects import ObjectStore
from limner.core.outgoing import Outgoing
from limner.core.sealing import Sealer
from limner.core.settings import Settings
from limner.core.signing import SignedAccess, Signer, derive_key
from limner.core.supervisor import Supervisor
from limner.http.ports import Front
from limner.ops import health
from limner.storage.cache.memory import MemoryCache
from limner.storage.sql import schema
from limner.storage.sql.database import Database
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.jobs import Job
from limner.storage.sql.leases import Leases
from limner.storage.sql.outbox import Outbox
from limner.storage.sql.sources import Source
from limner.storage.sql.tasks import Task
from limner.storage.sql.tunables import SecretStore, TunableStore
from limner.storage.sql.unit import SqlUnits

log = logs.get_logger("app")

SHUTDOWN_S = 3.0
SPARE_ENTRIES = 10_000
"""How much of each kind a front keeps by itself while the cache is away."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)

Builders = Mapping[str, Callable[[Ports], Actor[Any]]]


def version() -> str:
    """Give the installed version."""
    try:
        return importlib.metadata.version("limner")
    except importlib.metadata.PackageNotFoundError:
        return "0"


class OldSchema(LimnerError):
    """The database's tables are older than this program."""


@dataclass
class Engines:
    """The open adapters of a process."""

    settings: Settings
    ports: Ports
    signed_objects: SignedAccess | None


@asynccontextmanager
async def open_engines(
    settings: Settings, *, clock: Clock | None = None, check_schema: bool = True
) -> AsyncIterator[Engines]:
    """Open every adapter, and close them in reverse.

    Raises:
        OldSchema: migrations are pending.
        EngineUnavailable: an engine does not answer.
        NotConfigured: no adapter fits a URL.
    """
    clock = clock or SystemClock()
    metrics = Metrics(version())
    key = secret_key(settings)
    signer = Signer([derive_key(key, "links")])
    async with AsyncExitStack() as stack:
        database = Database(settings.database, clock, settings.database_pool)
        await database.open()
        stack.push_async_callback(database.close)
        if check_schema and await schema.pending(database):
            raise OldSchema("the database needs a migration. Run: python run.py migrate")
        broker = adapters.broker(settings, clock)
        stack.push_async_callback(broker.aclose)
        cache = adapters.cache(settings, clock)
        stack.push_async_callback(cache.aclose)
        objects, signed_objects = adapters.objects(settings, signer, clock)
        stack.push_async_callback(objects.aclose)
        outgoing = Outgoing(
            allow_private_hosts=frozenset(settings.allow_private_hosts),
            clock=clock,
            user_agent=f"Limner/{version()}",
        )
        stack.push_async_callback(outgoing.aclose)
        outbox = Outbox(database, broker, clock, metrics)
        stack.push_async_callback(outbox.drain)
        ports = _ports(
            settings, key, signer, database, outbox, broker, cache, objects, outgoing, metrics
        )
        yield Engines(settings, ports, signed_objects)


def _ports(
    settings: Settings,
    key: bytes,
    signer: Signer,
    database: Database,
    outbox: Outbox,
    broker: Broker,
    cache: Cache,
    objects: ObjectStore,
    outgoing: Outgoing,
    metrics: Metrics,
) -> Ports:
    """Give what actors are made with, out of the open adapters."""
    clock, llm_key = database.clock, settings.llm_key.get_secret_value()
    return Ports(
        settings=settings,
        clock=clock,
        database=database,
        units=SqlUnits(database, broker, clock, outbox.offer),
        outbox=outbox,
        leases=Leases(database),
        broker=broker,
        objects=objects,
        cache=cache,
        outgoing=outgoing,
        llm=ChatModel(settings.llm_url, llm_key, settings.llm_model, outgoing),
        signer=signer,
        sealer=Sealer(derive_key(key, "front")),
        tunables=TunableStore(clock, database.memory("tunables")),
        secrets=SecretStore(derive_key(key, "secrets")),
        metrics=metrics,
        worker_id=f"{socket.gethostname()}:{os.getpid()}",
    )


class Service:
    """A running process: its loops, and the web front if it has one."""

    def __init__(
        self,
        engines: Engines,
        actors: Sequence[str],
        builders: Builders,
        watch_interval_s: float = health.WATCH_INTERVAL_S,
    ) -> None:
        self._engines = engines
        self._actors = tuple(actors)
        self._builders = builders
        self._runner: web.AppRunner | None = None
        self._closing: list[Actor[Any]] = []
        ports = engines.ports
        self.supervisor = Supervisor(ports.clock, ports.metrics)
        self._probes = health.probes(ports)
        self._watch = health.EngineWatch(self._probes, ports.metrics, watch_interval_s)
        self.url = ""

    async def start(self, *, http: bool) -> None:
        """Recover what a dead process left, start the actors, then listen."""
        ports = self._engines.ports
        await ports.broker.start(registry.ACTORS)
        if self._engines.settings.embedded:
            await ports.leases.void_all((Task, Delivery, Job, Source))
            await ports.outbox.recover()
        loops = [
            Loop("event-loop", ports.metrics.watch_loop),
            Loop("engine-watch", self._watch.run),
        ]
        for name in self._actors:
            build = self._builders.get(name) or registry.builder(name)
            settings = self._engines.settings
            actor = build(ports).with_defaults(
                concurrency=settings.concurrency,
                timeout_s=settings.job_timeout_s,
                max_attempts=settings.max_retries + 1,
            )
            self._closing.append(actor)
            if actor.handlers:
                inbox = ActorLoop(actor, ports.broker, ports.units, ports.clock, ports.metrics)
                loops.append(Loop(name, inbox.run))
            loops += actor.loops
        self.supervisor.start(loops)
        if http:
            await self._listen()

    async def _listen(self) -> None:
        from limner.http.listener import Runner
        from limner.http.server import build_application

        settings = self._engines.settings
        application = build_application(
            self._front(), messages=registry.messages(), version=version()
        )
        self._runner = Runner(application, handle_signals=False, shutdown_timeout=SHUTDOWN_S)
        await self._runner.setup()
        host, port = settings.http.host, settings.http.port
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            raise Conflict(f"cannot listen on {host}:{port}: {error.strerror}") from error
        host, port = self._runner.addresses[0][:2]
        self.url = settings.public_url or f"http://{host}:{port}"

    def _front(self) -> Front:
        from limner.actors.images.portraits import Portraits
        from limner.actors.intent.actor import Reader
        from limner.actors.poller.rules import validate as validate_source
        from limner.actors.submitter.trial import ProviderTrial

        ports = self._engines.ports
        return Front(
            settings=self._engines.settings,
            clock=ports.clock,
            database=ports.database,
            units=ports.units,
            outbox=ports.outbox,
            broker=ports.broker,
            objects=ports.objects,
            signed_objects=self._engines.signed_objects,
            cache=ports.cache,
            spare_cache=MemoryCache(ports.clock, max_entries=SPARE_ENTRIES),
            signer=ports.signer,
            sealer=ports.sealer,
            outgoing=ports.outgoing,
            tunables=ports.tunables,
            secrets=ports.secrets,
            metrics=ports.metrics,
            intent=Reader(ports.tunables, ports.llm, ports.clock, ports.metrics),
            providers=ProviderTrial(ports.outgoing, ports.secrets.fill, ports.metrics),
            validate_source=validate_source,
            portraits=Portraits(),
            ready=self._is_ready,
            stopping=lambda: self.supervisor.stopping,
            checks=self.checks,
            loops=lambda: self.supervisor.statuses,
            actors=tuple(registry.ACTORS),
        )

    def _is_ready(self) -> bool:
        """Whether requests shall be sent here: without the database none can be answered."""
        return self.supervisor.ready and self._watch.is_up("database")

    async def checks(self) -> list[Check]:
        """Give the health report: engines, disk, backlog, and every loop."""
        lines = await health.report(self._probes, self._engines.settings.home)
        return lines + health.loops(self.supervisor.statuses.values())

    async def sign_in_link(self) -> str | None:
        """Give a link that signs the owner in once; None if their account is not active."""
        from limner.storage.sql import accounts

        ports = self._engines.ports
        owner = await accounts.ensure_owner(ports.units)
        if owner.state != "active":
            return None
        work = ports.units.open("cli")
        token = accounts.create_sign_in_link(work, owner)
        await ports.units.commit(work)
        return f"{self.url}/sign-in/{token}"

    async def stop(self) -> None:
        """Stop consuming, finish what is in hand, close the front, release the rest."""
        await self.supervisor.stop()
        if self._runner is not None:
            await self._runner.cleanup()
        for actor in reversed(self._closing):
            if actor.close is not None:
                await actor.close()


async def serve(
    settings: Settings,
    actors: Sequence[str],
    *,
    http: bool,
    started: Callable[[Service], Awaitable[None]] | None = None,
    builders: Builders | None = None,
) -> int:
    """Run until SIGTERM or SIGINT; a second one ends the process at once. Gives the exit code."""
    failpoints.arm(settings.failpoint or None)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def told() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in SIGNALS:
        loop.add_signal_handler(number, told)
    async with open_engines(settings) as engines:
        service = Service(engines, actors, builders or {})
        try:
            await service.start(http=http)
            if started is not None:
                await started(service)
            log.info("started", actors=list(actors), url=service.url)
            waits = [
                asyncio.create_task(stop.wait()),
                asyncio.create_task(service.supervisor.gave_up.wait()),
            ]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            log.info("stopping")
        finally:
            await service.stop()
    return 1 if service.supervisor.gave_up.is_set() else 0


async def probe(settings: Settings) -> list[Check]:
    """Open every adapter as a server would and give what a doctor sees of them; makes nothing."""
    checks: list[Check] = []
    path = Database(settings.database, SystemClock()).path
    if path is not None and not path.exists():
        checks.append(Check("database", "warn", f"no {path} yet", "python run.py migrate"))
        return [*checks, await _probe_model(settings)]
    try:
        async with open_engines(settings, check_schema=False) as engines:
            ports = engines.ports
            pending = await schema.pending(ports.database)
            mend = "python run.py migrate"
            checks.append(
                Check("schema", "warn", f"{len(pending)} migrations are pending", mend)
                if pending
                else Check("schema", "pass", "up to date")
            )
            checks += (
                await health.report(health.probes(ports), settings.home)
                if not pending
                else await health.engines(health.probes(ports))
            )
            checks += [await _probe_mail(ports), await _probe_model(settings)]
    except LimnerError as error:
        checks.append(Check("engines", "fail", error.detail, "see: python run.py settings"))
    return checks


async def _probe_mail(ports: Ports) -> Check:
    from limner.actors.mailer.transports import transport

    url = ports.settings.mail_url.get_secret_value()
    if url.startswith("mailbox:"):
        return Check("mail server", "pass", "not needed")
    carrier = transport(url, ports)
    try:
        # A mail server may let strangers wait for its greeting.
        return await health.answers("mail server", carrier.check, "see LIMNER_MAIL_URL", 30.0)
    finally:
        await carrier.aclose()


async def _probe_model(settings: Settings) -> Check:
    from limner.actors.generator.pipeline import Pipeline

    chosen = settings.generator
    try:
        pipeline = await asyncio.to_thread(Pipeline.load, chosen.model, chosen.device)
    except LimnerError as error:
        return Check("generator", "fail", error.detail, "see LIMNER_GENERATOR__MODEL")
    detail = f"{chosen.model} on {pipeline.device.name}: {pipeline.device.reason}"
    return Check("generator", "pass", detail)

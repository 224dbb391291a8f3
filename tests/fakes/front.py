"""A whole web front over embedded engines, and a client for it; nothing else runs beside it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request
from aiohttp.web_runner import BaseRunner

from limner.actors import registry
from limner.actors.images.portraits import Portraits
from limner.core.brokers.embedded import EmbeddedBroker
from limner.core.clock import HeldClock
from limner.core.health import Check
from limner.core.ids import new_id
from limner.core.metrics import Metrics
from limner.core.objects import ObjectStore
from limner.core.outgoing import Outgoing
from limner.core.sealing import Sealer
from limner.core.settings import HttpSettings, Settings
from limner.core.signing import Signer
from limner.core.supervisor import LoopStatus
from limner.core.unit import UnitOfWork
from limner.http.auth import cookies, csrf
from limner.http.auth.callers import Caller
from limner.http.auth.sessions import TokenPair, begin_token
from limner.http.call import Call
from limner.http.limits import Rate, Rates
from limner.http.listener import Bounds, Runner
from limner.http.ports import Front
from limner.http.server import Options, build_application
from limner.storage.cache.memory import MemoryCache
from limner.storage.objects.local import LocalObjects
from limner.storage.sql.accounts import (
    User,
    create_key,
    create_sign_in_link,
    digest,
    ensure_owner,
)
from limner.storage.sql.comments import Comment
from limner.storage.sql.database import Database
from limner.storage.sql.outbox import Outbox
from limner.storage.sql.sessions import Session
from limner.storage.sql.tasks import Task
from limner.storage.sql.tunables import SecretStore, TunableStore
from limner.storage.sql.unit import SqlUnits
from tests.fakes import databases
from tests.fakes.testers import FakeIntent, FakeProviders, validate_source

HOST = "127.0.0.1"
SECRET = b"a secret of at least thirty-two bytes"
PLENTY = Rates(Rate("account", 1000, 100_000), Rate("anonymous", 1000, 100_000))
PING_S = 0.2
PATIENCE_S = 30.0
"""How long a test waits for what must happen: this ends one that hangs, and measures nothing."""

PROVIDER: dict[str, Any] = {
    "name": "acme",
    "kind": "both",
    "base_url": "https://api.acme.test",
    "submit_path": "/v1/jobs",
    "status_path": "/v1/jobs/{id}",
    "headers": {"Authorization": "Bearer secret:acme"},
    "request": {"input": {"prompt": "$.prompt", "type": "$.kind"}},
    "job_id": "$.id",
    "status": "$.status",
    "status_map": {"queued": "pending", "done": "succeeded", "error": "failed"},
    "result_url": "$.output.url",
    "error": "$.message",
}


class FrontServer(TestServer):
    """Serves a front as the service does, with its bounds for connections, at a bound socket."""

    def __init__(
        self, application: web.Application, bound: socket.socket, bounds: Bounds | None = None
    ) -> None:
        super().__init__(application, host=HOST, socket_factory=lambda *_: bound)
        self._bounds = bounds

    async def _make_runner(self, **kwargs: Any) -> BaseRunner:
        return Runner(self.app, self._bounds, **kwargs)


@dataclass
class Stage:
    """A front that is served, with its parts in reach and clients for several callers."""

    front: Front
    clock: HeldClock
    server: TestServer
    owner: User
    stack: AsyncExitStack
    is_ready: bool = True
    is_stopping: bool = False
    checks: list[Check] = field(default_factory=lambda: [Check("database", "pass")])
    loops: dict[str, LoopStatus] = field(default_factory=dict)

    async def client(self, key: str | None = None, **headers: str) -> TestClient[Any, Any]:
        """Give a client; with a key if one is given."""
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        client: TestClient[Any, Any] = TestClient(self.server, headers=headers)
        self.stack.push_async_callback(client.close)
        return client

    async def key(
        self, *scopes: str, user: User | None = None, expires_s: float | None = None
    ) -> str:
        """Make a key."""
        work = self.front.units.open("test")
        expires_at = None if expires_s is None else work.now + timedelta(seconds=expires_s)
        _, secret = create_key(
            work, user or self.owner, frozenset(scopes or ("admin",)), "test", expires_at
        )
        await self.front.units.commit(work)
        return secret

    async def admin(self) -> TestClient[Any, Any]:
        """Give a client with a key of the owner's that may do everything."""
        return await self.client(await self.key("admin"))

    async def signed_in(self, user: User | None = None) -> TestClient[Any, Any]:
        """Give a browser with the cookie of an account (the owner's), and its pages' token."""
        client = await self.client()
        answer = await client.get(f"/sign-in/{await self.link(user)}", allow_redirects=False)
        assert answer.status == 303, await answer.text()
        value = client.session.cookie_jar.filter_cookies(client.make_url("/"))
        cookie = value[cookies.name_of(self.front)].value
        session = await Session.get(sha256=digest(cookie))
        client.session.headers[csrf.HEADER] = csrf.token_of(self.front, session.id)
        return client

    async def tokens(self, user: User | None = None) -> TokenPair:
        """Give access and refresh tokens of an account (the owner's), without a password."""
        request = make_mocked_request("POST", "/", {"User-Agent": "Stage/1"}, app=self.server.app)
        call = Call(request, self.front, Caller())
        work = call.work()
        pair = await begin_token(call, work, user or self.owner, by="password")
        await call.commit(work)
        return pair

    async def bearer(self, user: User | None = None) -> TestClient[Any, Any]:
        """Give a client with an access token."""
        return await self.client((await self.tokens(user)).access_token)

    async def beside(self) -> "Stage":
        """Serve a second front over the same database, with a memory of its own: a process."""
        database = copy(self.front.database)
        database._memories = {}
        units = SqlUnits(database, self.front.broker, self.clock, self.front.outbox.offer)
        spare = MemoryCache(self.clock)
        front = replace(self.front, database=database, units=units, spare_cache=spare)
        application = build_application(front, Options(ping_s=PING_S, rates=PLENTY))
        server = FrontServer(application, self.stack.enter_context(_bound()))
        await server.start_server(shutdown_timeout=1.0)
        self.stack.push_async_callback(server.close)
        return Stage(front, self.clock, server, self.owner, self.stack)

    async def settings(self, **values: Any) -> None:
        """Change tunables, as an admin would, and have them read."""
        work = self.front.units.open("test")
        await self.front.tunables.put(work, values, "test")
        await self.front.units.commit(work)
        self.front.tunables.forget()
        await self.front.tunables.current()

    def path(self, url: str) -> str:
        """Give what a client asks for to open an absolute link of ours."""
        base = self.front.settings.base_url
        assert url.startswith(base), url
        return url.removeprefix(base)

    async def link(self, user: User | None = None) -> str:
        """Make a sign-in link's token for an account (the owner's)."""
        work = self.front.units.open("test")
        token = create_sign_in_link(work, user or self.owner)
        await self.front.units.commit(work)
        return token

    async def user(self, role: str = "user", state: str = "active") -> User:
        """Make another account."""
        ident = new_id("user")
        user = User(id=ident, user_id=ident, state=state, role=role, email=f"{ident}@x.test")
        await self.add(user)
        return user

    async def add(self, *rows: Any) -> None:
        """Store rows, with their first lines."""
        work = self.front.units.open("test")
        work.add(*rows)
        await self.front.units.commit(work)

    def work(self) -> UnitOfWork:
        """Open a unit."""
        return self.front.units.open("test")

    async def task(self, state: str = "pending", **fields: Any) -> Task:
        """Store a comment and its task."""
        comment = Comment(
            id=new_id("comment"),
            state="task",
            user_id=fields.get("user_id", self.owner.id),
            source_id="source_1",
            external_id=new_id("external"),
            author="Anna",
            text="draw a red circle, send it to anna@example.com",
        )
        task = Task(
            id=new_id("task"),
            state=state,
            **{
                "user_id": self.owner.id,
                "comment_id": comment.id,
                "source_id": comment.source_id,
                "comment_text": comment.text,
                "author": comment.author,
                "email": "anna@example.com",
                "prompt": "a red circle",
                **fields,
            },
        )
        comment.task_id = task.id
        await self.add(comment, task)
        return task

    async def move(self, task: Task, *states: str, **changes: Any) -> Task:
        """Move a task on, each step a unit of its own."""
        for state in states:
            row = await Task.get(id=task.id)
            work = self.work()
            work.move(row, expected=row.state, to=state, **changes)
            await self.front.units.commit(work)
        return await Task.get(id=task.id)


@asynccontextmanager
async def staged(
    database_file: Path,
    folder: Path,
    clock: HeldClock,
    *,
    rates: Rates | None = PLENTY,
    ping_s: float = PING_S,
    signed: bool = True,
    bounds: Bounds | None = None,
    **settings: Any,
) -> AsyncIterator[Stage]:
    """Serve a front on loopback over a copy of a migrated database.

    ``signed`` False means a store that serves its own links, as S3 does.
    """
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            databases.opened(database_file, folder / "front.db", clock)
        )
        broker = EmbeddedBroker(clock)
        stack.push_async_callback(broker.aclose)
        await broker.start(registry.ACTORS)
        metrics = Metrics("test")
        outbox = Outbox(database, broker, clock, metrics)
        stack.push_async_callback(outbox.drain)
        units = SqlUnits(database, broker, clock, outbox.offer)
        # It is bound first, because links carry its port, and stays so: nobody takes it meanwhile.
        bound = stack.enter_context(_bound())
        http = settings.pop("http", HttpSettings())
        settings.setdefault("mail_from", "Limner <limner@example.org>")
        configured = Settings(
            home=folder,
            public_url=settings.pop("public_url", f"http://{HOST}:{bound.getsockname()[1]}"),
            http=http,
            **settings,
        )
        signer = Signer([SECRET])
        objects = LocalObjects(folder / "objects", signer, configured.base_url, clock)
        outgoing = Outgoing(clock=clock)
        stack.push_async_callback(outgoing.aclose)
        front, parts = _front(
            configured,
            clock,
            database,
            units,
            outbox,
            broker,
            objects,
            signer,
            metrics,
            outgoing,
            signed,
        )
        application = build_application(
            front,
            Options(ping_s=ping_s, rates=rates),
            messages=registry.messages(),
            version="1.2.3",
        )
        server = FrontServer(application, bound, bounds)
        await server.start_server(shutdown_timeout=1.0)
        stack.push_async_callback(server.close)
        owner = await ensure_owner(units)
        stage = Stage(
            front, clock, server, owner, await stack.enter_async_context(AsyncExitStack())
        )
        parts["stage"] = stage
        yield stage


def _bound() -> socket.socket:
    """Give a socket with a port of its own, which listens when its server starts."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.bind((HOST, 0))
    return bound


def _front(
    settings: Settings,
    clock: HeldClock,
    database: Database,
    units: SqlUnits,
    outbox: Outbox,
    broker: EmbeddedBroker,
    objects: LocalObjects,
    signer: Signer,
    metrics: Metrics,
    outgoing: Outgoing,
    signed: bool,
) -> tuple[Front, dict[str, Stage]]:
    parts: dict[str, Stage] = {}

    async def checks() -> Sequence[Check]:
        return parts["stage"].checks

    store: ObjectStore = objects
    front = Front(
        settings=settings,
        clock=clock,
        database=database,
        units=units,
        outbox=outbox,
        broker=broker,
        objects=store,
        signed_objects=objects if signed else None,
        cache=MemoryCache(clock),
        spare_cache=MemoryCache(clock),
        signer=signer,
        sealer=Sealer(SECRET[:32]),
        outgoing=outgoing,
        tunables=TunableStore(clock, database.memory("tunables")),
        secrets=SecretStore(SECRET[:32]),
        metrics=metrics,
        intent=FakeIntent(),
        providers=FakeProviders(),
        validate_source=validate_source,
        portraits=Portraits(),
        ready=lambda: parts["stage"].is_ready,
        stopping=lambda: parts["stage"].is_stopping,
        checks=checks,  # type: ignore[arg-type] # a list it is
        loops=lambda: parts["stage"].loops,
        actors=tuple(registry.ACTORS),
    )
    return front, parts


async def until(holds: Callable[[], bool], limit_s: float = PATIENCE_S) -> None:
    """Return when ``holds`` says so.

    Raises:
        TimeoutError: it never did.
    """
    async with asyncio.timeout(limit_s):
        while True:
            if holds():
                return
            await asyncio.sleep(0.005)


async def problem(answer: ClientResponse) -> dict[str, Any]:
    """Give the problem details of an answer, which must be some."""
    assert answer.content_type == "application/problem+json", await answer.text()
    found: dict[str, Any] = await answer.json(content_type=None)
    assert found["status"] == answer.status
    return found


async def code_of(answer: ClientResponse, status: int) -> str:
    """Give the code of a problem, whose status must be ``status``."""
    found = await problem(answer)
    assert found["status"] == status, found
    return str(found["code"])

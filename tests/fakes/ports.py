"""Everything an actor's ``build(ports)`` takes, open and real, in a folder that a test gives.

SQLite, the embedded broker, objects in a folder, the cache in memory, the mailbox: nothing here
imitates anything. What speaks to the outside is pointed at a fake by its setting, for example
``open_ports(tmp_path, llm_url=llm.url, llm_model="small")``.
"""

import atexit
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from limner.actors.ports import Ports
from limner.actors.registry import ACTORS
from limner.core.brokers.embedded import EmbeddedBroker
from limner.core.clock import Clock, SystemClock
from limner.core.llm import ChatModel
from limner.core.metrics import Metrics
from limner.core.outgoing import Outgoing
from limner.core.sealing import Sealer
from limner.core.settings import Settings
from limner.core.signing import Signer, derive_key
from limner.http.ports import Front
from limner.storage.cache.memory import MemoryCache
from limner.storage.objects.local import LocalObjects
from limner.storage.sql.address import sqlite_path
from limner.storage.sql.database import Database
from limner.storage.sql.leases import HEARTBEAT_S, LEASE_S, Leases
from limner.storage.sql.outbox import Outbox
from limner.storage.sql.schema import migrate
from limner.storage.sql.tunables import SecretStore, TunableStore
from limner.storage.sql.unit import SqlUnits
from tests.fakes import databases

SECRET = b"the secret key of all the tests.."
PUBLIC_URL = "https://limner.test"
MAIL_FROM = "Limner <limner@limner.test>"

_schemas: list[Path] = []


async def at_once(_: float) -> None:
    """Take the place of ``asyncio.sleep`` where a test need not wait."""


async def _migrated() -> Path:
    """Give a file with the newest schema, made at the first call of this process."""
    if not _schemas:
        folder = Path(tempfile.mkdtemp(prefix="limner-schema-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        database = Database(f"sqlite://{folder / 'limner.db'}", SystemClock())
        await database.open()
        try:
            await migrate(database)
        finally:
            await database.close()
        _schemas.append(folder / "limner.db")
    return _schemas[0]


def ports_of(front: Front) -> Ports:
    """Give an actor the adapters of a front, as one process has them."""
    return Ports(
        settings=front.settings,
        clock=front.clock,
        database=front.database,
        units=front.units,
        outbox=front.outbox,
        leases=Leases(front.database),
        broker=front.broker,
        objects=front.objects,
        cache=front.cache,
        outgoing=front.outgoing,
        llm=ChatModel("", "", "", front.outgoing),
        signer=front.signer,
        sealer=front.sealer,
        tunables=front.tunables,
        secrets=front.secrets,
        metrics=front.metrics,
        worker_id="test:1",
    )


@asynccontextmanager
async def open_ports(
    folder: Path,
    *,
    clock: Clock | None = None,
    migrated: Path | None = None,
    lease_s: float = LEASE_S,
    heartbeat_s: float = HEARTBEAT_S,
    llm_sleep: Callable[[float], Awaitable[None]] = at_once,
    worker_id: str = "test:1",
    **settings: Any,
) -> AsyncIterator[Ports]:
    """Open every adapter below ``folder``, and close them in reverse.

    ``migrated`` is a SQLite file with the newest schema to copy; one is made without it, once.
    ``settings`` are fields of ``Settings``; ``llm_sleep`` is how the model waits between attempts.
    """
    clock = clock or SystemClock()
    chosen = Settings(
        **{"home": folder, "public_url": PUBLIC_URL, "mail_from": MAIL_FROM, **settings}
    )
    metrics, signer = Metrics("test"), Signer([derive_key(SECRET, "links")])
    async with AsyncExitStack() as stack:
        path = sqlite_path(chosen.database)
        database = await stack.enter_async_context(
            databases.opened(migrated or await _migrated(), path, clock)
        )
        broker = EmbeddedBroker(clock)
        stack.push_async_callback(broker.aclose)
        await broker.start(ACTORS)
        outgoing = Outgoing(allow_private_hosts=frozenset(chosen.allow_private_hosts), clock=clock)
        stack.push_async_callback(outgoing.aclose)
        outbox = Outbox(database, broker, clock, metrics)
        stack.push_async_callback(outbox.drain)
        yield Ports(
            settings=chosen,
            clock=clock,
            database=database,
            units=SqlUnits(database, broker, clock, outbox.offer),
            outbox=outbox,
            leases=Leases(database, lease_s, heartbeat_s),
            broker=broker,
            objects=LocalObjects(
                folder / "objects", signer, chosen.base_url, clock, min_free_bytes=0
            ),
            cache=MemoryCache(clock),
            outgoing=outgoing,
            llm=ChatModel(
                chosen.llm_url,
                chosen.llm_key.get_secret_value(),
                chosen.llm_model,
                outgoing,
                sleep=llm_sleep,
            ),
            sealer=Sealer(derive_key(SECRET, "front")),
            signer=signer,
            tunables=TunableStore(clock),
            secrets=SecretStore(derive_key(SECRET, "secrets")),
            metrics=metrics,
            worker_id=worker_id,
        )

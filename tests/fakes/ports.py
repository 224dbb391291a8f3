"""Everything an actor's ``build(ports)`` takes, open and real, in a folder that a test gives.

SQLite, the embedded broker, objects in a folder, the cache in memory, the mailbox: nothing here
imitates anything. What speaks to the outside is pointed at a fake by its setting, for example
``open_ports(tmp_path, llm_url=llm.url, llm_model="small")``.
"""

import shutil
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
from limner.core.settings import Settings
from limner.core.signing import Signer, derive_key
from limner.storage.cache.memory import MemoryCache
from limner.storage.objects.local import LocalObjects
from limner.storage.sql.database import Database
from limner.storage.sql.leases import HEARTBEAT_S, LEASE_S, Leases
from limner.storage.sql.outbox import Outbox
from limner.storage.sql.schema import migrate
from limner.storage.sql.tunables import SecretStore, TunableStore
from limner.storage.sql.unit import SqlUnits

SECRET = b"the secret key of all the tests.."
PUBLIC_URL = "https://limner.test"
MAIL_FROM = "Limner <limner@limner.test>"


async def at_once(_: float) -> None:
    """Take the place of ``asyncio.sleep`` where a test need not wait."""


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

    ``migrated`` is a SQLite file with the newest schema to copy; without it the migrations run.
    ``settings`` are fields of ``Settings``; ``llm_sleep`` is how the model waits between attempts.
    """
    clock = clock or SystemClock()
    chosen = Settings(
        **{"home": folder, "public_url": PUBLIC_URL, "mail_from": MAIL_FROM, **settings}
    )
    metrics, signer = Metrics("test"), Signer([derive_key(SECRET, "links")])
    async with AsyncExitStack() as stack:
        database = Database(chosen.database, clock)
        fresh = database.path is not None and not database.path.exists()
        if fresh and migrated is not None:
            shutil.copyfile(migrated, str(database.path))
        await database.open()
        stack.push_async_callback(database.close)
        if fresh and migrated is None:
            await migrate(database)
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
            signer=signer,
            tunables=TunableStore(clock),
            secrets=SecretStore(derive_key(SECRET, "secrets")),
            metrics=metrics,
            worker_id=worker_id,
        )

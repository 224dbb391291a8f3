"""A whole service in this process, in a throw-away folder; embedded unless told otherwise."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.painter import ReadyPainter
from limner.actors import registry
from limner.actors.generator.actor import build as build_generator
from limner.actors.poller.messages import Poll
from limner.actors.ports import Ports
from limner.app import Builders, Service, open_engines
from limner.core.ids import new_id
from limner.core.settings import Settings
from limner.ops import migration
from limner.storage.sql.accounts import OWNER_ID
from limner.storage.sql.sources import Source, create_source
from limner.storage.sql.tasks import Task

LOOK_PART = 0.01
LOOK_S = (0.01, 0.25)
"""Look at how far it is after each hundredth of the time so far, within these bounds: looking
costs what is measured."""

DAY_S = 86_400

READY: Builders = {"generator": lambda ports: build_generator(ports, painter=ReadyPainter())}
"""The generator with a painter that paints nothing."""


class NotFinished(RuntimeError):
    """What was measured went wrong, so its figures mean nothing."""


@asynccontextmanager
async def running(
    home: Path, feed_url: str = "", builders: Builders | None = None, **chosen: Any
) -> AsyncIterator[Ports]:
    """Run every actor, without the web front, while the block runs; ``chosen`` are settings."""
    hosts = (urlsplit(feed_url).netloc,) if feed_url else ()
    settings = Settings(home=home, allow_private_hosts=hosts, **chosen)
    async with open_engines(settings, check_schema=False) as engines:
        await migration.migrate(engines.ports.database, engines.ports.units)
        service = Service(engines, registry.chosen("all"), builders or {})
        await service.start(http=False)
        try:
            yield engines.ports
        finally:
            await service.stop()


async def add_source(ports: Ports, options: Mapping[str, Any]) -> Source:
    """Store a source that nothing but a benchmark polls."""
    source = Source(
        id=new_id("source"),
        state="active",
        user_id=OWNER_ID,
        name="benchmark",
        connector="http",
        interval_s=DAY_S,
        options=dict(options),
    )
    work = ports.units.open("benchmark")
    create_source(work, source, Poll(source_id=source.id))
    await ports.units.commit(work)
    return source


async def poll_to_mail(ports: Ports, source: Source, comments: int, limit_s: float) -> float:
    """Poll a source and wait until each comment's mail has gone; gives the seconds.

    Raises:
        NotFinished: a task failed, or not all were mailed within ``limit_s``.
    """
    started = time.perf_counter()
    work = ports.units.open("benchmark")
    work.send(Poll(source_id=source.id))
    await ports.units.commit(work)
    tasks, seconds = Task.filter(source_id=source.id), 0.0
    while await tasks.filter(state="emailed").count() < comments:
        await asyncio.sleep(min(LOOK_S[1], max(LOOK_S[0], seconds * LOOK_PART)))
        seconds = time.perf_counter() - started
        broken = await tasks.filter(state__in=("failed", "unknown")).first()
        if broken is not None:
            raise NotFinished(f"a task {broken.state}: {broken.error}")
        if seconds > limit_s:
            states = sorted(await tasks.values_list("state", flat=True))
            raise NotFinished(f"{comments} comments, but the tasks are {states}")
    return time.perf_counter() - started

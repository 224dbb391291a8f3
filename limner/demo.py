"""The demo: the main job once, end to end, on the embedded defaults in a throw-away folder.

Nothing in it is staged: the comments come from the connector ``demo``, the rules read them, the
built-in model draws, the mailbox keeps the mails. The one provider that fails is an HTTP server of
this process that takes a job and then says that it has failed.
"""

import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from limner.actors import registry
from limner.actors.poller.messages import Poll
from limner.actors.poller.sample import comments as sample_comments
from limner.app import Engines, Service, open_engines
from limner.core.clock import SystemClock
from limner.core.ids import new_id
from limner.core.settings import Settings
from limner.ops import migration
from limner.storage.sql.accounts import OWNER_ID
from limner.storage.sql.comments import Comment
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.mailbox import MailboxMail
from limner.storage.sql.providers import Provider
from limner.storage.sql.sources import Source, create_source
from limner.storage.sql.tasks import Task

LIMIT_S = 180.0
LOOK_S = 0.1
PIPE_WIDTH = 140
FAILING = "failing-demo"
SETTLED = {"emailed", "failed", "cancelled", "expired", "needs_review", "ignored", "no_address"}
COLOURS = {"emailed": "green", "failed": "red", "needs_review": "yellow"}
REFUSAL = "the demo's provider has no paint left"


@dataclass
class Line:
    """What became of one comment."""

    external_id: str
    text: str
    expected: str
    state: str = "not seen"
    prompt: str = ""
    picture: str = ""
    mail: str = ""
    error: str = ""


@asynccontextmanager
async def _failing_provider() -> AsyncIterator[int]:
    """Serve a provider on loopback that takes every job and fails it; gives its port."""

    async def submit(_: web.Request) -> web.Response:
        return web.json_response({"id": new_id("job"), "status": "queued"}, status=202)

    async def status(_: web.Request) -> web.Response:
        return web.json_response({"status": "error", "message": REFUSAL})

    application = web.Application()
    application.add_routes([web.post("/v1/jobs", submit), web.get("/v1/jobs/{id}", status)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _console() -> Console:
    """Give standard output; wide enough for the table where nobody looks at it directly."""
    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)


async def run(keep: Path | None = None, console: Console | None = None) -> int:
    """Run the demo and print its table; 0 if every comment ended as expected, else 1."""
    console = console or _console()
    folder = keep or Path(tempfile.mkdtemp(prefix="limner-demo-"))
    started = time.monotonic()
    async with _failing_provider() as port:
        settings = Settings(
            home=folder,
            allow_private_hosts=(f"127.0.0.1:{port}",),
            mail_from="Limner <demo@example.org>",
        )
        async with open_engines(settings, clock=SystemClock(), check_schema=False) as engines:
            await migration.migrate(engines.ports.database, engines.ports.units)
            service = Service(engines, registry.chosen("all"), {})
            await service.start(http=False)
            try:
                lines, again = await _play(engines, port, console)
                await _collect(engines, lines, folder)
            finally:
                await service.stop()
    _print(console, lines, again, folder, time.monotonic() - started)
    return 0 if again == 0 and all(_as_expected(line) for line in lines) else 1


async def _play(engines: Engines, port: int, console: Console) -> tuple[list[Line], int]:
    """Make the sources, poll them, wait, poll again; give the lines and what the second added."""
    sources = await _prepare(engines, port)
    await _poll(engines, sources)
    lines = await _watch(engines, sources, console)
    before = await Comment.all().count()
    await _poll(engines, sources)
    return lines, await Comment.all().count() - before


async def _prepare(engines: Engines, port: int) -> list[Source]:
    ports = engines.ports
    work = ports.units.open("demo")
    await ports.tunables.put(work, {"status_first_delay_s": 0.5}, "demo")
    work.add(
        Provider(
            id=new_id("provider"),
            state="active",
            user_id=OWNER_ID,
            name=FAILING,
            media="both",
            config={
                "base_url": f"http://127.0.0.1:{port}",
                "submit_path": "/v1/jobs",
                "status_path": "/v1/jobs/{id}",
                "request": {"prompt": "$.prompt"},
                "job_id": "$.id",
                "status": "$.status",
                "status_map": {"queued": "pending", "done": "succeeded", "error": "failed"},
                "result_url": "$.url",
                "error": "$.message",
            },
        )
    )
    sources = [
        Source(
            id=new_id("source"),
            state="active",
            user_id=OWNER_ID,
            name=name,
            connector="demo",
            interval_s=86_400,
            options=options,
        )
        for name, options in (("demo", {}), ("demo, failing", {"provider": FAILING}))
    ]
    for source in sources:
        create_source(work, source, Poll(source_id=source.id))
    await ports.units.commit(work)
    ports.tunables.forget()
    return sources


async def _poll(engines: Engines, sources: list[Source]) -> None:
    """Poll every source once and wait until the polls have ended."""
    began = engines.ports.clock.now()
    work = engines.ports.units.open("demo")
    for source in sources:
        work.send(Poll(source_id=source.id))
    await engines.ports.units.commit(work)
    ids = [source.id for source in sources]
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        done = await Source.filter(id__in=ids, poll_id="", last_polled_at__gte=began).count()
        if done == len(ids):
            return
        await asyncio.sleep(LOOK_S)


async def _watch(engines: Engines, sources: list[Source], console: Console) -> list[Line]:
    """Wait until everything has settled, showing how far it is."""
    unique = {one["id"]: one for one in sample_comments()}
    lines = {
        ident: Line(ident, str(one["text"]), str(one["expect"])) for ident, one in unique.items()
    }
    until = time.monotonic() + LIMIT_S
    last = ""
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        while time.monotonic() < until:
            await _refresh(lines)
            counts = Counter(line.state for line in lines.values())
            told = "   ".join(f"{state} {count}" for state, count in sorted(counts.items()))
            if console.is_terminal:
                live.update(Text(f"  {told}"))
            elif told != last:
                console.print(told)
            last = told
            if all(line.state in SETTLED for line in lines.values()):
                break
            await asyncio.sleep(LOOK_S)
    return list(lines.values())


async def _refresh(lines: dict[str, Line]) -> None:
    tasks = {task.comment_id: task for task in await Task.all()}
    for comment in await Comment.all():
        line = lines[comment.external_id]
        task = tasks.get(comment.id)
        line.state = task.state if task else comment.state
        if task is not None:
            line.prompt, line.error = task.prompt, task.error


async def _collect(engines: Engines, lines: list[Line], folder: Path) -> None:
    """Put pictures and mails where a person finds them, and count the mails."""
    objects = engines.ports.objects
    (folder / "pictures").mkdir(exist_ok=True)
    (folder / "mails").mkdir(exist_ok=True)
    comments = {comment.external_id: comment for comment in await Comment.all()}
    mails = await MailboxMail.all()
    for line in lines:
        comment = comments.get(line.external_id)
        task = await Task.get_or_none(comment_id=comment.id) if comment else None
        if task is None or not task.result_key:
            continue
        suffix = task.result_key.rpartition(".")[2]
        picture = folder / "pictures" / f"{line.external_id}.{suffix}"
        picture.write_bytes(await objects.read(task.result_key, 100_000_000))
        line.picture = picture.name
        sent = {delivery.message_id for delivery in await Delivery.filter(task_id=task.id)}
        mine = [mail for mail in mails if mail.message_id in sent]
        for mail in mine[:1]:
            raw = await objects.read(mail.raw_key, 100_000_000)
            (folder / "mails" / f"{line.external_id}.eml").write_bytes(raw)
        line.mail = f"{len(mine)} to {task.email}"


def _as_expected(line: Line) -> bool:
    if line.state != line.expected:
        return False
    if line.expected == "emailed":
        return bool(line.picture) and line.mail.startswith("1 ")
    return not line.picture and not line.mail


def _print(console: Console, lines: list[Line], again: int, folder: Path, seconds: float) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("comment", "state", "prompt", "picture", "mail"):
        table.add_column(name, overflow="fold")
    for line in lines:
        colour = COLOURS.get(line.state, "dim")
        state = Text(line.state, style=colour if _as_expected(line) else "bold red")
        last = line.mail or (line.error if line.state == "failed" else "")
        table.add_row(line.external_id, state, line.prompt, line.picture, last)
    console.print(table)
    wrong = [line for line in lines if not _as_expected(line)]
    for line in wrong:
        console.print(
            f"{line.external_id}: expected {line.expected}, is {line.state} {line.error}",
            style="red",
        )
    emailed = sum(line.state == "emailed" for line in lines)
    console.print(
        f"\n{len(lines)} comments, {emailed} mails in {seconds:.1f} s. A second poll added {again}."
    )
    console.print(f"Pictures and mails: {folder}", soft_wrap=True)

"""The journey: comments come in, pictures are made, mails go out; told to Limner over REST alone.

``Journey.play`` may be broken off by the death of the server and played again from its beginning,
as a client would: what it asks for once is looked for before it is asked for again.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from limner.actors.poller.sample import comments as sample_comments
from tests.fakes.feed import Feed, Said
from tests.fakes.llm import Asked, FakeLlm, good
from tests.fakes.provider import FakeProvider
from tests.fakes.smtp import FakeSmtp
from tests.journeys.process import Answered, Limner, Prepared, until

CHOSEN = (
    *("demo-01", "demo-02", "demo-05", "demo-03"),
    *("demo-06", "demo-07", "demo-08", "demo-10"),
    *("demo-13", "demo-04", "demo-14"),
)
"""Seven pictures and videos that are wanted, one wish for review, three comments that want none."""

PAGE_SIZE = 4
SETTLED = {"emailed", "failed", "cancelled", "expired", "needs_review", "unknown"}
SETTLE_LIMIT_S = 60.0
QUIET_LOOK_S = 0.2
PROVIDER = "acme"
SECRET = "canary-of-the-provider-5f0c"
MAIL_PASSWORD = "canary-of-the-mail-91ab"
LLM_KEY = "canary-of-the-model-77d2"
SOURCE = "journey"
RESTS = re.compile(r'"state":"(needs_review|unknown)"')


@dataclass(frozen=True)
class Wish:
    """A comment and what shall become of it: emailed, needs_review, ignored or no_address."""

    id: str
    author: str
    text: str
    expect: str


def wishes(chosen: tuple[str, ...] = CHOSEN) -> list[Wish]:
    """Give the comments of the journey."""
    by_id = {one["id"]: one for one in sample_comments()}
    return [
        Wish(ident, by_id[ident]["author"], by_id[ident]["text"], by_id[ident]["expect"])
        for ident in chosen
    ]


@dataclass(frozen=True)
class Variant:
    """Which outside worlds take part: ``provider`` is local, keyed, or findable.

    ``keyed`` providers honour idempotency keys, ``findable`` ones can look our id up.
    """

    provider: str = "local"
    smtp: bool = False
    llm: bool = False
    listens: bool = False
    scheduled: bool = False
    clears: bool = False


@dataclass
class World:
    """The fakes that surround the server; they live in this process and outlive its deaths."""

    variant: Variant
    feed: Feed
    provider: FakeProvider | None = None
    smtp: FakeSmtp | None = None
    llm: FakeLlm | None = None

    @property
    def settings(self) -> dict[str, str]:
        """Give the settings that a server in this world needs."""
        hosts = [self.feed.host] + ([self.provider.host] if self.provider else [])
        settings = {"LIMNER_ALLOW_PRIVATE_HOSTS": ",".join(hosts)}
        if self.smtp is not None:
            settings["LIMNER_MAIL_URL"] = self.smtp.url
            settings["LIMNER_MAIL_FROM"] = "Limner <limner@example.net>"
        if self.llm is not None:
            settings["LIMNER_LLM_URL"] = self.llm.url
            settings["LIMNER_LLM_KEY"] = LLM_KEY
            settings["LIMNER_LLM_MODEL"] = "fake"
        return settings


@asynccontextmanager
async def surrounded(
    variant: Variant, wanted: Sequence[Wish] | None = None
) -> AsyncIterator[World]:
    """Start the fakes of a variant; the feed has the comments of the journey, or ``wanted``."""
    async with AsyncExitStack() as stack:
        said = [Said(wish.id, wish.text, wish.author) for wish in wanted or wishes()]
        feed = await stack.enter_async_context(Feed(said, page_size=PAGE_SIZE))
        world = World(variant, feed)
        if variant.provider != "local":
            keyed = variant.provider == "keyed"
            world.provider = await stack.enter_async_context(
                FakeProvider(polls=1, honours_keys=keyed, token=SECRET)
            )
        if variant.smtp:
            world.smtp = await stack.enter_async_context(FakeSmtp(login=("limner", MAIL_PASSWORD)))
        if variant.llm:
            world.llm = await stack.enter_async_context(FakeLlm())
            world.llm.otherwise = _judge
        yield world


async def _judge(asked: Asked) -> web.StreamResponse:
    """Answer as a model would that leaves address and prompt to the rules."""
    moving = "video" in asked.body["messages"][-1]["content"]
    answer = good(
        {
            "wants_media": True,
            "kind": "video" if moving else "image",
            "prompt": "",
            "email": None,
            "confidence": 0.95,
            "reason": "asks for it",
        }
    )
    return await answer(asked)


@asynccontextmanager
async def journey(
    prepared: Prepared, folder: Path, variant: Variant, **settings: str
) -> AsyncIterator["Journey"]:
    """Give a journey over a fresh copy of a home; its server is not started yet."""
    async with surrounded(variant) as world:
        home = await asyncio.to_thread(prepared.copy, folder / "home")
        async with Limner(home, prepared.key, {**world.settings, **settings}) as limner:
            travelling = Journey(limner, world)
            try:
                yield travelling
            finally:
                await travelling.hang_up()


@dataclass
class Journey:
    """The client's side of one story."""

    limner: Limner
    world: World
    listeners: dict[str, "Listener"] = field(default_factory=dict)

    async def play(self) -> None:
        """Set everything up, poll, and wait until everything has settled.

        Raises:
            Died: the server has ended before.
        """
        await self.prepare()
        await self.poll()
        await self.settled()
        if self.world.variant.clears:
            await self.limner.request("DELETE", "/api/mailbox")

    async def prepare(self) -> None:
        """Make settings, secret, provider and source, each unless it is there."""
        limner, provider = self.limner, self.world.provider
        quick: dict[str, Any] = {"status_first_delay_s": 0.3, "status_max_delay_s": 0.5}
        if provider is not None:
            await limner.request("PUT", f"/api/settings/secrets/{PROVIDER}", {"value": SECRET})
            lookup = {} if self.world.variant.provider == "findable" else {"lookup_path": None}
            body = {"name": PROVIDER, "kind": "both", **provider.config(**lookup)}
            if not await limner.listed("/api/providers", name=PROVIDER):
                await limner.request("POST", "/api/providers", body)
            quick |= {"image_provider": PROVIDER, "video_provider": PROVIDER}
        await limner.request("PUT", "/api/settings", quick)
        if not await limner.listed("/api/sources", name=SOURCE):
            source = {
                "name": SOURCE,
                "connector": "http",
                "external_id": "n1",
                "interval_s": 5 if self.world.variant.scheduled else 86_400,
                "options": self.world.feed.options,
            }
            await limner.request("POST", "/api/sources", source)

    async def source(self) -> dict[str, Any]:
        """Give the source."""
        (source,) = await self.limner.listed("/api/sources", name=SOURCE)
        return source

    async def poll(self) -> None:
        """Ask for a poll, unless the source's schedule does that."""
        if not self.world.variant.scheduled:
            source = await self.source()
            await self.limner.request("POST", f"/api/sources/{source['id']}/poll")

    async def settled(self, limit_s: float = SETTLE_LIMIT_S) -> None:
        """Wait until every comment is judged, every task settled, every mail out."""
        last: list[Any] = []

        async def quiet() -> bool:
            try:
                last[:] = await self._unsettled()
            except Answered as error:
                assert error.status == 503, error  # noqa: PT017 - others are defects
                return False
            return not last

        try:
            await until(quiet, limit_s, "quiet", QUIET_LOOK_S)
        except AssertionError as error:
            log = self.limner.stderr()[-3000:]
            raise AssertionError(f"{error}; unsettled: {last}\n{log}") from None

    async def _unsettled(self) -> list[Any]:
        """Give what still moves."""
        limner = self.limner
        comments = await limner.listed("/api/comments")
        tasks = await limner.listed("/api/tasks")
        if self.world.variant.listens:
            self._listen(tasks)
        moving: list[Any] = [task for task in tasks if task["state"] not in SETTLED]
        moving += [one for one in comments if one["state"] == "new"]
        if len(comments) < len(self.world.feed.comments):
            moving.append(f"{len(comments)} comments are here")
        if moving:
            return moving
        for state in ("pending", "sending"):
            moving += await limner.listed("/api/deliveries", state=state)
        queues = await limner.get("/api/ops/queues")
        if queues["outbox_rows"]:
            moving.append(queues)
        return moving

    def _listen(self, tasks: list[dict[str, Any]]) -> None:
        for task in tasks:
            if task["id"] not in self.listeners:
                self.listeners[task["id"]] = Listener(self.limner, task["id"])

    async def heard(self) -> None:
        """Wait until the listeners have heard the end of every task that ends."""
        for listener in self.listeners.values():
            if listener.waits:
                listener.stop()
            await listener.ended()

    async def hang_up(self) -> None:
        """Stop all listeners."""
        for listener in self.listeners.values():
            listener.stop()
            with suppress(asyncio.CancelledError):
                await listener.task


@dataclass(frozen=True)
class Heard:
    """One event of a stream; without a number its ``id`` is 0."""

    id: int
    event: str
    data: str


class Listener:
    """Follows a task's stream as a browser does: comes back with the last number it heard."""

    def __init__(self, limner: Limner, task_id: str) -> None:
        self._limner = limner
        self._path = f"/api/tasks/{task_id}/stream"
        self.task_id = task_id
        self.heard: list[Heard] = []
        self.connections = 0
        self.retries_ms: list[int] = []
        self.task = asyncio.create_task(self._follow())

    @property
    def last(self) -> int:
        """The number of the newest event."""
        return max((one.id for one in self.heard), default=0)

    @property
    def waits(self) -> bool:
        """Whether the task waits for a person, so that its stream stays open."""
        told = [one.data for one in self.heard if one.event in {"status", "snapshot"}]
        return bool(told) and RESTS.search(told[-1]) is not None

    def stop(self) -> None:
        """Hang up."""
        self.task.cancel()

    async def ended(self, limit_s: float = 30.0) -> None:
        """Wait for the end of the stream."""
        await until(self.task.done, limit_s, f"the end of {self._path}")
        if not self.task.cancelled():
            await self.task

    async def _follow(self) -> None:
        while not any(one.event == "done" for one in self.heard):
            try:
                async with self._limner.streaming(self._path, str(self.last)) as answer:
                    if answer.status == 204:
                        return
                    if answer.status == 200:
                        self.connections += 1
                        await self._read(answer.content)
            except (aiohttp.ClientError, OSError):
                pass
            await asyncio.sleep(0.05)

    async def _read(self, content: aiohttp.StreamReader) -> None:
        event: dict[str, str] = {}
        async for raw in content:
            line = raw.decode().rstrip("\n")
            if line:
                name, _, value = line.partition(":")
                event[name] = value.removeprefix(" ")
                continue
            if "retry" in event:
                self.retries_ms.append(int(event["retry"]))
            if "data" in event:
                number = int(event.get("id", 0))
                self.heard.append(Heard(number, event.get("event", "message"), event["data"]))
            event = {}

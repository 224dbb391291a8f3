"""A feed of comments on loopback: pages, cursors, replies, and everything that goes wrong there.

``async with Feed(some(12), page_size=5) as feed`` serves ``{feed.url}/comments?cursor=`` and
``{feed.url}/sub_comments?root_comment_id=&cursor=`` in the form of Xiaohongshu's answers, which
``feed.options`` and ``feed.note`` describe for the two connectors that can read them. Comments may
be changed at any time; failures are set per cursor, for so many requests or for good.
"""

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from types import TracebackType
from typing import Any, Literal, Self

from aiohttp import web

REPLIES_SHOWN = 2


@dataclass
class Said:
    """A comment, or a reply to one."""

    id: Any
    text: Any = "hello"
    author: Any = "Ann"
    replies: list["Said"] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """Give it as JSON, without replies."""
        return {"id": self.id, "content": self.text, "user_info": {"nickname": self.author}}


def some(count: int, first: int = 1) -> list[Said]:
    """Give so many different comments: c1, c2, …"""
    return [Said(f"c{n}", f"comment {n}") for n in range(first, first + count)]


@dataclass(frozen=True)
class Failure:
    """How a request fails: a status, a cut connection, a body that is something else."""

    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"no"
    cut: bool = False


@dataclass(frozen=True)
class Asked:
    """One request as it came in."""

    what: str
    query: dict[str, str]
    headers: dict[str, str]

    @property
    def cursor(self) -> str:
        return self.query.get("cursor", "")


class Feed:
    """The server.

    ``cursors`` are ``offset`` (how many comments lie before: pages move when one is added in
    front) or ``after`` (the last id that was read). ``said_more`` overrides what the feed says
    about further pages. With ``shuffled`` the order within a page changes at every request.
    While ``held`` is set, requests wait; ``before`` is called with each request.
    """

    def __init__(
        self,
        comments: Iterable[Said] = (),
        *,
        page_size: int = 5,
        cursors: Literal["offset", "after"] = "offset",
        replies_per_page: int = 30,
    ) -> None:
        self.comments = list(comments)
        self.page_size = page_size
        self.cursors = cursors
        self.replies_per_page = replies_per_page
        self.said_more: Any = None
        self.shuffled: random.Random | None = None
        self.before: Callable[[Asked], None] | None = None
        self.asked: list[Asked] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.url = ""
        self.host = ""
        self._failures: dict[str, list[Failure]] = defaultdict(list)
        self._for_good: dict[str, Failure] = {}
        self._heard = asyncio.Event()
        self._going = asyncio.Event()
        self._going.set()
        self._runner: web.AppRunner | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Give the options of the ``http`` connector."""
        return {
            "url": f"{self.url}/comments?note={{external_id}}&cursor={{cursor}}",
            "items": "$.data.comments[*]",
            "id": "$.id",
            "text": "$.content",
            "author": "$.user_info.nickname",
            "next_cursor": "$.data.cursor",
            "has_more": "$.data.has_more",
        }

    @property
    def note(self) -> dict[str, Any]:
        """Give the options of the ``xiaohongshu`` connector."""
        return {"gateway": self.url, "note_id": "n1"}

    @property
    def cursors_asked(self) -> list[str]:
        """Give the cursors of all requests for comments, in order."""
        return [each.cursor for each in self.asked if each.what == "comments"]

    def fail(self, cursor: str, failure: Failure, times: int | None = 1) -> None:
        """Fail requests for the page at ``cursor``, so many or (None) all until ``mend``."""
        if times is None:
            self._for_good[cursor] = failure
        else:
            self._failures[cursor] += repeat(failure, times)

    def mend(self) -> None:
        """Fail no more."""
        self._failures.clear()
        self._for_good.clear()

    def hold(self) -> None:
        """Let requests wait."""
        self._going.clear()

    def go(self) -> None:
        """Answer those that wait and those to come."""
        self._going.set()

    async def until_asked(self, limit_s: float = 5.0) -> None:
        """Wait for the next request; it is then in ``asked``."""
        self._heard.clear()
        async with asyncio.timeout(limit_s):
            await self._heard.wait()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/comments", self._comments)
        app.router.add_get("/sub_comments", self._sub_comments)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.01, handler_cancellation=True
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.host = f"{host}:{port}"
        self.url = f"http://{self.host}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _comments(self, request: web.Request) -> web.StreamResponse:
        asked = await self._hear("comments", request)
        if failed := self._failed(asked, request):
            return failed
        start = self._start(asked.cursor)
        if start is None:
            return web.json_response({"error": "no such cursor"}, status=400)
        page = self.comments[start : start + self.page_size]
        end = start + len(page)
        onward = str(end)
        if self.cursors == "after":
            onward = str(page[-1].id) if page else asked.cursor
        more = end < len(self.comments) if self.said_more is None else self.said_more
        if self.shuffled is not None:
            page = self.shuffled.sample(page, len(page))
        return _page([self._with_replies(each) for each in page], onward, more)

    async def _sub_comments(self, request: web.Request) -> web.StreamResponse:
        asked = await self._hear("sub_comments", request)
        if failed := self._failed(asked, request):
            return failed
        root = asked.query["root_comment_id"]
        replies = next(each.replies for each in self.comments if str(each.id) == root)
        start = int(asked.cursor.removeprefix("r"))
        end = start + min(self.replies_per_page, int(asked.query["num"]))
        rest = [each.plain() for each in replies[start:end]]
        return _page(rest, f"r{end}", end < len(replies))

    async def _hear(self, what: str, request: web.Request) -> Asked:
        asked = Asked(what, dict(request.query), dict(request.headers))
        self.asked.append(asked)
        self._heard.set()
        if self.before is not None:
            self.before(asked)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self._going.wait()
        finally:
            self.in_flight -= 1
        return asked

    def _failed(self, asked: Asked, request: web.Request) -> web.StreamResponse | None:
        failures = self._failures[asked.cursor]
        failure = failures.pop(0) if failures else self._for_good.get(asked.cursor)
        if failure is None:
            return None
        if failure.cut and request.transport is not None:
            request.transport.close()
        return web.Response(status=failure.status, headers=failure.headers, body=failure.body)

    def _start(self, cursor: str) -> int | None:
        if cursor == "":
            return 0
        if self.cursors == "offset":
            return int(cursor) if cursor.isdigit() else None
        ids = [str(each.id) for each in self.comments]
        return ids.index(cursor) + 1 if cursor in ids else None

    def _with_replies(self, said: Said) -> dict[str, Any]:
        shown = min(REPLIES_SHOWN, len(said.replies))
        return said.plain() | {
            "sub_comments": [each.plain() for each in said.replies[:shown]],
            "sub_comment_has_more": shown < len(said.replies),
            "sub_comment_cursor": f"r{shown}",
        }


def _page(comments: list[dict[str, Any]], cursor: str, more: Any) -> web.StreamResponse:
    data = {"comments": comments, "cursor": cursor, "has_more": more}
    return web.Response(
        body=json.dumps({"code": 0, "data": data}).encode(), content_type="application/json"
    )

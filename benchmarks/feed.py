"""A feed on loopback, in the parent's process: pages of wishes for pictures, none of them alike.

``/{name}/{total}?cursor=`` serves ``total`` comments of the feed ``name``, always the same ones.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

PAGE_COMMENTS = 100
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "pink", "black", "cyan", "brown")
SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "ring", "cross")


def comment(name: str, n: int) -> dict[str, str]:
    """Give comment ``n`` of a feed; each asks for a picture for an address of its own."""
    colour, shape = COLOURS[n % len(COLOURS)], SHAPES[n // len(COLOURS) % len(SHAPES)]
    return {
        "id": f"{name}-{n}",
        "author": f"Reader {n}",
        "text": f"Please draw a {colour} {shape} on a white background and send it to "
        f"reader{n}.{name}@example.org, thank you!",
    }


def options(url: str, name: str, total: int) -> dict[str, Any]:
    """Give the options of the ``http`` connector for a feed at ``url``."""
    return {
        "url": f"{url}/{name}/{total}?cursor={{cursor}}",
        "items": "$.comments[*]",
        "id": "$.id",
        "text": "$.text",
        "author": "$.author",
        "next_cursor": "$.cursor",
        "has_more": "$.more",
    }


async def _page(request: web.Request) -> web.Response:
    name, total = request.match_info["name"], int(request.match_info["total"])
    start = int(request.query.get("cursor") or 0)
    end = min(total, start + PAGE_COMMENTS)
    comments = [comment(name, n) for n in range(start, end)]
    return web.json_response({"comments": comments, "cursor": str(end), "more": end < total})


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    """Serve while the block runs; gives the URL."""
    application = web.Application()
    application.add_routes([web.get("/{name}/{total}", _page)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()

"""``Prefer: wait=N``: the answer comes when the work has ended, or after N seconds (RFC 7240)."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from pydantic import BaseModel

from limner.http.answers import Answer
from limner.http.call import Call
from limner.http.sse import HUB
from limner.storage.sql.aggregate import Aggregate

WAIT_MAX_S = 60
PREFERENCE = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?\s*(?=$|[,;])", re.IGNORECASE)

A = TypeVar("A", bound=Aggregate)


def wait_s(call: Call) -> int:
    """Give how long the client is ready to wait, at most a minute."""
    match = PREFERENCE.search(",".join(call.request.headers.getall("Prefer", [])))
    return min(WAIT_MAX_S, int(match[1])) if match else 0


async def settled(
    call: Call, row: A, read: Callable[[], Awaitable[A]], is_settled: Callable[[A], bool]
) -> A:
    """Give the row when it has settled, or as it is when the client's patience or ours ends."""
    patience_s = wait_s(call)
    if not patience_s or is_settled(row):
        return row
    hub = call.request.app[HUB]
    async with hub.awaited(row.id) as news:
        try:
            async with asyncio.timeout(patience_s):
                row = await read()
                while not is_settled(row) and not hub.is_closing:
                    await news.wait()
                    news.clear()
                    row = await read()
        except TimeoutError:
            return row
    return row


async def going_on(
    call: Call,
    read: Callable[[], Awaitable[A]],
    is_settled: Callable[[A], bool],
    whole: Callable[[Call, A], Awaitable[BaseModel]],
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Answer with what goes on, or when it has settled, if the client waits for that."""
    row = await settled(call, await read(), read, is_settled)
    return Answer(await whole(call, row), headers={**(headers or {}), **applied(call)})


def applied(call: Call) -> dict[str, str]:
    """Give the header that says which wait was granted."""
    seconds = wait_s(call)
    return {"Preference-Applied": f"wait={seconds}"} if seconds else {}

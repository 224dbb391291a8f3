"""The export of an account: what is kept of it, as one JSON file.

Rows are read and sent piece by piece, so that an account of any size needs little memory.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from aiohttp import hdrs, web

from limner.http.call import Call
from limner.http.limits import spend
from limner.http.routes import Result
from limner.storage.sql.accounts import User, active_user
from limner.storage.sql.export import SECTIONS, plain
from limner.storage.sql.recovery_codes import codes_left

EXPORTS_BURST = 3
EXPORTS_PER_S = 1 / 600


async def export(call: Call) -> Result:
    """Send the caller's account as a file."""
    user = await active_user(call.caller.id)
    await spend(call.request, f"export:{user.id}", EXPORTS_PER_S, EXPORTS_BURST, "too many exports")
    work = call.work()
    work.audit("user.exported", subject=user.id)
    await call.commit(work)
    response = web.StreamResponse(
        headers={
            hdrs.CONTENT_TYPE: "application/json",
            hdrs.CONTENT_DISPOSITION: 'attachment; filename="limner-account.json"',
            hdrs.CACHE_CONTROL: "no-store",
        }
    )
    await response.prepare(call.request)
    async for piece in pieces(user, call.now):
        await response.write(piece)
    await response.write_eof()
    return response


async def pieces(user: User, now: datetime) -> AsyncIterator[bytes]:
    """Give the export of an account as pieces of one JSON object.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    account = {**plain(user), "recovery_codes_left": await codes_left(user.id)}
    yield b'{"exported_at": %b, "account": %b' % (_json(now), _json(account))
    for section in SECTIONS:
        yield b', "%b": [' % section.name.encode()
        separator = b"\n"
        async for batch in section.batches(user):
            yield separator + await asyncio.to_thread(_rows, batch)
            separator = b",\n"
        yield b"]"
    yield b"}\n"


def _rows(batch: Sequence[Any]) -> bytes:
    return b",\n".join(_json(plain(row)) for row in batch)


def _json(value: datetime | Mapping[str, Any]) -> bytes:
    return json.dumps(value, default=_moment).encode()


def _moment(value: datetime) -> str:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")

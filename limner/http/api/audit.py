"""The audit log: who did what, page by page or whole."""

import json
from datetime import datetime
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict

from limner.http.body import Instant
from limner.http.call import Call
from limner.http.listing import Listing, Page, page_of, rows_of
from limner.http.routes import Result, Route
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.reading import batches


class LineOut(BaseModel):
    """A line; ``seq`` and ``hash`` are null and empty until it is sealed into the chain."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    at: datetime
    event: str
    actor: str
    subject: str
    request_id: str
    trace_id: str
    data: dict[str, Any]
    seq: int | None
    hash: str


class AuditFilter(Listing):
    """Filters of the list; ``since`` and ``until`` are times with a zone."""

    event: str | None = None
    actor: str | None = None
    subject: str | None = None
    request_id: str | None = None
    trace_id: str | None = None
    since: Instant | None = None
    until: Instant | None = None

    def filters(self) -> dict[str, Any]:
        """Give the columns to filter by."""
        names = {"since": "at__gte", "until": "at__lt"}
        return {names.get(name, name): value for name, value in super().filters().items()}


async def listed(call: Call, query: AuditFilter) -> Result:
    """List."""
    rows = await rows_of(AuditLine.filter(**query.filters()), query, "at")
    return page_of(call, query, rows, LineOut.model_validate, "at")


async def export(call: Call, query: AuditFilter) -> Result:
    """Stream all lines, oldest first, as JSON Lines."""
    response = web.StreamResponse(
        headers={
            "Content-Type": "application/jsonl",
            "Content-Disposition": 'attachment; filename="audit.jsonl"',
        }
    )
    await response.prepare(call.request)
    async for batch in batches(AuditLine.filter(**query.filters()), "at"):
        text = "".join(json.dumps(_plain(line), ensure_ascii=False) + "\n" for line in batch)
        await response.write(text.encode(errors="replace"))
    await response.write_eof()
    return response


def _plain(line: AuditLine) -> dict[str, Any]:
    return LineOut.model_validate(line).model_dump(mode="json")


ROUTES = [
    Route(
        "GET",
        "/api/audit",
        listed,
        "List the audit log",
        "audit:read",
        answer=Page[LineOut],
        query=AuditFilter,
    ),
    Route(
        "GET",
        "/api/audit/export",
        export,
        "Export the audit log as JSON Lines, oldest first",
        "audit:read",
        query=AuditFilter,
        media="application/jsonl",
    ),
]

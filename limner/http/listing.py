"""Lists: newest first, page by page, with an opaque cursor that survives new arrivals."""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, Field

from limner.core.errors import Invalid
from limner.http.body import Form
from limner.http.call import Call
from limner.http.routes import Answer
from limner.storage.sql.reading import newest

LIMIT_DEFAULT = 50
LIMIT_MAX = 200
CURSOR_MAX_CHARACTERS = 200

V = TypeVar("V", bound=BaseModel)
Cursor = Annotated[str, Field(max_length=CURSOR_MAX_CHARACTERS)]


class Listing(Form):
    """What every list can be asked; ``columns`` maps filters to columns of other names."""

    columns: ClassVar[Mapping[str, str]] = {}

    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX)] = LIMIT_DEFAULT
    cursor: Cursor | None = None

    def filters(self) -> dict[str, Any]:
        """Give the columns to filter by that were asked for."""
        asked = self.model_dump(exclude={"limit", "cursor"}, exclude_none=True)
        return {self.columns.get(name, name): value for name, value in asked.items()}


class Page(BaseModel, Generic[V]):
    """One page of a list; ``next_cursor`` is null on the last."""

    data: list[V]
    next_cursor: str | None = None


def encode_cursor(at: datetime, ident: str) -> str:
    """Give the cursor that goes on after a row."""
    return base64.urlsafe_b64encode(f"{at.isoformat()} {ident}".encode()).decode().rstrip("=")


def decode_cursor(text: str) -> tuple[datetime, str]:
    """Give the row that a cursor goes on after.

    Raises:
        Invalid: it is none of ours.
    """
    try:
        plain = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
        at, ident = plain.split(" ")
        return _in_utc(datetime.fromisoformat(at)), ident
    except (binascii.Error, ValueError, OverflowError):
        raise Invalid(
            "the cursor is none", faults=[("/cursor", "is not a cursor of ours")]
        ) from None


def _in_utc(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise ValueError("no zone")
    return at.astimezone(UTC)


async def rows_of(rows: Any, query: Listing, at: str = "created_at") -> list[Any]:
    """Read one row more than a page, so that one knows whether there is another page.

    ``rows`` is a query of the storage; rows come newest first by the column ``at``.
    """
    before = decode_cursor(query.cursor) if query.cursor is not None else None
    return await newest(rows, query.limit + 1, before, at)


def page_of(
    call: Call,
    query: Listing,
    rows: Sequence[Any],
    show: Callable[[Any], V],
    at: str = "created_at",
) -> Answer:
    """Give the page for what ``rows_of`` read, with its Link header (RFC 8288)."""
    shown = rows[: query.limit]
    cursor = None
    headers = {}
    if len(rows) > query.limit:
        last = shown[-1]
        cursor = encode_cursor(getattr(last, at), str(last.pk))
        url = call.url(str(call.request.rel_url.update_query(cursor=cursor)))
        headers["Link"] = f'<{url}>; rel="next"'
    return Answer(Page[Any](data=[show(row) for row in shown], next_cursor=cursor), headers=headers)

"""Notifications: what the caller shall know, and that it was seen."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from limner.http.body import Form
from limner.http.call import Call
from limner.http.listing import LIMIT_MAX, Listing, Page, page_of, rows_of
from limner.http.routes import Answer, Result, Route
from limner.storage.sql.aggregate import ID_LENGTH
from limner.storage.sql.notifications import Notification, mark_read, unread_count


class NotificationOut(BaseModel):
    """One thing to know; ``kind`` says which, ``subject`` is the id of what it is about."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    kind: Annotated[str, Field(examples=["key.created"])]
    subject: str
    data: dict[str, Any]
    created_at: datetime
    read_at: datetime | None


class NotificationPage(Page[NotificationOut]):
    """One page of notifications; ``unread`` counts all that are unread, on every page."""

    unread: int


class NotificationQuery(Listing):
    """Filters of the list; ``unread`` true shows the unread ones alone, false the read ones."""

    unread: bool | None = None
    kind: str | None = None

    def filters(self) -> dict[str, Any]:
        """Give the columns to filter by."""
        asked = super().filters()
        if "unread" in asked:
            asked["read_at__isnull"] = asked.pop("unread")
        return asked


class ReadIn(Form):
    """The notifications that were seen."""

    ids: Annotated[
        list[Annotated[str, Field(max_length=ID_LENGTH)]], Field(min_length=1, max_length=LIMIT_MAX)
    ]


class Unread(BaseModel):
    """How many are unread now."""

    unread: int


async def listed(call: Call, query: NotificationQuery) -> Result:
    """List the caller's own."""
    rows = Notification.filter(user_id=call.caller.id, **query.filters())
    answer = page_of(call, query, await rows_of(rows, query), NotificationOut.model_validate)
    page: Any = answer.content
    content = NotificationPage(
        data=page.data, next_cursor=page.next_cursor, unread=await unread_count(call.caller.id)
    )
    return Answer(content, headers=answer.headers)


async def read(call: Call, body: ReadIn) -> Result:
    """Mark some as read; what is not the caller's, or not there, is passed over."""
    return await _mark(call, body.ids)


async def read_all(call: Call) -> Result:
    """Mark all as read."""
    return await _mark(call, None)


async def _mark(call: Call, idents: list[str] | None) -> Unread:
    work = call.work()
    work.step(mark_read(call.caller.id, idents, call.now))
    await call.commit(work)
    return Unread(unread=await unread_count(call.caller.id))


ROUTES = [
    Route(
        "GET",
        "/api/notifications",
        listed,
        "List my notifications",
        "account:read",
        answer=NotificationPage,
        query=NotificationQuery,
    ),
    Route(
        "POST",
        "/api/notifications/read",
        read,
        "Mark some of my notifications as read",
        "account:write",
        answer=Unread,
        body=ReadIn,
    ),
    Route(
        "POST",
        "/api/notifications/read-all",
        read_all,
        "Mark all my notifications as read",
        "account:write",
        answer=Unread,
    ),
]

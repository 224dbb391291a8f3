"""Comments: what came in, and what became of it."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from limner.http.call import Call
from limner.http.etags import tagged
from limner.http.listing import Listing, Page, page_of, rows_of
from limner.http.routes import Result, Route
from limner.storage.sql.comments import Comment


class CommentOut(BaseModel):
    """A comment; ``reason`` says why it became no task."""

    id: str
    source_id: str
    external_id: str
    author: str
    text: str
    state: str
    task_id: str | None
    reason: str
    received_at: datetime


class CommentQuery(Listing):
    """Filters of the list."""

    state: Literal["new", "ignored", "no_address", "task"] | None = None
    source_id: str | None = None
    external_id: str | None = None
    author: str | None = None
    task_id: str | None = None


def shown(comment: Comment) -> CommentOut:
    """Give a comment as clients see it."""
    return CommentOut(
        id=comment.id,
        source_id=comment.source_id,
        external_id=comment.external_id,
        author=comment.author,
        text=comment.text,
        state=comment.state,
        task_id=comment.task_id,
        reason=comment.reason,
        received_at=comment.created_at,
    )


async def listed(call: Call, query: CommentQuery) -> Result:
    """List."""
    rows = Comment.filter(**query.filters())
    if not call.caller.is_admin:
        rows = rows.filter(user_id=call.caller.id)
    return page_of(call, query, await rows_of(rows, query), shown)


async def show(call: Call) -> Result:
    """Show one."""
    comment = call.visible(await Comment.found(call.param("id")), "comment")
    return tagged(call, shown(comment), comment.version)


ROUTES = [
    Route(
        "GET",
        "/api/comments",
        listed,
        "List the comments",
        "sources:read",
        answer=Page[CommentOut],
        query=CommentQuery,
    ),
    Route(
        "GET",
        "/api/comments/{id}",
        show,
        "Show a comment",
        "sources:read",
        answer=CommentOut,
        is_tagged=True,
    ),
]

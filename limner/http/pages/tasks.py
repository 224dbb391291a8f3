"""The tasks: a table that follows what happens, and one task with all that can be done about it."""

from typing import get_args

from limner.core.errors import Invalid
from limner.http.answers import content_of
from limner.http.api.tasks import TaskQuery, TaskState, TaskWhole, is_settled, own, whole
from limner.http.api.tasks import listed as listed_tasks
from limner.http.call import Call
from limner.http.listing import Cursor
from limner.http.pages.declared import PageQuery, shown_at
from limner.http.pages.rendering import page
from limner.http.results import link_to, link_ttl_s
from limner.http.routes import Result
from limner.storage.sql.tasks import Task

STATES = get_args(TaskState)
RETRIABLE = ("failed", "unknown")


class TableQuery(PageQuery):
    """The filter of the table, and the place in it."""

    state: str = ""
    cursor: Cursor | None = None


async def listed(call: Call, query: TableQuery) -> Result:
    """Show the table."""
    if query.state and query.state not in STATES:
        raise Invalid(f"{query.state} is no state of a task")
    wanted = TaskQuery.model_validate({"state": query.state or None, "cursor": query.cursor})
    content = content_of(await listed_tasks(call, wanted))
    return await page(call, "tasks.html", tasks=content, states=STATES, state=query.state)


async def show(call: Call) -> Result:
    """Show one."""
    task = await own(call)
    shown = await whole(call, task)
    return await page(
        call,
        "task.html",
        task=shown,
        poster_url=await _poster(call, task),
        ttl_s=await link_ttl_s(call),
        **_actions(task, shown, may_write="tasks:write" in call.caller.scopes),
    )


async def _poster(call: Call, task: Task) -> str | None:
    return await link_to(call, task.poster_key) if task.poster_key else None


def _actions(task: Task, shown: TaskWhole, *, may_write: bool) -> dict[str, bool]:
    return {
        "can_retry": may_write and task.state in RETRIABLE,
        "can_cancel": may_write and not Task.ended(task.state),
        "can_review": may_write and task.state == "needs_review",
        "is_moving": not is_settled(task),
        "is_video": shown.kind == "video",
    }


ROUTES = [
    shown_at("/tasks", listed, "Show the tasks", "tasks:read", query=TableQuery),
    shown_at("/tasks/{id}", show, "Show a task", "tasks:read"),
]

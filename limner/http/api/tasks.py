"""Tasks: wishes on their way, what happened to them, and what a person can do about it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from limner.actors.intent.messages import Read
from limner.actors.intent.rules import find_addresses
from limner.actors.submitter.messages import Submit
from limner.core.errors import Conflict, Invalid
from limner.core.unit import UnitOfWork
from limner.http.api.comments import CommentOut
from limner.http.api.comments import shown as comment_shown
from limner.http.body import Form
from limner.http.call import Call
from limner.http.etags import tagged
from limner.http.listing import Listing, Page, page_of, rows_of
from limner.http.results import link_to_result, tag_of
from limner.http.routes import Answer, Result, Route
from limner.http.waiting import applied, going_on, settled
from limner.storage.sql.comments import Comment
from limner.storage.sql.jobs import QUEUED, RUNNING, Job, queue_position, stop_job
from limner.storage.sql.tasks import ADDRESS_LENGTH, PENDING, PROMPT_LENGTH, Task
from limner.storage.sql.timeline import lines_after

TaskState = Literal[
    "pending",
    "needs_review",
    "extracted",
    "submitted",
    "running",
    "succeeded",
    "unknown",
    "emailed",
    "failed",
    "cancelled",
    "expired",
]
CANCEL_TRIES = 3


class LineOut(BaseModel):
    """Something that happened to a task."""

    n: int
    at: datetime
    type: str
    state: str
    detail: str
    data: dict[str, Any]


class TaskOut(BaseModel):
    """A task; ``result_url`` opens without a login until it expires and is new at each read."""

    id: str
    state: TaskState
    comment: CommentOut | None
    source_id: str
    email: str
    prompt: str
    kind: str
    language: str
    confidence: float
    provider: str
    provider_job_id: str
    result_url: str | None
    error: str
    cost: int
    round: int
    trace_id: str
    created_at: datetime
    updated_at: datetime
    status_url: str
    stream_url: str
    cancel_url: str


class TaskWhole(TaskOut):
    """A task with everything that happened to it, and its place in the generator's queue."""

    queue_position: int | None
    timeline: list[LineOut]


class TaskQuery(Listing):
    """Filters of the list."""

    columns: ClassVar[Mapping[str, str]] = {"kind": "media"}

    state: TaskState | None = None
    email: str | None = None
    kind: Literal["image", "video"] | None = None
    provider: str | None = None
    source_id: str | None = None
    comment_id: str | None = None
    provider_job_id: str | None = None
    trace_id: str | None = None


class Approval(Form):
    """What the person who looked at the wish makes of it; null keeps what was found."""

    prompt: Annotated[str, Field(min_length=1, max_length=PROMPT_LENGTH)] | None = None
    email: Annotated[str, Field(max_length=ADDRESS_LENGTH)] | None = None


async def fields_of(call: Call, task: Task, comment: Comment | None) -> dict[str, Any]:
    """Give what every form of a task shows."""
    same = {name: getattr(task, name) for name in TaskOut.model_fields if hasattr(task, name)}
    return same | {
        "comment": comment_shown(comment) if comment else None,
        "kind": task.media,
        "result_url": await link_to_result(call, task),
        "status_url": call.url(f"/api/tasks/{task.id}"),
        "stream_url": call.url(f"/api/tasks/{task.id}/stream"),
        "cancel_url": call.url(f"/api/tasks/{task.id}/cancel"),
    }


async def whole(call: Call, task: Task) -> TaskWhole:
    """Give one task with its timeline."""
    lines = await lines_after(task.id, 0)
    return TaskWhole(
        **await fields_of(call, task, await Comment.found(task.comment_id)),
        queue_position=await place_in_queue(call, task),
        timeline=[LineOut.model_validate(line, from_attributes=True) for line in lines],
    )


async def place_in_queue(call: Call, task: Task) -> int | None:
    """Give the place of the task's job in the order of claims, while it waits."""
    job = await Job.filter(task_id=task.id, state=QUEUED).order_by("-created_at").first()
    return await queue_position(call.front.database, job) if job else None


async def own(call: Call) -> Task:
    """Give the task in the path.

    Raises:
        NotFound: there is none, or it is somebody else's.
    """
    return call.visible(await Task.found(call.param("id")), "task")


async def listed(call: Call, query: TaskQuery) -> Result:
    """List, each with its comment."""
    rows = Task.filter(**query.filters())
    if not call.caller.is_admin:
        rows = rows.filter(user_id=call.caller.id)
    tasks = await rows_of(rows, query)
    comments = {
        comment.id: comment
        for comment in await Comment.filter(id__in=[task.comment_id for task in tasks])
    }
    outs = {
        task.id: TaskOut(**await fields_of(call, task, comments.get(task.comment_id)))
        for task in tasks[: query.limit]
    }
    return page_of(call, query, tasks, lambda task: outs[task.id])


def is_settled(task: Task) -> bool:
    """Whether nothing more happens by itself."""
    return Task.ended(task.state) or task.state == "needs_review"


async def show(call: Call) -> Result:
    """Show one; with ``Prefer: wait=N`` when it has ended."""
    task = await settled(call, await own(call), lambda: own(call), is_settled)
    content = await whole(call, task)
    version = f"{await tag_of(call, task)}-{content.queue_position or 0}"
    return tagged(call, content, version, headers=applied(call))


async def _going_on(call: Call) -> Answer:
    return await going_on(call, lambda: own(call), is_settled, whole)


async def retry(call: Call) -> Result:
    """Send a failed task, or one whose outcome nobody knows, back to the start."""
    task = await own(call)
    if task.state not in {"failed", "unknown"}:
        raise Conflict(f"a task that is {task.state} cannot be retried")
    work = call.work()
    work.follow(task.trace_id)
    if task.state == "unknown":
        # A person decides that the outcome nobody knows counts as a failure.
        work.move(task, expected="unknown", to="failed", detail="given up by a person")
    work.move(
        task,
        expected="failed",
        to=PENDING,
        detail="retried by a person",
        round=task.round + 1,
        provider="",
        provider_id="",
        client_id="",
        provider_job_id="",
        result_key="",
        result_type="",
        poster_key="",
        error="",
    )
    work.send(Read(comment_id=task.comment_id))
    work.audit("task.retried", subject=task.id, data={"from": task.state, "round": task.round + 1})
    await call.commit(work)
    return await _going_on(call)


async def cancel(call: Call) -> Result:
    """Stop a task and its job; a task that was cancelled before stays so."""
    for _ in range(CANCEL_TRIES):
        task = await own(call)
        if task.state == "cancelled":
            break
        if Task.ended(task.state):
            raise Conflict(f"a task that is {task.state} cannot be cancelled")
        work = call.work()
        work.follow(task.trace_id)
        work.move(task, expected=task.state, to="cancelled", detail="cancelled by a person")
        await _cancel_jobs(task, work)
        work.audit("task.cancelled", subject=task.id, data={"from": task.state})
        try:
            await call.commit(work)
        except Conflict:
            # It went on in between: look again.
            continue
        break
    else:
        raise Conflict("the task moves on too fast; try again", code="stale")
    return await whole(call, await own(call))


async def _cancel_jobs(task: Task, work: UnitOfWork) -> None:
    for job in await Job.filter(task_id=task.id, state__in=[QUEUED, RUNNING]):
        stop_job(work, job, "the task was cancelled")


async def approve(call: Call, body: Approval) -> Result:
    """Let a wish through, as it was found or as the person corrects it."""
    task = await own(call)
    prompt = (body.prompt if body.prompt is not None else task.prompt).strip()
    email = (body.email if body.email is not None else task.email).strip()
    _check_wish(prompt, email)
    work = call.work()
    work.follow(task.trace_id)
    if task.state != "needs_review":
        raise Conflict(f"a task that is {task.state} waits for no review")
    work.move(
        task,
        expected="needs_review",
        to="extracted",
        detail="approved by a person",
        prompt=prompt,
        email=email,
    )
    work.send(Submit(task_id=task.id))
    work.audit("task.approved", subject=task.id)
    await call.commit(work)
    return await _going_on(call)


def _check_wish(prompt: str, email: str) -> None:
    """Return if there is something to make and one address to send it to.

    Raises:
        Invalid: naming what is missing.
    """
    faults = [] if prompt else [("/prompt", "there is nothing to make")]
    if not email:
        faults.append(("/email", "there is no address to send it to"))
    elif [found.lower() for found in find_addresses(email)] != [email.lower()]:
        faults.append(("/email", "is not one mail address"))
    if faults:
        raise Invalid("the wish is not whole", faults=faults)


async def reject(call: Call) -> Result:
    """Drop a wish."""
    task = await own(call)
    if task.state != "needs_review":
        raise Conflict(f"a task that is {task.state} waits for no review")
    work = call.work()
    work.follow(task.trace_id)
    work.move(task, expected="needs_review", to="cancelled", detail="rejected by a person")
    work.audit("task.rejected", subject=task.id)
    await call.commit(work)
    return await whole(call, await own(call))


ROUTES = [
    Route(
        "GET",
        "/api/tasks",
        listed,
        "List the tasks",
        "tasks:read",
        answer=Page[TaskOut],
        query=TaskQuery,
    ),
    Route(
        "GET",
        "/api/tasks/{id}",
        show,
        "Show a task",
        "tasks:read",
        answer=TaskWhole,
        is_tagged=True,
        waits=True,
    ),
    Route(
        "POST",
        "/api/tasks/{id}/retry",
        retry,
        "Begin a failed task again",
        "tasks:write",
        answer=TaskWhole,
        status=202,
        waits=True,
    ),
    Route(
        "POST",
        "/api/tasks/{id}/cancel",
        cancel,
        "Stop a task",
        "tasks:write",
        answer=TaskWhole,
    ),
    Route(
        "POST",
        "/api/tasks/{id}/approve",
        approve,
        "Let a reviewed wish through, corrected if need be",
        "tasks:write",
        answer=TaskWhole,
        status=202,
        body=Approval,
        has_optional_body=True,
        waits=True,
    ),
    Route(
        "POST",
        "/api/tasks/{id}/reject",
        reject,
        "Drop a reviewed wish",
        "tasks:write",
        answer=TaskWhole,
    ),
]

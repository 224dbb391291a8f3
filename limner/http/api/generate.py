"""Generation: what is asked of the generator, how far it is, and what came out."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from limner.actors.generator.messages import Ring
from limner.actors.generator.rules import (
    BUILTIN,
    GUIDANCE,
    SIDE_PX,
    STEPS,
    Count,
    Guidance,
    NegativePrompt,
    Prompt,
    Seed,
    Side,
    Steps,
    Wanted,
    model_name,
)
from limner.actors.status.messages import Check
from limner.core.errors import Conflict, Invalid
from limner.core.unit import UnitOfWork
from limner.http.answers import Answer, Result
from limner.http.body import Form
from limner.http.call import Call
from limner.http.etags import tagged
from limner.http.listing import Listing, Page, page_of, rows_of
from limner.http.results import link_to, suffix_of, version_tag
from limner.http.routes import Route
from limner.http.waiting import applied, going_on, settled, wait_s
from limner.storage.sql.jobs import (
    CANCELLED,
    QUEUED,
    RUNNING,
    Job,
    create_job,
    queue_position,
    stop_job,
)
from limner.storage.sql.tasks import Task

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
JobKind = Literal["image", "video"]
MODEL_LENGTH = 255
CANCEL_TRIES = 3


class ImageIn(Form):
    """A picture that is wanted; what is left out is as the model's defaults say."""

    prompt: Prompt
    negative_prompt: NegativePrompt = ""
    width: Side = SIDE_PX
    height: Side = SIDE_PX
    steps: Steps = STEPS
    guidance: Guidance = GUIDANCE
    seed: Seed | None = None
    count: Count = 1
    model: Annotated[str, Field(max_length=MODEL_LENGTH, examples=[BUILTIN])] | None = None


class OutputOut(BaseModel):
    """A finished file; its links open without a login until they expire, and are always new."""

    url: str
    content_type: str
    width: int
    height: int
    blurhash: str
    size_bytes: int
    poster_url: str | None


class JobOut(BaseModel):
    """A job; ``cost`` is in credits, ``seconds`` is how long the generator was at it."""

    id: str
    kind: JobKind
    state: JobState
    progress: float
    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance: float
    seed: int
    count: int
    model: str
    cost: int
    outputs: list[OutputOut]
    warnings: list[str]
    error: str
    task_id: str | None
    cancel_requested: bool
    worker_id: str
    device: str
    seconds: float
    trace_id: str
    created_at: datetime
    updated_at: datetime
    status_url: str
    stream_url: str
    cancel_url: str


class JobWhole(JobOut):
    """A job with its place in the queue, from 1, while it waits."""

    queue_position: int | None


class JobQuery(Listing):
    """Filters of the list."""

    columns: ClassVar[Mapping[str, str]] = {"kind": "media"}

    state: JobState | None = None
    kind: JobKind | None = None
    task_id: str | None = None


class ModelOut(BaseModel):
    """A model that can be asked, and what a request that leaves a field out gets."""

    id: str
    kinds: list[JobKind]
    is_default: bool
    width: int
    height: int
    steps: int
    guidance: float


async def fields_of(call: Call, job: Job) -> dict[str, Any]:
    """Give what every form of a job shows."""
    same = {name: getattr(job, name) for name in JobOut.model_fields if hasattr(job, name)}
    url = call.url(f"/api/generate/{job.id}")
    return same | {
        "kind": job.media,
        "outputs": [await _output(call, job, n) for n in range(len(job.outputs))],
        "status_url": url,
        "stream_url": f"{url}/stream",
        "cancel_url": f"{url}/cancel",
    }


async def _output(call: Call, job: Job, n: int) -> OutputOut:
    """Give a file with fresh links; a saved one is named after its job."""
    stored: dict[str, Any] = job.outputs[n]
    name = f"{job.id}-{n}"
    poster = stored.get("poster_key")
    return OutputOut(
        **{field: stored[field] for field in OutputOut.model_fields if field in stored},
        url=await link_to(call, stored["key"], f"{name}.{suffix_of(stored['content_type'])}"),
        poster_url=await link_to(call, poster, f"{name}-poster.png") if poster else None,
    )


async def whole(call: Call, job: Job) -> JobWhole:
    """Give one job with its place in the queue."""
    place = None
    if job.state == QUEUED:
        place = await queue_position(call.front.database, job)
    return JobWhole(**await fields_of(call, job), queue_position=place)


async def own(call: Call) -> Job:
    """Give the job in the path.

    Raises:
        NotFound: there is none, or it is somebody else's.
    """
    return call.visible(await Job.found(call.param("id")), "job")


def is_settled(job: Job) -> bool:
    """Whether nothing more happens to it."""
    return Job.ended(job.state)


def model_of(call: Call, asked: str | None) -> str:
    """Give the model that is asked for, or the one there is.

    Raises:
        Invalid: there is none of that name.
    """
    known = model_name(call.front.settings.generator.model)
    if asked not in {None, known}:
        raise Invalid("no such model", faults=[("/model", f"is not known; there is {known}")])
    return known


async def create_image(call: Call, body: ImageIn) -> Result:
    """Queue a picture; with ``Prefer: wait=N`` answer when it has ended."""
    model = model_of(call, body.model)
    wanted = Wanted(**body.model_dump(exclude={"model"}), model=model)
    work = call.work()
    job = create_job(work, wanted.columns(), user_id=call.caller.id)
    work.send(Ring(job_id=job.id))
    location = {"Location": call.url(f"/api/generate/{job.id}")}
    queued = await call.answered(work, Answer(await whole(call, job), headers=location))
    if not wait_s(call):
        return queued
    return await _going_on(call, job.id, location)


async def _going_on(call: Call, ident: str, headers: dict[str, str] | None = None) -> Answer:
    async def read() -> Job:
        return call.visible(await Job.found(ident), "job")

    return await going_on(call, read, is_settled, whole, headers)


async def listed(call: Call, query: JobQuery) -> Result:
    """List; everybody their own, an administrator all."""
    rows = Job.filter(**query.filters())
    if not call.caller.is_admin:
        rows = rows.filter(user_id=call.caller.id)
    jobs = await rows_of(rows, query)
    outs = {}
    for job in jobs[: query.limit]:
        outs[job.id] = JobOut(**await fields_of(call, job))
        # A long page has some thousand links to sign: others have their turns in between.
        await asyncio.sleep(0)
    return page_of(call, query, jobs, lambda job: outs[job.id])


async def show(call: Call) -> Result:
    """Show one; with ``Prefer: wait=N`` when it has ended."""
    job = await settled(call, await own(call), lambda: own(call), is_settled)
    content = await whole(call, job)
    version = await version_tag(call, job.version, has_links=bool(job.outputs))
    tag = f"{version}-{content.queue_position or 0}"
    return tagged(call, content, tag, headers=applied(call))


async def cancel(call: Call) -> Result:
    """Stop a job: at once while it waits, else at its next step; repeating it is harmless."""
    for _ in range(CANCEL_TRIES):
        job = await own(call)
        if job.state == CANCELLED or (job.state == RUNNING and job.cancel_requested):
            break
        if Job.ended(job.state):
            raise Conflict(f"a job that is {job.state} cannot be cancelled")
        work = call.work()
        work.follow(job.trace_id)
        await _cancel(job, work)
        work.audit("job.cancelled", subject=job.id, data={"from": job.state})
        try:
            await call.commit(work)
        except Conflict:
            # It went on in between: look again.
            continue
        break
    else:
        raise Conflict("the job moves on too fast; try again", code="stale")
    return await _going_on(call, job.id)


async def _cancel(job: Job, work: UnitOfWork) -> None:
    """Collect what ends a waiting job and tells its task, or asks the generator to stop one."""
    detail = "cancelled by a person"
    stop_job(work, job, detail, error=detail)
    if job.state == RUNNING:
        return
    task = await Task.found(job.task_id) if job.task_id else None
    if task is not None:
        work.send(Check(task_id=task.id, round=task.round, n=0))


async def models(call: Call) -> Result:
    """List what can be asked for; without a model's files, which the generator alone needs."""
    known = ModelOut(
        id=model_of(call, None),
        kinds=["image"],
        is_default=True,
        width=SIDE_PX,
        height=SIDE_PX,
        steps=STEPS,
        guidance=GUIDANCE,
    )
    return Page[ModelOut](data=[known])


ROUTES = [
    Route(
        "POST",
        "/api/generate/image",
        create_image,
        "Ask for a picture",
        "generate:write",
        answer=JobWhole,
        status=202,
        body=ImageIn,
        creates=True,
        waits=True,
    ),
    Route(
        "GET",
        "/api/generate",
        listed,
        "List the jobs",
        "generate:read",
        answer=Page[JobOut],
        query=JobQuery,
    ),
    Route(
        "GET",
        "/api/generate/{id}",
        show,
        "Show a job",
        "generate:read",
        answer=JobWhole,
        is_tagged=True,
        waits=True,
    ),
    Route(
        "POST",
        "/api/generate/{id}/cancel",
        cancel,
        "Stop a job",
        "generate:write",
        answer=JobWhole,
        status=202,
        waits=True,
    ),
    Route(
        "DELETE",
        "/api/generate/{id}",
        cancel,
        "Stop a job",
        "generate:write",
        answer=JobWhole,
        status=202,
        waits=True,
    ),
    Route(
        "GET",
        "/api/models",
        models,
        "List the models",
        "generate:read",
        answer=Page[ModelOut],
    ),
]

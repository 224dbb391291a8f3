"""Sources: feeds of comments, and asking for a poll now."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from limner.actors.poller.messages import Poll
from limner.core.errors import Conflict
from limner.core.ids import new_id
from limner.http.body import Form
from limner.http.call import Call
from limner.http.etags import tagged
from limner.http.listing import Listing, Page, page_of, rows_of
from limner.http.routes import Answer, Result, Route
from limner.storage.sql.messaging import OutboxRow
from limner.storage.sql.sources import Source, create_source, delete_source, update_source

Name = Annotated[str, Field(min_length=1, max_length=200)]
Connector = Annotated[str, Field(min_length=1, max_length=64)]
ExternalId = Annotated[str, Field(max_length=255)]
Interval = Annotated[int, Field(ge=5, le=86_400, description="Seconds between two polls")]


class SourceIn(Form):
    """A new source; without ``interval_s`` the setting ``poll_interval_s`` counts."""

    name: Name
    connector: Connector
    external_id: ExternalId = ""
    interval_s: Interval | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class SourcePatch(Form):
    """What to change; null leaves a field as it is."""

    name: Name | None = None
    connector: Connector | None = None
    external_id: ExternalId | None = None
    interval_s: Interval | None = None
    options: dict[str, Any] | None = None
    state: Literal["active", "paused"] | None = None


class SourceOut(BaseModel):
    """A source; ``polling`` says that a poll is under way."""

    id: str
    name: str
    connector: str
    external_id: str
    interval_s: int
    options: dict[str, Any]
    state: str
    cursor: str
    polling: bool
    last_polled_at: datetime | None
    last_error: str
    created_at: datetime
    updated_at: datetime


class PollOut(SourceOut):
    """A source whose poll goes on; ``already_running`` says that this asked for none."""

    already_running: bool
    status_url: str


class SourceQuery(Listing):
    """Filters of the list."""

    state: Literal["active", "paused"] | None = None
    connector: str | None = None
    name: str | None = None


def shown(call: Call, source: Source) -> SourceOut:
    """Give a source as clients see it."""
    return SourceOut(**_fields(call, source))


def _fields(call: Call, source: Source) -> dict[str, Any]:
    plain = {
        name: getattr(source, name) for name in SourceOut.model_fields if hasattr(source, name)
    }
    return {**plain, "polling": is_polling(call, source)}


def is_polling(call: Call, source: Source) -> bool:
    """Whether a poll of the source runs and is alive."""
    until = source.lease_until
    return bool(source.poll_id) and until is not None and until > call.now


async def own(call: Call) -> Source:
    """Give the source in the path.

    Raises:
        NotFound: there is none, or it is somebody else's.
    """
    return call.visible(await Source.found(call.param("id")), "source")


async def listed(call: Call, query: SourceQuery) -> Result:
    """List."""
    rows = Source.filter(**query.filters()).exclude(state="deleted")
    if not call.caller.is_admin:
        rows = rows.filter(user_id=call.caller.id)
    return page_of(call, query, await rows_of(rows, query), lambda row: shown(call, row))


async def create(call: Call, body: SourceIn) -> Result:
    """Store a source with its schedule."""
    call.front.validate_source(body.connector, body.options)
    interval_s = body.interval_s or (await call.front.tunables.current()).poll_interval_s
    source = Source(
        id=new_id("source"),
        state="active",
        user_id=call.caller.id,
        **body.model_dump(exclude={"interval_s"}),
        interval_s=interval_s,
    )
    work = call.work()
    create_source(work, source, Poll(source_id=source.id))
    work.audit("source.created", subject=source.id, data={"connector": source.connector})
    location = {"Location": call.url(f"/api/sources/{source.id}")}
    return await call.answered(work, Answer(shown(call, source), headers=location))


async def show(call: Call) -> Result:
    """Show one."""
    source = await own(call)
    polling = is_polling(call, source)
    return tagged(call, shown(call, source), f"{source.version}-{int(polling)}")


async def patch(call: Call, body: SourcePatch) -> Result:
    """Change one."""
    source = await own(call)
    changes = body.model_dump(exclude_none=True)
    if "connector" in changes or "options" in changes:
        call.front.validate_source(
            changes.get("connector", source.connector), changes.get("options", source.options)
        )
    if changes:
        work = call.work()
        update_source(work, source, **changes)
        work.audit("source.changed", subject=source.id, data={"fields": sorted(changes)})
        await call.commit(work)
    return shown(call, await own(call))


async def delete(call: Call) -> Result:
    """Remove one and its schedule; its comments stay."""
    source = await own(call)
    work = call.work()
    delete_source(work, source)
    work.audit("source.deleted", subject=source.id)
    await call.commit(work)
    return None


async def poll(call: Call) -> Result:
    """Ask for a poll now, unless one is running or asked for."""
    source = await own(call)
    if source.state != "active":
        raise Conflict(f"the source is {source.state}")
    command = Poll(source_id=source.id)
    running = is_polling(call, source) or await OutboxRow.exists(
        topic=command.topic, body=command.to_bytes()
    )
    if not running:
        work = call.work()
        work.send(command)
        work.audit("source.polled", subject=source.id)
        await call.commit(work)
    out = PollOut(
        **_fields(call, source) | {"polling": True},
        already_running=running,
        status_url=call.url(f"/api/sources/{source.id}"),
    )
    return Answer(out)


ROUTES = [
    Route(
        "GET",
        "/api/sources",
        listed,
        "List the sources",
        "sources:read",
        answer=Page[SourceOut],
        query=SourceQuery,
    ),
    Route(
        "POST",
        "/api/sources",
        create,
        "Add a source; its schedule polls it",
        "sources:write",
        answer=SourceOut,
        status=201,
        body=SourceIn,
        creates=True,
    ),
    Route(
        "GET",
        "/api/sources/{id}",
        show,
        "Show a source",
        "sources:read",
        answer=SourceOut,
        is_tagged=True,
    ),
    Route(
        "PATCH",
        "/api/sources/{id}",
        patch,
        "Change a source, pause or resume it",
        "sources:write",
        answer=SourceOut,
        body=SourcePatch,
    ),
    Route("DELETE", "/api/sources/{id}", delete, "Remove a source", "sources:write", status=204),
    Route(
        "POST",
        "/api/sources/{id}/poll",
        poll,
        "Poll a source now; while a poll runs, no second one begins",
        "sources:write",
        answer=PollOut,
        status=202,
    ),
]

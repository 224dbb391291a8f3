"""Providers: who makes pictures and videos over HTTP, and their calling back."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from limner.actors.status.messages import Check
from limner.actors.submitter.rules import CALLBACK, LOCAL
from limner.core.errors import Conflict, Invalid, NotFound, Unauthenticated
from limner.core.ids import new_id
from limner.core.providers.mapping import ProviderConfig
from limner.core.tunables import Tunables
from limner.http.body import Form
from limner.http.call import Call
from limner.http.etags import tagged
from limner.http.listing import Listing, Page, page_of, rows_of
from limner.http.routes import Answer, Result, Route
from limner.storage.sql.providers import Provider, provider_seen
from limner.storage.sql.tasks import Task

TAKEN = "a provider of this name exists"
CHECKED = ("submitted", "running", "unknown")

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Kind = Literal["image", "video", "both"]
Texts = dict[str, str]


class ProviderPatch(Form):
    """What to change; null leaves a field as it is."""

    name: Name | None = None
    kind: Kind | None = None
    base_url: str | None = None
    submit_path: str | None = None
    status_path: str | None = None
    lookup_path: str | None = None
    headers: Texts | None = None
    request: dict[str, Any] | None = None
    job_id: str | None = None
    status: str | None = None
    status_map: Texts | None = None
    result_url: str | None = None
    error: str | None = None
    idempotent: bool | None = None


class ProviderIn(ProviderPatch):
    """A new provider; paths are RFC 9535, strings in ``request`` that begin with ``$`` are too."""

    name: Name
    kind: Kind = "both"


class ProviderOut(ProviderConfig):
    """A provider; secrets are shown by reference."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    name: str
    kind: str
    created_at: datetime
    updated_at: datetime


class ProviderQuery(Listing):
    """Filters of the list."""

    columns: ClassVar[Mapping[str, str]] = {"kind": "media"}

    name: str | None = None
    kind: Kind | None = None


class Trial(Form):
    """What to try a provider with."""

    prompt: Annotated[str, Field(min_length=1, max_length=2000)] = (
        "a red circle on a blue background"
    )
    kind: Literal["image", "video"] = "image"


class TrialOut(BaseModel):
    """What was sent, what came back, and what the mapping found in it."""

    request: dict[str, Any]
    status: int
    answer: Any
    extracted: dict[str, Any]
    problems: list[str]


class Accepted(BaseModel):
    """What every callback is answered."""

    accepted: bool = True


def shown(provider: Provider) -> ProviderOut:
    """Give a provider as clients see it; its mapping was checked when it was stored."""
    values: dict[str, Any] = {
        **provider.config,
        "id": provider.id,
        "name": provider.name,
        "kind": provider.media,
        "created_at": provider.created_at,
        "updated_at": provider.updated_at,
    }
    return ProviderOut.model_construct(**values)


async def own(call: Call) -> Provider:
    """Give the provider in the path; providers belong to the whole service.

    Raises:
        NotFound: there is none.
    """
    provider = await Provider.get_or_none(id=call.param("id"), state="active")
    if provider is None:
        raise NotFound("there is no such provider")
    return provider


async def listed(call: Call, query: ProviderQuery) -> Result:
    """List."""
    rows = Provider.filter(state="active", **query.filters())
    return page_of(call, query, await rows_of(rows, query), shown)


async def create(call: Call, body: ProviderIn) -> Result:
    """Check the mapping and store it."""
    _check_name(body.name)
    config = body.model_dump(exclude={"name", "kind"}, exclude_none=True)
    call.front.providers.validate(config)
    provider = Provider(
        id=new_id("provider"),
        state="active",
        user_id=call.caller.id,
        name=body.name,
        media=body.kind,
        config=config,
    )
    work = call.work()
    work.add(provider)
    work.audit("provider.created", subject=provider.id, data={"name": provider.name})
    location = {"Location": call.url(f"/api/providers/{provider.id}")}
    return await call.answered(work, Answer(shown(provider), headers=location), taken=TAKEN)


def _check_name(name: str) -> None:
    if name == LOCAL:
        reason = f"{LOCAL} is the generator of this service"
        raise Invalid("the name is taken", faults=[("/name", reason)])


async def show(call: Call) -> Result:
    """Show one."""
    provider = await provider_seen(call.front.database, call.param("id"))
    if provider is None or provider.state != "active":
        raise NotFound("there is no such provider")
    return tagged(call, shown(provider), provider.version)


async def patch(call: Call, body: ProviderPatch) -> Result:
    """Change one; the mapping is checked as a whole."""
    provider = await own(call)
    changes = body.model_dump(exclude_none=True)
    name, kind = changes.pop("name", provider.name), changes.pop("kind", provider.media)
    if name != provider.name:
        _check_name(name)
        await _refuse_if_used(call, provider)
    config = {**provider.config, **changes}
    call.front.providers.validate(config)
    work = call.work()
    work.change(
        provider,
        guard={"state": "active", "version": provider.version},
        name=name,
        media=kind,
        config=config,
    )
    work.audit("provider.changed", subject=provider.id, data={"fields": sorted(changes)})
    await call.commit(work, taken=TAKEN)
    return shown(await own(call))


async def delete(call: Call) -> Result:
    """Remove one that no setting names; its row stays for tasks that are under way."""
    provider = await own(call)
    await _refuse_if_used(call, provider)
    work = call.work()
    # The name becomes free again.
    work.move(provider, expected="active", to="deleted", name=f"deleted-{provider.id}"[:64])
    work.audit("provider.deleted", subject=provider.id, data={"name": provider.name})
    await call.commit(work)
    return None


async def _refuse_if_used(call: Call, provider: Provider) -> None:
    call.front.tunables.forget()
    tunables: Tunables = await call.front.tunables.current()
    for setting in ("image_provider", "video_provider"):
        if getattr(tunables, setting) == provider.name:
            raise Conflict(f"the setting {setting} names this provider")


async def try_out(call: Call, body: Trial) -> Result:
    """Submit a trial order and show what the mapping makes of the answer."""
    provider = await own(call)
    if provider.media not in {body.kind, "both"}:
        raise Invalid(
            "the provider does not make this", faults=[("/kind", f"it makes {provider.media}s")]
        )
    found = await call.front.providers.test(provider.config, body.prompt, body.kind)
    return TrialOut.model_validate(dict(found))


async def callback(call: Call) -> Result:
    """Look at a task because its provider says that something happened.

    The answer is the same whether the link is good or not, and what the provider sends is not
    read: the task's status is asked for as always.
    """
    try:
        payload = call.front.signer.open(CALLBACK, call.param("signed"), call.now)
    except Unauthenticated:
        return Accepted()
    task = await Task.found(str(payload.get("task", "")))
    if (
        task is not None
        and payload.get("provider") == call.param("id")
        and payload.get("round") == task.round
        and task.state in CHECKED
    ):
        work = call.work()
        work.follow(task.trace_id)
        work.send(Check(task_id=task.id, round=task.round, n=0))
        await call.commit(work)
    return Accepted()


ROUTES = [
    Route(
        "GET",
        "/api/providers",
        listed,
        "List the providers",
        "providers:read",
        answer=Page[ProviderOut],
        query=ProviderQuery,
    ),
    Route(
        "POST",
        "/api/providers",
        create,
        "Add a provider",
        "providers:write",
        answer=ProviderOut,
        status=201,
        body=ProviderIn,
        creates=True,
    ),
    Route(
        "GET",
        "/api/providers/{id}",
        show,
        "Show a provider",
        "providers:read",
        answer=ProviderOut,
        is_tagged=True,
    ),
    Route(
        "PATCH",
        "/api/providers/{id}",
        patch,
        "Change a provider",
        "providers:write",
        answer=ProviderOut,
        body=ProviderPatch,
    ),
    Route(
        "DELETE",
        "/api/providers/{id}",
        delete,
        "Remove a provider that no setting names",
        "providers:write",
        status=204,
    ),
    Route(
        "POST",
        "/api/providers/{id}/test",
        try_out,
        "Submit a trial order and show what the mapping finds",
        "providers:write",
        answer=TrialOut,
        body=Trial,
        has_optional_body=True,
    ),
    Route(
        "POST",
        "/api/providers/{id}/callback/{signed}",
        callback,
        "A provider says that something happened to an order",
        "open",
        answer=Accepted,
        status=202,
        reads_body=False,
    ),
]

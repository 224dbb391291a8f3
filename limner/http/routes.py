"""Routes: what is declared here is what is served, authorised, validated and documented."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiohttp import hdrs, web
from pydantic import BaseModel

from limner.core.errors import Forbidden, Unauthenticated
from limner.http import idempotency
from limner.http.answers import Answer, Result, respond
from limner.http.auth.callers import Caller
from limner.http.body import Nothing, read_json, read_query
from limner.http.call import CALLER, FRONT, Call
from limner.storage.sql.accounts import SCOPES

__all__ = ["ANY", "OPEN", "Answer", "Result", "Route", "authorise", "bound", "register"]

OPEN = "open"
ANY = "any"
"""``open`` needs no credential, ``any`` needs one; everything else is a scope."""


Handler = Callable[..., Awaitable[Result]]


@dataclass(frozen=True)
class Route:
    """One method of one path.

    ``handler(call)`` gets ``body=`` and ``query=`` too, where the route has models for them.
    ``access`` is ``open``, ``any`` or a scope. ``has_optional_body``: no body means the model's
    defaults. ``is_documented`` is False for pages and files, which are no part of the API;
    ``media`` is the type of an answer that is no JSON, ``takes`` are those of a body that is none
    and that the handler reads. ``has_head`` is False where a HEAD would
    have an effect or no meaning. ``is_tagged``: the answer has an ETag; ``waits``: it honours
    ``Prefer: wait``. ``creates``: an Idempotency-Key is obeyed, and the handler ends with
    ``call.answered``. ``also`` names the further statuses it may answer with, each with a sentence;
    ``also_media`` the types of those from 400 on that are answered without being a problem.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    access: str
    answer: type[BaseModel] | None = None
    status: int = 200
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    has_optional_body: bool = False
    reads_body: bool = True
    has_head: bool = True
    media: str = ""
    takes: tuple[str, ...] = ()
    is_documented: bool = True
    is_tagged: bool = False
    waits: bool = False
    creates: bool = False
    also: Mapping[int, str] = field(default_factory=dict)
    also_media: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.access not in {OPEN, ANY} and self.access not in SCOPES:
            raise ValueError(f"{self.path}: {self.access} is no scope")


def register(application: web.Application, routes: list[Route]) -> None:
    """Serve all routes; a GET is mostly also a HEAD."""
    for route in routes:
        handler = bound(route)
        if route.method == hdrs.METH_GET:
            application.router.add_get(route.path, handler, allow_head=route.has_head)
        else:
            application.router.add_route(route.method, route.path, handler)


def bound(route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Give the handler that checks everything before the route's own runs."""

    async def handle(request: web.Request) -> web.StreamResponse:
        call = Call(request, request.app[FRONT], request[CALLER])
        authorise(route, call.caller)
        inputs: dict[str, Any] = {}
        if route.query is not None:
            inputs["query"] = read_query(request.query, route.query)
        elif route.is_documented:
            read_query(request.query, Nothing)
        if route.body is not None:
            optional = route.has_optional_body
            inputs["body"] = await read_json(request, route.body, optional=optional)
        elif route.method not in {"GET", "HEAD"} and route.reads_body:
            await read_json(request, Nothing, optional=True)
        if route.creates:
            return await idempotency.once(call, route.status, partial(route.handler, **inputs))
        return respond(await route.handler(call, **inputs), route.status)

    return handle


def authorise(route: Route, caller: Caller) -> None:
    """Return if the caller may use the route.

    Raises:
        Unauthenticated: it needs to be somebody.
        Forbidden: the scope is missing.
    """
    if route.access == OPEN:
        return
    if not caller.is_known:
        raise caller.fault or Unauthenticated("sign in, or send an API key")
    if route.access != ANY and route.access not in caller.scopes:
        raise Forbidden(f"this needs the scope {route.access}")

"""Health: whether to restart this process, whether to send it requests, and how it is."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel

from limner.core.errors import EngineUnavailable
from limner.core.health import ANSWER_LIMIT_S, Check
from limner.http.call import Call
from limner.http.routes import OPEN, Result, Route, authorise

SCOPE = "ops:read"
CONTENT_TYPE = "application/health+json"
READY_TYPES = f"text/plain, {CONTENT_TYPE}"
AILING = "A part fails or the process is not ready; or the database does not answer who asks"
ORDER = ("pass", "warn", "fail")


class Observation(BaseModel):
    """One look at one part."""

    status: Literal["pass", "warn", "fail"]
    output: str = ""


class Health(BaseModel):
    """The report (draft-inadarei-api-health-check-06)."""

    status: Literal["pass", "warn", "fail"]
    checks: dict[str, list[Observation]]


class ReadyQuery(BaseModel):
    """``verbose`` asks for the report."""

    verbose: str | None = None


async def live(call: Call) -> Result:
    """Say that the process answers."""
    return web.Response(text="ok\n", headers={"Cache-Control": "no-store"})


async def ready(call: Call, query: ReadyQuery) -> Result:
    """Say whether requests shall be sent here; why, only to whoever may know."""
    if query.verbose is not None:
        authorise(VERBOSE, call.caller)
        return await report(call)
    is_ready = call.front.ready() and not call.front.stopping()
    return web.Response(
        text="ok\n" if is_ready else "not ready\n",
        status=200 if is_ready else 503,
        headers={"Cache-Control": "no-store"},
    )


async def report(call: Call) -> Result:
    """Give the whole report; 503 if a part fails or the process is not ready."""
    checks = await call.front.checks()
    is_ready = call.front.ready() and not call.front.stopping()
    health = health_of(checks, is_ready=is_ready)
    return web.Response(
        body=health.model_dump_json().encode(errors="replace"),
        status=503 if health.status == "fail" else 200,
        headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"},
    )


def health_of(checks: Sequence[Check], *, is_ready: bool) -> Health:
    """Put the lines together; the worst of them is the whole's."""
    parts: dict[str, list[Observation]] = {}
    for check in checks:
        output = " ".join(part for part in (check.detail, check.mend) if part)
        parts.setdefault(check.name, []).append(Observation(status=check.status, output=output))
    if not is_ready:
        parts["readiness"] = [Observation(status="fail", output="not ready")]
    worst = max(
        (one.status for lines in parts.values() for one in lines), key=ORDER.index, default="pass"
    )
    return Health(status=worst, checks=parts)


async def metrics(call: Call) -> Result:
    """Give the metrics in the text format of Prometheus."""
    await _measure(call)
    body = call.front.metrics.render()
    headers: Mapping[str, Any] = {"Content-Type": call.front.metrics.content_type}
    return web.Response(body=body, headers={**headers, "Cache-Control": "no-store"})


async def _measure(call: Call) -> None:
    """Set the gauges that are read when somebody asks, all at once and all within one limit.

    What is out of reach keeps its value; ``limner_engine_up`` says how much that is worth.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_LIMIT_S), asyncio.TaskGroup() as looks:
            looks.create_task(_measure_outbox(call))
            for actor in call.front.actors:
                looks.create_task(_measure_queue(call, actor))


async def _measure_outbox(call: Call) -> None:
    with suppress(EngineUnavailable):
        call.front.metrics.outbox_rows.set(await call.front.outbox.depth())


async def _measure_queue(call: Call, actor: str) -> None:
    with suppress(EngineUnavailable):
        depth = await call.front.broker.depth(actor)
        name = f"limner.{actor}"
        call.front.metrics.queue_depth.labels(name).set(depth.ready)
        if depth.oldest_age_s is not None or not depth.ready:
            # RabbitMQ does not tell; no figure is better than a wrong one.
            call.front.metrics.queue_oldest_age.labels(name).set(depth.oldest_age_s or 0.0)


VERBOSE = Route("GET", "/readyz", report, "Show the report", SCOPE)
ROUTES = [
    Route("GET", "/livez", live, "Say that the process answers", OPEN, media="text/plain"),
    Route(
        "GET",
        "/readyz",
        ready,
        "Say whether requests shall be sent here; ?verbose with ops:read says why",
        OPEN,
        query=ReadyQuery,
        media=READY_TYPES,
        also={
            401: "?verbose: no credential, or one that is not valid",
            403: f"?verbose: the scope {SCOPE} is missing",
            429: "?verbose: too many requests",
            503: f"Not ready; with ?verbose: {AILING[0].lower()}{AILING[1:]}",
        },
        also_media={503: READY_TYPES},
    ),
    Route(
        "GET",
        "/healthz",
        report,
        "Show the health report",
        SCOPE,
        media=CONTENT_TYPE,
        also={503: AILING},
        also_media={503: CONTENT_TYPE},
    ),
    Route("GET", "/metrics", metrics, "Give the metrics", SCOPE, media="text/plain"),
]

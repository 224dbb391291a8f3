"""The web front: one application, made of what it is given."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial

from aiohttp import web

from limner.core.message import Message
from limner.http import access, asyncapi, headers, limits, openapi
from limner.http.api.descriptions import ASYNCAPI, OPENAPI, Description
from limner.http.auth import attempts
from limner.http.body import LIMIT_BYTES
from limner.http.call import FRONT, VERSION
from limner.http.limits import BUCKETS, RATES, Buckets, Rates
from limner.http.pages.docs import REFERENCE
from limner.http.ports import Front
from limner.http.routes import register
from limner.http.sse import HUB, PING_S, Hub
from limner.http.table import ROUTES


@dataclass(frozen=True)
class Options:
    """What differs between the service and its tests: seconds between pings, and rate limits.

    Without ``rates``, those of the settings count.
    """

    ping_s: float = PING_S
    rates: Rates | None = None


def build_application(
    front: Front,
    options: Options | None = None,
    *,
    messages: Sequence[type[Message]] = (),
    version: str = "0",
) -> web.Application:
    """Give the application for a runner; ``messages`` are what ``/asyncapi.json`` describes.

    Its streams end when the runner is cleaned up: clients are told to come back.
    """
    options = options or Options()
    application = web.Application(
        middlewares=[access.trace, access.mend, access.guard], client_max_size=LIMIT_BYTES
    )
    application[FRONT] = front
    application[BUCKETS] = Buckets(front.cache, front.spare_cache, front.clock)
    if options.rates is not None:
        application[RATES] = options.rates
    application[HUB] = Hub(front, options.ping_s)
    application[VERSION] = version
    application[OPENAPI] = Description(
        partial(openapi.document, ROUTES, version, front.settings.base_url)
    )
    application[ASYNCAPI] = Description(partial(asyncapi.document, messages, version))
    application[REFERENCE] = {}
    application.on_response_prepare.append(headers.secure)
    application.on_response_prepare.append(limits.tell)
    application.on_response_prepare.append(attempts.tell)
    application.on_response_prepare.append(access.begin)
    application.cleanup_ctx.append(_streams)
    application.on_shutdown.append(_end_streams)
    register(application, ROUTES)
    return application


async def _streams(application: web.Application) -> AsyncIterator[None]:
    async with application[HUB].running():
        yield


async def _end_streams(application: web.Application) -> None:
    await application[HUB].close()

"""The service's descriptions of itself, as documents."""

import json
from typing import Any

from aiohttp import web

from limner.http.call import Call
from limner.http.routes import OPEN, Result, Route

OPENAPI: web.AppKey[dict[str, Any]] = web.AppKey("openapi", dict)
ASYNCAPI: web.AppKey[dict[str, Any]] = web.AppKey("asyncapi", dict)


async def openapi(call: Call) -> Result:
    """Give the OpenAPI document."""
    return _json(call.request.app[OPENAPI])


async def asyncapi(call: Call) -> Result:
    """Give the AsyncAPI document."""
    return _json(call.request.app[ASYNCAPI])


def _json(document: dict[str, Any]) -> web.Response:
    return web.Response(
        body=json.dumps(document, ensure_ascii=False).encode(),
        content_type="application/json",
        headers={"Cache-Control": "no-cache"},
    )


ROUTES = [
    Route(
        "GET", "/openapi.json", openapi, "Describe the REST interface", OPEN, is_documented=False
    ),
    Route("GET", "/asyncapi.json", asyncapi, "Describe the messages", OPEN, is_documented=False),
]

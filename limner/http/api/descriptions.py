"""The service's descriptions of itself, as documents: made in a thread, when first asked for."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from limner.http.call import Call
from limner.http.routes import OPEN, Result, Route


class Description:
    """A document that is made once; making one takes a tenth of a second.

    Args:
        make: gives the document.
    """

    def __init__(self, make: Callable[[], dict[str, Any]]) -> None:
        self._make = make
        self._made: tuple[dict[str, Any], bytes] | None = None
        self._making = asyncio.Lock()

    async def document(self) -> dict[str, Any]:
        """Give the document; it must not be changed."""
        return (await self._whole())[0]

    async def content(self) -> bytes:
        """Give the document as JSON."""
        return (await self._whole())[1]

    async def _whole(self) -> tuple[dict[str, Any], bytes]:
        async with self._making:
            if self._made is None:
                self._made = await asyncio.to_thread(self._written)
        return self._made

    def _written(self) -> tuple[dict[str, Any], bytes]:
        document = self._make()
        return document, json.dumps(document, ensure_ascii=False).encode()


OPENAPI: web.AppKey[Description] = web.AppKey("openapi", Description)
ASYNCAPI: web.AppKey[Description] = web.AppKey("asyncapi", Description)


async def openapi(call: Call) -> Result:
    """Give the OpenAPI document."""
    return await _json(call.request.app[OPENAPI])


async def asyncapi(call: Call) -> Result:
    """Give the AsyncAPI document."""
    return await _json(call.request.app[ASYNCAPI])


async def _json(description: Description) -> web.Response:
    return web.Response(
        body=await description.content(),
        content_type="application/json",
        headers={"Cache-Control": "no-cache"},
    )


ROUTES = [
    Route(
        "GET", "/openapi.json", openapi, "Describe the REST interface", OPEN, is_documented=False
    ),
    Route("GET", "/asyncapi.json", asyncapi, "Describe the messages", OPEN, is_documented=False),
]

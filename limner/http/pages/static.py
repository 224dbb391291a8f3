"""The pages' own files, read once; a browser asks again only whether they have changed."""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from aiohttp import hdrs, web

from limner.core.errors import NotFound
from limner.http.call import Call
from limner.http.etags import holds
from limner.http.routes import OPEN, Result, Route

TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
TAG_CHARACTERS = 16


@dataclass(frozen=True)
class StaticFile:
    """A file's bytes, type and tag."""

    content: bytes
    content_type: str
    tag: str


@cache
def static_files() -> dict[str, StaticFile]:
    """Read all files of ``static/``."""
    found = {}
    for entry in files("limner.http.pages").joinpath("static").iterdir():
        content_type = TYPES.get(entry.name.rpartition(".")[2])
        if content_type is not None:
            content = entry.read_bytes()
            tag = hashlib.sha256(content).hexdigest()[:TAG_CHARACTERS]
            found[entry.name] = StaticFile(content, content_type, tag)
    return found


async def static(call: Call) -> Result:
    """Give a file."""
    file = static_files().get(call.param("name"))
    if file is None:
        raise NotFound("there is nothing here")
    headers = {hdrs.ETAG: f'"{file.tag}"', hdrs.CACHE_CONTROL: "no-cache"}
    if holds(call.request, file.tag):
        return web.Response(status=304, headers=headers)
    return web.Response(
        body=file.content, content_type=file.content_type, charset="utf-8", headers=headers
    )


ROUTES = [Route("GET", "/static/{name}", static, "Give a file", OPEN, is_documented=False)]

"""The ``demo`` connector: the sample comments that come with Limner, one of them twice."""

import asyncio
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, ClassVar

from limner.actors.poller.connector import (
    CURSOR_REFUSED,
    Fetched,
    Options,
    Page,
    Secrets,
)
from limner.core.errors import Refused
from limner.core.outgoing import Outgoing

PAGE_SIZE = 5


class Demo:
    """Serves ``demo/comments.json`` in pages of five; a cursor is the number of comments read."""

    model: ClassVar[type[Options]] = Options

    def __init__(self, outgoing: Outgoing, secrets: Secrets) -> None:
        del outgoing, secrets  # The samples are on the disk.

    async def fetch(self, options: Mapping[str, Any], external_id: str, cursor: str) -> Page:
        del external_id
        if not (cursor == "" or (cursor.isascii() and cursor.isdigit() and len(cursor) < 10)):
            raise Refused("the cursor is not one of this feed", code=CURSOR_REFUSED)
        read = await asyncio.to_thread(comments)
        wanted = options.get("provider", "")
        feed = tuple(
            Fetched(one["id"], one["author"], one["text"])
            for one in read
            if one.get("provider", "") == wanted
        )
        start = int(cursor or 0)
        end = start + PAGE_SIZE
        return Page(feed[start:end], str(end), has_more=end < len(feed))


def comments() -> list[dict[str, str]]:
    """Give the sample comments: ``{id, author, text, expect, kind, meaning, provider?}`` each.

    Those with a ``provider`` are served only to a source whose tasks go to that provider.
    """
    text = (files("limner.actors.poller") / "demo" / "comments.json").read_text("utf-8")
    read: list[dict[str, str]] = json.loads(text)
    return read

"""The ``xiaohongshu`` connector: a note's comments and their replies, through a gateway.

Xiaohongshu signs its requests in the browser; a gateway, run by whoever has the account, does that
and gives the answers of the site as they are: ``{gateway}/comments`` has the comments of a note
with the first replies in each, ``{gateway}/sub_comments`` the further replies of one comment.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar
from urllib.parse import urlencode

from pydantic import AfterValidator, Field

from limner.actors.poller import connector
from limner.actors.poller.connector import CURSOR_REFUSED, MAX_ITEMS, Fetched, Page, Secrets
from limner.actors.poller.documents import Documents, Headers
from limner.actors.poller.http import MAX_URL_CHARACTERS, plain_url
from limner.actors.poller.paths import Paths
from limner.core.errors import Refused
from limner.core.jsonpath import compile_path
from limner.core.logs import get_logger
from limner.core.outgoing import Outgoing

REPLIES_PER_PAGE = 30
MAX_REPLY_PAGES = 20

PATHS = Paths(
    items="$.data.comments[*]",
    id="$.id",
    text="$.content",
    author="$.user_info.nickname",
    next_cursor="$.data.cursor",
    has_more="$.data.has_more",
)
SHOWN = "$.sub_comments[*]"
REPLIES = PATHS.model_copy(
    update={"next_cursor": "$.sub_comment_cursor", "has_more": "$.sub_comment_has_more"}
)

log = get_logger("poller")


def _gateway(text: str) -> str:
    if "?" in plain_url(text) or "#" in text or "{" in text:
        raise ValueError("the gateway's URL has no query, fragment or placeholders")
    return text.rstrip("/")


class XiaohongshuOptions(connector.Options):
    """Which note, and through whom; ``xsec_token`` may be a ``secret:NAME``."""

    gateway: Annotated[str, Field(max_length=MAX_URL_CHARACTERS), AfterValidator(_gateway)]
    note_id: Annotated[str, Field(min_length=1, max_length=255)]
    xsec_token: Annotated[str, Field(max_length=512)] = ""
    headers: Headers = Field(default_factory=dict)


class Xiaohongshu:
    """Flattens replies behind their comments: at most 20 pages of 30 for each comment."""

    model: ClassVar[type[connector.Options]] = XiaohongshuOptions

    def __init__(self, outgoing: Outgoing, secrets: Secrets) -> None:
        self._documents = Documents(outgoing, secrets)
        self._secrets = secrets

    async def fetch(self, options: Mapping[str, Any], external_id: str, cursor: str) -> Page:
        del external_id  # The note is named in the options.
        feed = XiaohongshuOptions.read(options)
        document = await self._get(feed, "comments", cursor, {})
        items = await PATHS.items_of(document)
        room = MAX_ITEMS - len(items)
        comments: list[Fetched] = []
        for item, parent in zip(items, await PATHS.comments_of(items), strict=True):
            replies = await self._replies(feed, parent, item, room)
            room -= len(replies)
            comments += [parent, *replies]
        onward = await PATHS.cursor_of(document)
        return Page(tuple(comments), onward, await PATHS.more_of(document, onward))

    async def _replies(
        self, feed: XiaohongshuOptions, parent: Fetched, item: Any, room: int
    ) -> list[Fetched]:
        """Give the replies in ``item`` and those on further pages, at most ``room``."""
        replies = await PATHS.comments_of(await compile_path(SHOWN).find(item))
        cursor = await REPLIES.cursor_of(item)
        more = await REPLIES.more_of(item, cursor)
        for _ in range(MAX_REPLY_PAGES):
            if not (more and cursor) or len(replies) >= room:
                break
            document = await self._further(feed, parent, cursor)
            if document is None:
                break
            replies += await PATHS.comments_of(await PATHS.items_of(document))
            before, cursor = cursor, await PATHS.cursor_of(document)
            more = cursor != before and await PATHS.more_of(document, cursor)
        if more or len(replies) > room:
            log.warning("replies left out", note_id=feed.note_id, comment=parent.external_id)
        return replies[:room]

    async def _further(self, feed: XiaohongshuOptions, parent: Fetched, cursor: str) -> Any:
        """Give one further page of replies, or None if the gateway knows none."""
        query = {"root_comment_id": parent.external_id, "num": str(REPLIES_PER_PAGE)}
        try:
            return await self._get(feed, "sub_comments", cursor, query)
        except Refused as error:
            if error.code != CURSOR_REFUSED:
                raise
            # A comment that is being deleted must not stop the whole feed.
            log.warning("no replies", comment=parent.external_id, error=error.detail)
            return None

    async def _get(
        self, feed: XiaohongshuOptions, what: str, cursor: str, query: Mapping[str, str]
    ) -> Any:
        token = await self._secrets.fill(feed.xsec_token)
        parameters = {"note_id": feed.note_id, **query, "cursor": cursor, "xsec_token": token}
        url = f"{feed.gateway}/{what}?{urlencode(parameters)}"
        return await self._documents.get(url, feed.headers, cursor)

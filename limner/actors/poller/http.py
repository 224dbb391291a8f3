"""The ``http`` connector: any feed that answers with JSON, read by paths of RFC 9535."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, Field

from limner.actors.poller import connector
from limner.actors.poller.connector import Page, Secrets
from limner.actors.poller.documents import Documents, Headers
from limner.actors.poller.paths import Paths
from limner.core.addresses import parse_url
from limner.core.errors import Refused
from limner.core.outgoing import Outgoing

MAX_URL_CHARACTERS = 2_000


def filled(url: str, *, cursor: str, external_id: str) -> str:
    """Give ``url`` with its placeholders replaced, percent-encoded; one pass, nothing twice."""
    values = {"{cursor}": cursor, "{external_id}": external_id}
    return re.sub(
        r"\{cursor\}|\{external_id\}", lambda match: quote(values[match.group()], safe=""), url
    )


def plain_url(text: str) -> str:
    """Check a URL, with or without placeholders, and give it back.

    Raises:
        ValueError: no http or https URL, or a placeholder in its host.
    """
    try:
        parse_url(filled(text, cursor="x", external_id="x"))
    except Refused as error:
        raise ValueError(error.detail) from None
    if "{" in urlsplit(text).netloc:
        raise ValueError("placeholders are for the path and the query, not for the host")
    return text


Url = Annotated[str, Field(max_length=MAX_URL_CHARACTERS), AfterValidator(plain_url)]


class HttpOptions(connector.Options, Paths):
    """Where the feed is, and what is where in its answers.

    ``{cursor}`` and ``{external_id}`` in the URL's path and query are filled in; a URL without
    ``{cursor}`` has one page.
    """

    url: Url
    headers: Headers = Field(default_factory=dict)


class Http:
    """Fetches pages and reads them by the source's own paths."""

    model: ClassVar[type[connector.Options]] = HttpOptions

    def __init__(self, outgoing: Outgoing, secrets: Secrets) -> None:
        self._documents = Documents(outgoing, secrets)

    async def fetch(self, options: Mapping[str, Any], external_id: str, cursor: str) -> Page:
        feed = HttpOptions.read(options)
        url = filled(feed.url, cursor=cursor, external_id=external_id)
        document = await self._documents.get(url, feed.headers, cursor)
        comments = await feed.comments_of(await feed.items_of(document))
        onward = await feed.cursor_of(document) if "{cursor}" in feed.url else ""
        return Page(tuple(comments), onward, await feed.more_of(document, onward))

"""Answers of feeds: fetched by GET, guarded, and judged by their status."""

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from limner.actors.poller.connector import CURSOR_REFUSED, Secrets
from limner.core.answers import Answer
from limner.core.errors import Refused, Transient
from limner.core.outgoing import Outgoing

MAX_REDIRECTS = 3
MAX_HEADERS = 32

# What passes by itself (RFC 9110 section 15.5.9, RFC 8470, RFC 6585), beside all of 5xx.
_PASSING = frozenset({408, 425, 429})
# With these a server answers that does not know a cursor, or has forgotten it.
_NOT_THERE = frozenset({400, 404, 410, 416, 422})


def _plain(text: str) -> str:
    if any(char < " " or char == "\x7f" for char in text if char != "\t"):
        raise ValueError("control characters are not allowed in a header")
    return text


HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$")]
HeaderValue = Annotated[str, Field(max_length=4_096), AfterValidator(_plain)]
Headers = Annotated[dict[HeaderName, HeaderValue], Field(max_length=MAX_HEADERS)]
"""Headers of a request; values may hold ``secret:NAME``."""


class Documents:
    """Fetches JSON documents and says of what goes wrong whether it may pass."""

    def __init__(self, outgoing: Outgoing, secrets: Secrets) -> None:
        self._outgoing = outgoing
        self._secrets = secrets

    async def get(self, url: str, headers: Mapping[str, str], cursor: str) -> Any:
        """Give the JSON document at ``url``; ``cursor`` is the one the URL was made with.

        Raises:
            Transient, Refused, Invalid, NotConfigured, TooLarge: as ``Connector.fetch``.
        """
        filled = {name: await self._secrets.fill(value) for name, value in headers.items()}
        answer = await self._outgoing.request(
            "GET",
            url,
            headers={"Accept": "application/json", **filled},
            redirects=MAX_REDIRECTS,
        )
        _check_status(answer, cursor)
        return await answer.json()


def _check_status(answer: Answer, cursor: str) -> None:
    status, host = answer.status, urlsplit(answer.url).netloc
    if 200 <= status < 300:
        return
    if status >= 500 or status in _PASSING:
        raise Transient(
            f"{host} answered {status}", code="feed_failed", retry_after_s=answer.retry_after_s()
        )
    code = CURSOR_REFUSED if cursor and status in _NOT_THERE else "feed_refused"
    raise Refused(f"{host} answered {status}", code=code)

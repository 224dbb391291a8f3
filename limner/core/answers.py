"""What comes back from an outgoing call: whole answers, streams, and the limits both keep."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
from aiohttp.http_exceptions import ContentEncodingError

from limner.core.errors import Permanent, TimedOut, TooLarge, Transient
from limner.core.jsonpath import parse_json

RETRY_AFTER_CAP_S = 3600.0
PARSE_INLINE_BYTES = 65_536


@dataclass(frozen=True)
class Limits:
    """What one call may cost.

    ``max_bytes`` counts the decoded body. ``total_s`` is everything from the call to the last
    byte, time the caller spends between chunks included. A body that brings less than
    ``min_bytes_per_s`` over ``rate_window_s`` seconds of waiting for it is given up; 0 turns
    that off.
    """

    max_bytes: int = 5_000_000
    total_s: float = 10.0
    connect_s: float = 5.0
    min_bytes_per_s: int = 0
    rate_window_s: float = 10.0


JSON_LIMITS = Limits()


def media_limits(max_bytes: int) -> Limits:
    """Give the limits for results and for uploads from a URL: 5 minutes, at least 10 kB/s."""
    return Limits(max_bytes=max_bytes, total_s=300.0, min_bytes_per_s=10_000)


@dataclass(frozen=True)
class Answer:
    """A whole answer; ``headers`` ignore case, ``url`` is where it came from in the end."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str
    received_at: datetime

    async def json(self, max_depth: int = 64) -> Any:
        """Parse the body, in a thread when it is long.

        Raises:
            Invalid: the body is no JSON, or too deep.
        """
        if len(self.body) <= PARSE_INLINE_BYTES:
            return parse_json(self.body, len(self.body), max_depth)
        return await asyncio.to_thread(parse_json, self.body, len(self.body), max_depth)

    def retry_after_s(self, cap_s: float = RETRY_AFTER_CAP_S) -> float | None:
        """Give the seconds the other side asked to wait, at most ``cap_s``, if it asked."""
        return retry_after_s(self.headers, self.received_at, cap_s)


def retry_after_s(
    headers: Mapping[str, str], now: datetime, cap_s: float = RETRY_AFTER_CAP_S
) -> float | None:
    """Read Retry-After (RFC 9110 section 10.2.3): seconds or an HTTP date.

    Gives seconds from ``now``, never negative, at most ``cap_s``; None without the header or when
    it is neither. Pass headers that ignore case, or the name as it is written here.
    """
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        # No more digits than a float needs: int() of a very long one would be slow.
        return min(float(text[:20]), cap_s)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return min(max((at - now).total_seconds(), 0.0), cap_s)


class Stream:
    """An answer whose body is still coming; ``ends_at`` is its last moment, in loop time."""

    def __init__(self, response: aiohttp.ClientResponse, limits: Limits, end: float) -> None:
        self._response = response
        self._limits = limits
        self.ends_at = end
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self.url = str(response.url)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Give the decoded body piece by piece, none over some 800 kB.

        Raises:
            TooLarge: the body is over ``max_bytes``, or says so beforehand.
            TimedOut: total time over, or slower than the minimum rate.
            Transient: the connection broke.
            Permanent: code ``unreadable_answer``, the body's encoding is wrong.
        """
        limits = self._limits
        declared = self._response.content_length
        if declared is not None and declared > limits.max_bytes:
            raise TooLarge(f"the answer is over {limits.max_bytes} bytes", code="answer_too_large")
        size_bytes = 0
        pace = Pace(limits)
        while chunk := await self._next(pace):
            size_bytes += len(chunk)
            if size_bytes > limits.max_bytes:
                raise TooLarge(
                    f"the answer is over {limits.max_bytes} bytes", code="answer_too_large"
                )
            yield chunk

    async def _next(self, pace: "Pace") -> bytes:
        loop = asyncio.get_running_loop()
        began = loop.time()
        if began >= self.ends_at:  # Buffered data come without waiting, so without a timeout.
            raise TimedOut("the answer took too long")
        try:
            async with asyncio.timeout_at(min(self.ends_at, began + pace.left_s)):
                chunk = await self._response.content.readany()
        except TimeoutError:
            raise TimedOut("the answer took too long or came too slowly") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _broken(error) from None
        pace.count(len(chunk), loop.time() - began)
        # A compressed body comes faster than it is waited for: let others have their turn.
        await asyncio.sleep(0)
        return chunk


def _broken(error: Exception) -> Permanent | Transient:
    if isinstance(error.__cause__, ContentEncodingError):
        return Permanent("the answer cannot be decompressed", code="unreadable_answer")
    return Transient("the connection broke within the answer", code="cut_off")


class Pace:
    """Watches that a body keeps coming; counts only the seconds spent waiting for it."""

    def __init__(self, limits: Limits) -> None:
        self._window_s = limits.rate_window_s if limits.min_bytes_per_s else float("inf")
        self._least_bytes = limits.min_bytes_per_s * limits.rate_window_s
        self._waited_s = 0.0
        self._got_bytes = 0

    @property
    def left_s(self) -> float:
        """Give the seconds until the window ends."""
        return self._window_s - self._waited_s

    def count(self, got_bytes: int, waited_s: float) -> None:
        """Add one read; at the end of a window look whether it brought enough."""
        self._got_bytes += got_bytes
        self._waited_s += waited_s
        if self._got_bytes >= self._least_bytes:
            self._waited_s, self._got_bytes = 0.0, 0
        elif self._waited_s >= self._window_s and got_bytes:
            raise TimedOut("the answer comes too slowly")

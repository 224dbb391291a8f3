"""Who holds event streams: how many an account and this process may have, and whose they are."""

from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from limner.core.errors import Busy, TooMany
from limner.core.logs import get_logger
from limner.http.auth.callers import Caller
from limner.http.listener import room
from limner.http.stream import Stream

STREAMS_PER_ACCOUNT = 2_000
STREAMS_PART = 0.9
"""Of all connections that this process can have; the others stay for plain requests."""
RETRY_AFTER_S = 15.0

log = get_logger("sse")


class Seat:
    """A request that holds a stream, from before its head is sent to its end."""

    __slots__ = ("_request", "caller", "stream")

    def __init__(self, request: web.Request, caller: Caller) -> None:
        self._request = request
        self.caller = caller
        self.stream: Stream | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the client has left, which its stream learns at the next write only."""
        transport = self._request.transport
        return transport is None or transport.is_closing()


class Seats:
    """All seats of a process, by account.

    Args:
        limit: of this process; None for as many as its connections leave.
        per_account: of one account.
    """

    def __init__(self, limit: int | None = None, per_account: int = STREAMS_PER_ACCOUNT) -> None:
        self._limit = limit if limit is not None else max(1, int(room() * STREAMS_PART))
        self._per_account = per_account
        self._seats: dict[str, set[Seat]] = {}
        self._count = 0

    def __len__(self) -> int:
        """Give how many are taken."""
        return self._count

    @contextmanager
    def taken(self, request: web.Request, caller: Caller) -> Iterator[Seat]:
        """Hold a seat while the block runs.

        Raises:
            TooMany: the account has as many as it may.
            Busy: the process has.
        """
        self._check(caller.id)
        seat = Seat(request, caller)
        mine = self._seats.setdefault(caller.id, set())
        mine.add(seat)
        self._count += 1
        try:
            yield seat
        finally:
            self._count -= 1
            mine.discard(seat)
            if not mine and self._seats.get(caller.id) is mine:
                del self._seats[caller.id]

    def _check(self, account: str) -> None:
        mine = self._seats.get(account, set())
        if len(mine) >= self._per_account:
            there = sum(not seat.is_empty for seat in mine)
            if there >= self._per_account:
                raise TooMany(
                    f"an account can have {self._per_account} streams at once; close one",
                    code="too_many_streams",
                    retry_after_s=RETRY_AFTER_S,
                )
        if self._count >= self._limit:
            log.warning("no stream is left for a client", streams=self._count)
            raise Busy("this server has no stream left; try again", retry_after_s=RETRY_AFTER_S)

    def of(self, account: str) -> list[Stream]:
        """Give an account's streams."""
        return [seat.stream for seat in self._seats.get(account, ()) if seat.stream is not None]

    def streams(self) -> list[Stream]:
        """Give all streams."""
        return [stream for account in self._seats for stream in self.of(account)]

"""Streams end when their caller may not be here any more: a session revoked, a key, an account.

Where an event tells of it, at once; and whatever nobody heard of, within ``RECHECK_S``. Who calls
is remembered for some seconds, so that a stream could open on what another process has revoked
already: the database is asked about each stream as it opens, and those seconds do not add up.
"""

import asyncio
from contextlib import suppress

from limner.core.message import Event
from limner.http.auth.callers import forget_session, still_valid
from limner.http.ports import Front
from limner.http.seats import Seats
from limner.http.stream import Stream

RECHECK_S = 4.0
SESSION_REVOKED = "session.revoked"


class Revocation:
    """Ends streams of a process."""

    def __init__(self, front: Front, seats: Seats) -> None:
        self._front = front
        self._seats = seats
        self._doubted: set[str] = set()
        self._fresh = set[Stream]()
        self._news = asyncio.Event()

    def hear(self, event: Event) -> None:
        """Take note of an event; its subject is a session, or an account with all its sessions."""
        if event.type != SESSION_REVOKED:
            return
        ident, owner = event.subject.get("id", ""), event.user_id or ""
        forget_session(self._front, ident)
        if ident == owner:
            # All but one, perhaps: the database knows which.
            self._doubted.add(owner)
            self._news.set()
            return
        for stream in self._seats.of(owner):
            if stream.caller.session is not None and stream.caller.session.id == ident:
                stream.end()

    def doubt(self, stream: Stream) -> None:
        """Have the database asked about a stream's caller, whom only this process's memory knows.

        Many that open while it is being asked are asked about together.
        """
        self._fresh.add(stream)
        self._news.set()

    def trust(self, stream: Stream) -> None:
        """Ask no more about a stream that is over."""
        self._fresh.discard(stream)

    async def run(self) -> None:
        """Ask the database again and again about everybody, and at once about who is in doubt.

        Raises:
            EngineUnavailable: the database does not answer.
        """
        loop = asyncio.get_running_loop()
        # At once: what was in doubt when the database was away last is not known any more.
        due_s = loop.time()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due_s):
                    await self._news.wait()
            self._news.clear()
            doubted, self._doubted = self._doubted, set()
            fresh, self._fresh = self._fresh, set()
            if loop.time() >= due_s:
                due_s = loop.time() + RECHECK_S
                streams = self._seats.streams()
            else:
                streams = [stream for owner in doubted for stream in self._seats.of(owner)]
                streams += fresh
            valid = await still_valid(self._front, {stream.caller for stream in streams})
            for stream in streams:
                if stream.caller not in valid:
                    stream.end()

"""The poller: reads sources page by page and hands each new comment to the intent actor.

A page is one message and one unit: its comments, the cursor behind it and the message for the next
page are committed together or not at all, so that whatever dies in between, the page is read again
and nothing is skipped or doubled. ``Source.poll_id`` names the poll that may do so. Reading changes
nothing over there, so the same message may fetch its page as often as it takes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from limner.actors.intent.messages import Read
from limner.actors.poller.connector import CURSOR_REFUSED, Connector, Fetched, Page
from limner.actors.poller.connectors import CONNECTORS
from limner.actors.poller.messages import Poll
from limner.actors.ports import Ports
from limner.core.actor import Actor
from limner.core.backoff import Backoff
from limner.core.errors import EngineUnavailable, NotConfigured, Transient
from limner.core.ids import derived_id, new_id
from limner.core.logs import get_logger
from limner.core.message import new_trace_id
from limner.core.unit import Dead, UnitOfWork
from limner.storage.sql.comments import TEXT_LENGTH, Comment
from limner.storage.sql.connection import FromNow
from limner.storage.sql.leases import Leases
from limner.storage.sql.sources import Source

MAX_PAGES = 50
AUTHOR_LENGTH = 255
ERROR_LENGTH = 1000
BACKOFF = Backoff()
# Leases a poll holds while its next message waits in the queue. If it waits longer, the next poll
# takes over where this one stands.
WAITING_LEASES = 4

log = get_logger("poller")


class Poller:
    """Fetches one page of one source per message."""

    def __init__(self, connectors: Mapping[str, Connector], leases: Leases) -> None:
        self._connectors = connectors
        self._leases = leases
        self._waiting_s = WAITING_LEASES * leases.lease_s

    async def handle(self, message: Poll, work: UnitOfWork) -> None:
        """Claim the source for this poll, fetch the page at its cursor, save what is new.

        Raises:
            Stale: another poll of the source runs.
            LeaseLost: another poll took over, or the source was paused.
            Permanent: the feed refuses, cannot be read, or is set up wrongly.
        """
        source = await Source.found(message.source_id)
        if source is None or source.state != "active":
            return
        source = await self._claim(source, message, work)
        if source is None:
            return
        try:
            async with self._leases.keep(source, source.token):
                page = await self._connector(source).fetch(
                    source.options, source.external_id, source.cursor
                )
        except EngineUnavailable:
            raise
        except Transient as error:
            self._wait(source, error, work)
            return
        await self._save(source, message, page, work)

    async def abandon(self, message: Poll, reason: str, work: UnitOfWork) -> None:
        """End the poll as broken, so that the next goes on from the cursor, and show the reason.

        If the feed refused a cursor that was saved long ago, going on from it would fail for
        ever: the next poll begins anew, and as a broken one reads on past what it knows.
        """
        source = await Source.found(message.source_id)
        poll_id = _poll_id(message, work)
        if source is None or source.poll_id != poll_id:
            return
        changes: dict[str, Any] = {}
        refused = isinstance(work.fate, Dead) and work.fate.reason == CURSOR_REFUSED
        if refused and message.page == 1:
            changes["cursor"] = ""
        work.change(
            source,
            guard={"poll_id": poll_id},
            poll_id="",
            lease_until=None,
            broken=True,
            last_polled_at=work.now,
            last_error=reason[:ERROR_LENGTH],
            **changes,
        )

    async def _claim(self, source: Source, message: Poll, work: UnitOfWork) -> Source | None:
        """Give the source, held by this message's poll; None if that poll is over.

        Raises:
            Stale, LeaseLost: as ``handle``.
        """
        poll_id = _poll_id(message, work)
        if source.poll_id == poll_id:
            await self._leases.renew(source, source.token)
            return source
        if message.poll_id:
            return None
        changes: dict[str, Any] = {"poll_id": poll_id}
        if source.poll_id:
            changes["broken"] = True  # Whoever ran that poll has died, or it was paused.
        elif not source.broken and source.options.get("resume") is not True:
            changes["cursor"] = ""
        await work.begin(
            source, expected="active", to="active", lease_s=self._leases.lease_s, **changes
        )
        # Read again under the lease: a poll may have begun and broken off since the first look.
        return await Source.found(source.id)

    def _connector(self, source: Source) -> Connector:
        try:
            return self._connectors[source.connector]
        except KeyError:
            raise NotConfigured(f"there is no connector {source.connector}") from None

    def _wait(self, source: Source, error: Transient, work: UnitOfWork) -> None:
        """Keep the claim while the same message waits for its next attempt."""
        attempt = work.envelope.attempt if work.envelope else 1
        after_s = error.retry_after_s
        if after_s is None:
            after_s = BACKOFF.delay_s(attempt)
        work.change(
            source,
            guard=_guard(source),
            lease_until=FromNow(after_s + self._waiting_s),
            last_error=error.detail[:ERROR_LENGTH],
        )
        work.retry(error.detail, after_s=after_s)

    async def _save(self, source: Source, message: Poll, page: Page, work: UnitOfWork) -> None:
        """Collect the page's unit: new comments, cursor, and the next page or the poll's end."""
        new = await _unknown(source, page.comments)
        _take(source, new, work)
        more = page.has_more and page.next_cursor not in {"", source.cursor}
        # What a poll that broke off had read before lies between its start and its end: only the
        # feed's end ends it, else pages that moved meanwhile would be skipped.
        exhausted = not more or not (new or source.broken)
        changes: dict[str, Any]
        if exhausted or message.page >= MAX_PAGES:
            unread = not exhausted and bool(new)
            changes = {"poll_id": "", "lease_until": None, "broken": unread}
        else:
            changes = {"lease_until": FromNow(self._waiting_s)}
            work.send(Poll(source_id=source.id, poll_id=source.poll_id, page=message.page + 1))
        work.change(
            source,
            guard=_guard(source),
            cursor=page.next_cursor or source.cursor,
            last_polled_at=work.now,
            last_error="",
            **changes,
        )
        log.info(
            "page read",
            source_id=source.id,
            page=message.page,
            comments=len(page.comments),
            new=len(new),
        )


def _poll_id(message: Poll, work: UnitOfWork) -> str:
    """Give the poll a message belongs to: one without an id begins the poll of its own name."""
    if message.poll_id or work.envelope is None:
        return message.poll_id
    return derived_id("poll", work.envelope.app_id, work.envelope.message_id)


def _guard(source: Source) -> dict[str, Any]:
    return {"state": "active", "poll_id": source.poll_id, "token": source.token}


async def _unknown(source: Source, comments: Sequence[Fetched]) -> list[Fetched]:
    """Give the comments that are not stored yet, each once, in the feed's order."""
    each: dict[str, Fetched] = {}
    for comment in comments:
        each.setdefault(comment.external_id, comment)
    stored = await Comment.filter(source_id=source.id, external_id__in=list(each)).only(
        "external_id"
    )
    known = {row.external_id for row in stored}
    return [comment for ident, comment in each.items() if ident not in known]


def _take(source: Source, comments: Sequence[Fetched], work: UnitOfWork) -> None:
    """Add rows for ``comments`` with one insert; each starts a trace of its own."""
    rows = [_row(source, comment) for comment in comments]
    work.add(*rows)
    poll_trace_id = work.trace_id
    for row in rows:
        work.follow(row.trace_id)
        work.send(Read(comment_id=row.id))
    work.follow(poll_trace_id)


def _row(source: Source, comment: Fetched) -> Comment:
    text = comment.text.replace("\x00", "")
    return Comment(
        id=new_id("comment"),
        user_id=source.user_id,
        trace_id=new_trace_id(),
        state="new",
        source_id=source.id,
        external_id=comment.external_id,
        author=comment.author.replace("\x00", "")[:AUTHOR_LENGTH],
        text=text[:TEXT_LENGTH],
        reason="" if len(text) <= TEXT_LENGTH else f"text cut at {TEXT_LENGTH} characters",
    )


def build(ports: Ports) -> Actor[Poll]:
    """Build the poller with a connector of each kind."""
    connectors = {name: kind(ports.outgoing, ports.secrets) for name, kind in CONNECTORS.items()}
    return Actor(name="poller", inbox=Poll, handler=Poller(connectors, ports.leases))

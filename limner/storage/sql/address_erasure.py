"""Erasing everything that is known of one mail address, whoever it belongs to.

Nothing here names the address in a log or in the audit log. Each step finds what is left, so that
the whole can be repeated, also after it broke off.
"""

import asyncio
import json
import re
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from tortoise.expressions import Q
from tortoise.models import Model
from tortoise.queryset import QuerySet

from limner.core.errors import Conflict
from limner.storage.sql.comments import Comment
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.erasure import CONSUMER, PIECE, TRIES, Eraser
from limner.storage.sql.language import LanguageAnswer
from limner.storage.sql.mailbox import MailboxMail
from limner.storage.sql.messaging import DeadLetter, OutboxRow
from limner.storage.sql.reading import batches
from limner.storage.sql.suppressions import forget_address
from limner.storage.sql.tasks import Task

OF_OWNERS = ("mailer.link", "mailer.account", "generator.generate")
CARRIERS = ("mailer.send", *OF_OWNERS)
"""Commands that may carry an address; all others carry ids."""
FORGET = "sweeper.forget"
"""Carries one too. It must not be taken back while it waits: it may be the one at work."""
REDACTED = b"{}"

Mentions = Callable[[str], bool]

M = TypeVar("M", bound=Model)


@dataclass
class Erased:
    """How many objects of each kind were erased."""

    tasks: int = 0
    comments: int = 0
    deliveries: int = 0
    mails: int = 0
    language_answers: int = 0
    messages: int = 0


@dataclass(frozen=True)
class AddressEraser:
    """Erases one address.

    Args:
        eraser: what erases single objects.
        forms: the address as it may be stored, in lower case.
        mentions: whether a text names the address, also spelled out; may be slow, runs in threads.
        until: only what was made until then; None: everything.
    """

    eraser: Eraser
    forms: Sequence[str]
    mentions: Mentions
    until: datetime | None = None

    async def erase(self) -> Erased:
        """Erase what tasks, comments, mails, stored answers and messages know of the address.

        A suppression stays as a hash, so that nobody writes to it all the same.

        Raises:
            Conflict: an object moved on each time it was tried.
        """
        erased = Erased()
        # Before the tasks, with which the mails of their deliveries go uncounted.
        erased.mails = await self._mails()
        erased.tasks = await self._tasks()
        erased.comments = await self._comments()
        erased.deliveries = await self.eraser.deliveries(Delivery.filter(self._is("address")))
        erased.mails += await self._mails()
        erased.language_answers = await self._answers()
        erased.messages = await self._letters((*CARRIERS, FORGET)) + await self._waiting(CARRIERS)
        await self._hide_suppression()
        await self._rest()
        return erased

    async def forget_owner(self) -> None:
        """Erase what is left of who had an account with the address, and has deleted it.

        What other accounts have for the address is theirs and stays: tasks, comments, mails that
        belong to no account, identities.
        """
        await self._answers()
        await self._letters((*OF_OWNERS, FORGET))
        await self._waiting(OF_OWNERS)
        await self._hide_suppression()

    def _old(self, rows: "QuerySet[M]") -> "QuerySet[M]":
        return rows if self.until is None else rows.filter(created_at__lte=self.until)

    async def _mails(self) -> int:
        return await self.eraser.mails(MailboxMail.filter(self._is("recipient")))

    def _is(self, column: str) -> Q:
        return Q(*(Q(**{f"{column}__iexact": form}) for form in self.forms), join_type="OR")

    async def _tasks(self) -> int:
        erased = 0
        while found := await Task.filter(self._is("email")).limit(PIECE):
            for task in found:
                await self.eraser.task(task.id)
            erased += len(found)
        return erased

    async def _comments(self) -> int:
        """Erase comments that name the address, whatever was found in them at the time."""
        erased = 0
        rows = Comment.filter(~Q(text="", author=""))
        async for comment in self._naming(rows, lambda row: [row.text, row.author]):
            await self._comment(comment)
            erased += 1
        return erased

    async def _comment(self, comment: Comment) -> None:
        """Erase one, with what has come of it until then.

        Raises:
            Conflict: it moved on each time it was tried.
        """
        for _ in range(TRIES):
            task = await Task.get_or_none(comment_id=comment.id)
            if task is not None:
                await self._wish(task)
            if await self.eraser.comment(comment):
                return
            # It was read meanwhile, and may have become a task.
            comment = await Comment.get(id=comment.id)
        raise Conflict("a comment moves on too fast to be erased; try again", code="stale")

    async def _wish(self, task: Task) -> None:
        """Erase a task whose comment names the address; one for another address only forgets it."""
        if not task.email or task.email.lower() in self.forms:
            await self.eraser.task(task.id)
            return
        work = self.eraser.units.open(CONSUMER)
        work.change(task, comment_text="", author="")
        await self.eraser.units.commit(work)

    async def _answers(self) -> int:
        erased = 0
        rows = LanguageAnswer.all()
        async for row in self._naming(rows, lambda row: leaves(row.answer)):
            await self._run("DELETE FROM language_answers WHERE id = ?", row.id)
            erased += 1
        return erased

    async def _letters(self, topics: Sequence[str]) -> int:
        """Empty the dead letters that carry the address; there is nothing left to send again."""
        erased = 0
        rows = DeadLetter.filter(topic__in=topics)
        async for row in self._naming(rows, lambda row: texts_of(row.body)):
            await self._run(
                "UPDATE dead_letters SET body = ?, detail = '' WHERE id = ?", REDACTED, row.id
            )
            await self._run(
                "UPDATE dead_letters SET state = 'discarded', settled_at = created_at "
                "WHERE id = ? AND state = 'open'",
                row.id,
            )
            erased += 1
        return erased

    async def _waiting(self, topics: Sequence[str]) -> int:
        """Take back messages to the address that wait to be handled."""
        erased = 0
        rows = OutboxRow.filter(topic__in=topics)
        async for row in self._naming(rows, lambda row: texts_of(row.body)):
            await self._run("DELETE FROM outbox WHERE id = ?", row.id)
            erased += 1
        return erased

    async def _naming(
        self, rows: "QuerySet[M]", texts: Callable[[M], Iterable[str]]
    ) -> AsyncIterator[M]:
        """Give the rows one of whose ``texts`` names the address; they are looked at in threads."""
        pattern = pattern_of(self.forms)

        def named(batch: Sequence[M]) -> list[M]:
            return [row for row in batch if any(map(names, texts(row)))]

        def names(text: str) -> bool:
            return bool(pattern.search(normal(text))) or self.mentions(text)

        async for batch in batches(self._old(rows), "created_at"):
            for row in await asyncio.to_thread(named, batch):
                yield row

    async def _hide_suppression(self) -> None:
        work = self.eraser.units.open(CONSUMER)
        for form in self.forms:
            work.step(forget_address(form))
        await self.eraser.units.commit(work)

    async def _rest(self) -> None:
        """Erase what belongs to somebody else's account."""
        for form in self.forms:
            await self._run("DELETE FROM action_links WHERE LOWER(email) = ?", form)
            await self._run("UPDATE identities SET email = '' WHERE LOWER(email) = ?", form)

    async def _run(self, sql: str, *values: object) -> None:
        await self.eraser.database.write().execute(sql, values)


LETTERS = r"a-z0-9\u00c0-\u024f\u0370-\u052f"
"""Of alphabets whose words stand apart; Chinese is written right up to an address."""


def pattern_of(forms: Sequence[str]) -> re.Pattern[str]:
    """Give what finds an address in a text in normal form, and not in a longer address.

    Before it is nothing that mail providers give in local parts: anna@example.com is not in
    joanna@example.com, but it is in ?email=anna@example.com, although RFC 5322 (section 3.2.3)
    allows ``?email=anna`` as well. Behind it no label goes on and none follows: it is neither in
    anna@example.com.au nor in anna@example.com-x.org, but it is in anna@example.com-thanks.
    """
    either = "|".join(re.escape(normal(form)) for form in forms)
    longer = rf"[{LETTERS}]|-[a-z0-9-]*+\.[a-z0-9]|\.[a-z0-9]"
    return re.compile(rf"(?<![{LETTERS}.+_-])(?:{either})(?!{longer})")


def normal(text: str) -> str:
    """Give a text in the form in which addresses are compared: NFKC, in lower case."""
    return unicodedata.normalize("NFKC", text).lower()


def texts_of(body: bytes) -> Iterator[str]:
    """Give the texts that a message's body carries; one that is no JSON is a text itself."""
    try:
        parsed = json.loads(bytes(body))
    except (ValueError, RecursionError):
        yield bytes(body).decode(errors="replace")
    else:
        yield from leaves(parsed)


def leaves(value: object) -> Iterator[str]:
    """Give all texts of a JSON value, names of members too, in any order."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, Mapping):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, Sequence):
            waiting += one

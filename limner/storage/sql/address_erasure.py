"""Erasing everything that is known of one mail address, whoever it belongs to.

Nothing here names the address in a log or in the audit log. Each step finds what is left, so that
the whole can be repeated, also after it broke off.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tortoise.expressions import Q

from limner.storage.sql.comments import Comment
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.erasure import CONSUMER, PIECE, Eraser
from limner.storage.sql.language import LanguageAnswer
from limner.storage.sql.messaging import DeadLetter, OutboxRow
from limner.storage.sql.reading import batches
from limner.storage.sql.suppressions import forget_address
from limner.storage.sql.tasks import Task

CARRIERS = ("mailer.send", "mailer.link", "mailer.account", "generator.generate")
"""Commands that may carry an address; all others carry ids."""
REDACTED = b"{}"

Mentions = Callable[[str], bool]


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
    """

    eraser: Eraser
    forms: Sequence[str]
    mentions: Mentions

    async def erase(self) -> Erased:
        """Erase what tasks, comments, mails, stored answers and messages know of the address.

        A suppression stays as a hash, so that nobody writes to it all the same.
        """
        erased = Erased()
        erased.tasks = await self._tasks()
        erased.comments = await self._comments()
        erased.deliveries = await self.eraser.deliveries(Delivery.filter(self._is("address")))
        erased.mails = await self.eraser.mails(*self.forms)
        erased.language_answers = await self._answers()
        erased.messages = await self._letters() + await self._waiting()
        await self._rest()
        return erased

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
        async for batch in batches(Comment.exclude(text=""), "created_at"):
            for comment in await asyncio.to_thread(self._named, batch):
                task = await Task.get_or_none(comment_id=comment.id)
                if task is not None:
                    await self._wish(task)
                await self.eraser.comment(comment)
                erased += 1
        return erased

    def _named(self, comments: Sequence[Comment]) -> list[Comment]:
        return [one for one in comments if self.mentions(one.text) or self.mentions(one.author)]

    async def _wish(self, task: Task) -> None:
        """Erase a task whose comment names the address; one for another address only forgets it."""
        if not task.email:
            await self.eraser.task(task.id)
            return
        work = self.eraser.units.open(CONSUMER)
        work.change(task, comment_text="", author="")
        await self.eraser.units.commit(work)

    async def _answers(self) -> int:
        erased = 0
        async for batch in batches(LanguageAnswer.all(), "created_at"):
            texts = {row.id: json.dumps(row.answer, ensure_ascii=False) for row in batch}
            named = [ident for ident, text in texts.items() if self._holds(text)]
            for ident in named:
                await self._run("DELETE FROM language_answers WHERE id = ?", ident)
            erased += len(named)
        return erased

    async def _letters(self) -> int:
        """Empty the dead letters that carry the address; there is nothing left to send again."""
        erased = 0
        rows = DeadLetter.filter(topic__in=CARRIERS)
        async for batch in batches(rows, "created_at"):
            for row in batch:
                if self._holds(bytes(row.body).decode(errors="replace")):
                    await self._run(
                        "UPDATE dead_letters SET body = ?, detail = '' WHERE id = ?",
                        REDACTED,
                        row.id,
                    )
                    await self._run(
                        "UPDATE dead_letters SET state = 'discarded', settled_at = created_at "
                        "WHERE id = ? AND state = 'open'",
                        row.id,
                    )
                    erased += 1
        return erased

    async def _waiting(self) -> int:
        """Take back messages to the address that wait to be handled."""
        erased = 0
        async for batch in batches(OutboxRow.filter(topic__in=CARRIERS), "created_at"):
            for row in batch:
                if self._holds(bytes(row.body).decode(errors="replace")):
                    await self._run("DELETE FROM outbox WHERE id = ?", row.id)
                    erased += 1
        return erased

    def _holds(self, text: str) -> bool:
        lower = text.lower()
        return any(form in lower for form in self.forms)

    async def _rest(self) -> None:
        """Erase what belongs to somebody else's account, and hide the suppression."""
        work = self.eraser.units.open(CONSUMER)
        for form in self.forms:
            work.step(forget_address(form))
        await self.eraser.units.commit(work)
        for form in self.forms:
            await self._run("DELETE FROM action_links WHERE LOWER(email) = ?", form)
            await self._run("UPDATE identities SET email = '' WHERE LOWER(email) = ?", form)

    async def _run(self, sql: str, *values: object) -> None:
        await self.eraser.database.write().execute(sql, values)

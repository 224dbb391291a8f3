"""Erasing personal data for good: of one task, of one account, of one mail address.

Everything works in small pieces, each a unit of its own, and can be repeated from the start: what
is erased is not found again. Rows stay where others count on them, without what was personal in
them: a comment's id keeps it from being read twice, a task's states keep the numbers true. The
audit log is not touched; its lines hold ids.
"""

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any

from tortoise.expressions import Q
from tortoise.queryset import QuerySet

from limner.core.errors import Conflict
from limner.core.message import Message
from limner.core.objects import LIST_MAX, ObjectStore
from limner.core.unit import Commit, UnitOfWork, Units
from limner.storage.sql.comments import Comment
from limner.storage.sql.connection import Connection, marks
from limner.storage.sql.database import Database
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.jobs import CANCELLED, QUEUED, RUNNING, Job
from limner.storage.sql.language import LanguageAnswer
from limner.storage.sql.mailbox import MailboxMail
from limner.storage.sql.reading import batches
from limner.storage.sql.sources import Source, delete_source
from limner.storage.sql.tasks import Task
from limner.storage.sql.users import avatars_of

CONSUMER = "erasure"
PIECE = 100
TRIES = 5
ERASED = "erased"
LATER_S = 30.0
"""A job that is being made is told to stop, and looked at again after so many seconds."""

NO_COMMENT: dict[str, Any] = {"text": "", "author": "", "reason": ""}
NO_TASK: dict[str, Any] = {
    "email": "",
    "comment_text": "",
    "author": "",
    "prompt": "",
    "error": "",
    "result_key": "",
    "result_type": "",
    "poster_key": "",
}
NO_JOB: dict[str, Any] = {
    "prompt": "",
    "negative_prompt": "",
    "outputs": [],
    "warnings": [],
    "error": "",
}
NO_DELIVERY: dict[str, Any] = {"address": "", "subject": "", "variables": {}, "error": ""}
NO_SOURCE: dict[str, Any] = {
    "name": ERASED,
    "external_id": "",
    "options": {},
    "cursor": "",
    "last_error": "",
}
ERASED_SOURCE = Q(state="deleted", **NO_SOURCE)


@dataclass(frozen=True)
class Eraser:
    """Erases with what it is given; ``later`` makes the command that looks at a task again."""

    units: Units
    database: Database
    objects: ObjectStore
    later: Callable[[str], Message]

    async def task(self, task_id: str) -> None:
        """Erase what a task says and made: its comment, jobs, mails, pictures and timeline.

        A task that has not ended is cancelled. A job that is being made is told to stop, and
        ``later`` comes back for it.

        Raises:
            Conflict: the task moved on each time it was tried.
        """
        for _ in range(TRIES):
            task = await Task.get_or_none(id=task_id)
            if task is None:
                return
            jobs = await Job.filter(task_id=task_id)
            work = self.units.open(CONSUMER)
            work.follow(task.trace_id)
            work.step(_forget_lines([task.id, *(job.id for job in jobs)]))
            _blank_task(work, task)
            comment = await Comment.get_or_none(id=task.comment_id)
            if comment is not None:
                work.change(comment, **NO_COMMENT)
            deliveries = await Delivery.filter(task_id=task_id)
            await self._kept_mails(deliveries)
            for delivery in deliveries:
                _blank_delivery(work, delivery)
            for job in jobs:
                _blank_job(work, job)
            if any(job.state == RUNNING for job in jobs):
                work.send(self.later(task_id), after_s=LATER_S)
            if await self.units.commit(work) is not Commit.STALE:
                await self._drop(key for key in (task.result_key, task.poster_key) if key)
                for job in jobs:
                    await self._drop_outputs(job)
                return
        raise Conflict("a task moves on too fast to be erased; try again", code="stale")

    async def job(self, job_id: str) -> None:
        """Erase a job that belongs to no task, unless it is being made: then stop it.

        Raises:
            Conflict: the job moved on each time it was tried.
        """
        for _ in range(TRIES):
            job = await Job.get_or_none(id=job_id)
            if job is None:
                return
            work = self.units.open(CONSUMER)
            work.step(_forget_lines([job.id]))
            _blank_job(work, job)
            if await self.units.commit(work) is not Commit.STALE:
                await self._drop_outputs(job)
                return
        raise Conflict("a job moves on too fast to be erased; try again", code="stale")

    async def _drop_outputs(self, job: Job) -> None:
        if job.state == RUNNING:
            return
        await self._drop_all(f"jobs/{job.id}/")

    async def _drop_all(self, prefix: str) -> None:
        while entries := await self.objects.list(prefix, limit=LIST_MAX):
            await self._drop(entry.key for entry in entries)

    async def _drop(self, keys: Iterable[str]) -> None:
        for key in keys:
            await self.objects.delete(key)

    async def deliveries(self, rows: "QuerySet[Delivery]") -> int:
        """Erase the mails that ``rows`` finds and give how many."""
        erased = 0
        while found := await rows.exclude(address="").limit(PIECE):
            await self._kept_mails(found)
            for delivery in found:
                work = self.units.open(CONSUMER)
                _blank_delivery(work, delivery)
                await self.units.commit(work)
            erased += len(found)
        return erased

    async def _kept_mails(self, deliveries: Sequence[Delivery]) -> None:
        """Erase what the mailbox has kept of these mails."""
        names = [delivery.message_id for delivery in deliveries]
        if names:
            await self.mails(MailboxMail.filter(message_id__in=names))

    async def mails(self, rows: "QuerySet[MailboxMail]") -> int:
        """Erase the mailbox's mails that ``rows`` finds, with their objects; give how many."""
        erased = 0
        while found := await rows.limit(PIECE):
            for mail in found:
                await self.objects.delete(mail.raw_key)
                await self.database.write().execute("DELETE FROM mailbox WHERE id = ?", [mail.id])
            erased += len(found)
        return erased

    async def account(self, user_id: str, limit: int) -> bool:
        """Erase what a deleted account made, at most ``limit`` objects; give whether all is done.

        Its picture, sources, tasks, jobs, comments, mails and sessions. False also while a job is
        being made.
        """
        await self._drop_all(avatars_of(user_id))
        sources = await Source.filter(Q(user_id=user_id) & ~ERASED_SOURCE).limit(limit)
        for source in sources:
            await self._source(source)
        limit -= len(sources)
        tasks = await Task.filter(_with_content(user_id)).limit(limit)
        await self._answers({task.email.lower() for task in tasks if task.email})
        for task in tasks:
            await self.task(task.id)
        jobs = await Job.filter(user_id=user_id).exclude(prompt="").limit(limit)
        for job in jobs:
            await self.job(job.id)
        await self.deliveries(Delivery.filter(user_id=user_id))
        comments = await self._comments(user_id, limit)
        await self._forget_sessions(user_id)
        return not (limit <= 0 or sources or tasks or jobs or comments)

    async def _source(self, source: Source) -> None:
        """Erase a source; one that has moved on meanwhile is found again by the next piece."""
        work = self.units.open(CONSUMER)
        if source.state != "deleted":
            delete_source(work, source)
        work.change(source, **NO_SOURCE)
        await self.units.commit(work)

    async def _comments(self, user_id: str, limit: int) -> int:
        wanted = Q(user_id=user_id) & ~Q(text="", author="")
        found = await Comment.filter(wanted).limit(limit)
        for comment in found:
            await self.comment(comment)
        return len(found)

    async def comment(self, comment: Comment) -> bool:
        """Erase what a comment says and who wrote it; False if it has moved on meanwhile.

        One that is still to be read, or is being read, is ignored: nothing may come of it.
        """
        work = self.units.open(CONSUMER)
        if comment.state == "new":
            work.move(comment, expected="new", to="ignored", **NO_COMMENT)
        else:
            work.change(comment, guard={"state": comment.state}, **NO_COMMENT)
        return await self.units.commit(work) is not Commit.STALE

    async def _answers(self, addresses: Set[str]) -> None:
        """Erase what the language model answered about wishes for these addresses."""
        if not addresses:
            return
        writer = self.database.write()
        async for batch in batches(LanguageAnswer.all(), "created_at"):
            for row in batch:
                if str(row.answer.get("email") or "").lower() in addresses:
                    await writer.execute("DELETE FROM language_answers WHERE id = ?", [row.id])

    async def _forget_sessions(self, user_id: str) -> None:
        writer = self.database.write()
        for table in ("refresh_tokens", "sessions"):
            await writer.execute(f"DELETE FROM {table} WHERE user_id = ?", [user_id])  # noqa: S608


async def is_erasing(database: Database) -> bool:
    """Whether anything is still to be erased of deleted accounts, or of jobs of erased tasks."""
    account = (
        "SELECT 1 FROM users WHERE state = 'deleted' AND NOT EXISTS (SELECT 1 FROM audit "
        "WHERE audit.subject = users.id AND audit.event = 'user.erased') LIMIT 1"
    )
    job = (
        "SELECT 1 FROM jobs JOIN tasks ON tasks.id = jobs.task_id "
        "WHERE jobs.prompt <> '' AND tasks.prompt = '' LIMIT 1"
    )
    reader = database.read()
    return bool(await reader.query(account) or await reader.query(job))


def _with_content(user_id: str) -> Q:
    """Give the condition of an account's tasks that are not erased yet."""
    blank = Q(email="", comment_text="", author="", prompt="", state__in=list(Task.ended_states()))
    return Q(user_id=user_id) & ~blank


def _blank_task(work: UnitOfWork, task: Task) -> None:
    if Task.ended(task.state):
        work.change(task, guard={"state": task.state}, **NO_TASK)
    else:
        work.move(task, expected=task.state, to="cancelled", detail=ERASED, **NO_TASK)


def _blank_job(work: UnitOfWork, job: Job) -> None:
    """Blank a job; one that is being made keeps its row until it has stopped."""
    if job.state == RUNNING:
        work.change(job, guard={"state": RUNNING}, cancel_requested=True)
    elif job.state == QUEUED:
        work.move(job, expected=QUEUED, to=CANCELLED, detail=ERASED, **NO_JOB)
    else:
        work.change(job, guard={"state": job.state}, **NO_JOB)


def _blank_delivery(work: UnitOfWork, delivery: Delivery) -> None:
    """Blank a mail; one that has not begun never will, one that is under way ends by itself."""
    if delivery.state == "pending":
        work.move(delivery, expected="pending", to="failed", **NO_DELIVERY | {"error": ERASED})
    else:
        work.change(delivery, **NO_DELIVERY)


def _forget_lines(idents: list[str]) -> Callable[[Connection], Any]:
    """Give the step that leaves of timelines what happened when, and nothing that was said."""

    async def write(connection: Connection) -> None:
        await connection.execute(
            "UPDATE timeline SET detail = '', data = '{}' "  # noqa: S608 - marks only
            f"WHERE object_id IN ({marks(idents)})",
            idents,
        )

    return write

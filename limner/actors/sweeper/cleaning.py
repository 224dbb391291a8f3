"""Cleaning by schedule: rows that have served their time, orphaned objects, personal data."""

from datetime import datetime, timedelta
from typing import Any

from limner.actors.ports import Ports
from limner.actors.sweeper.messages import Clean, Retain
from limner.actors.sweeper.unconfirmed import delete_unconfirmed
from limner.core.logs import get_logger
from limner.core.objects import SweepsTemporary
from limner.core.unit import UnitOfWork
from limner.storage.sql.connection import marks
from limner.storage.sql.jobs import Job
from limner.storage.sql.messaging import INBOX_LIFE_DAYS
from limner.storage.sql.tasks import Task
from limner.storage.sql.timeline import forget_lines

log = get_logger("sweeper")

ORPHAN_AGE_S = 86_400.0
RUN_LIFE_DAYS = 30
ENDED_LIFE_DAYS = 1
REQUEST_LIFE_DAYS = 1
NOTIFICATION_LIFE_DAYS = 90
ENDED = (
    "sign_in_links",
    "action_links",
    "authorizations",
    "refresh_tokens",
    "signing_keys",
)
"""Tables whose rows say when they end; they are kept a day longer, so that support can look."""
ROWS_PER_DELETE = 1_000
PAGE = 1_000
OBJECT_PREFIXES = ("avatars/", "jobs/", "results/", "mailbox/")
NAMED_BY = {
    "avatars/": "SELECT 1 FROM users WHERE id = ? AND avatar_key = ?",
    "jobs/": "SELECT 1 FROM jobs WHERE id = ? AND outputs LIKE ? UNION ALL "
    "SELECT 1 FROM tasks WHERE result_key = ? OR poster_key = ?",
    "results/": "SELECT 1 FROM tasks WHERE result_key = ? OR poster_key = ?",
    "mailbox/": "SELECT 1 FROM mailbox WHERE raw_key = ?",
}


class Cleaner:
    """Deletes what nothing needs any more."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def handle(self, message: Clean, work: UnitOfWork) -> None:
        """Delete old bookkeeping rows and objects that no row names."""
        now = work.now
        retention_days = (await self._ports.tunables.current()).retention_days
        removed = {
            "inbox": await self._delete("inbox", "at", now, INBOX_LIFE_DAYS),
            "schedule_runs": await self._delete("schedule_runs", "started_at", now, RUN_LIFE_DAYS),
            "requests": await self._delete(
                "idempotent_requests", "created_at", now, REQUEST_LIFE_DAYS
            ),
            "notifications": await self._delete(
                "notifications", "created_at", now, NOTIFICATION_LIFE_DAYS
            ),
            "dead_letters": await self._delete("dead_letters", "created_at", now, retention_days),
            "timeline": await self._timelines(now - timedelta(days=retention_days)),
            "objects": await self._orphans(now),
            "unfinished": await self._unfinished(),
            "accounts": await delete_unconfirmed(self._ports, now),
        }
        # ``idle_until`` is never later than the session's end in any case.
        for column in ("idle_until", "revoked_at"):
            removed[f"sessions {column}"] = await self._delete(
                "sessions", column, now, ENDED_LIFE_DAYS
            )
        for table in ENDED:
            removed[table] = await self._delete(table, "expires_at", now, ENDED_LIFE_DAYS)
        log.info("cleaned", **removed)

    async def _delete(self, table: str, column: str, now: datetime, days: int) -> int:
        """Delete rows older than ``days``, a bounded number per transaction."""
        before, total = now - timedelta(days=days), 0
        while True:
            removed = await self._ports.database.write().execute(
                f"DELETE FROM {table} WHERE id IN (SELECT id FROM (SELECT id FROM {table} "  # noqa: S608 - our own names
                f"WHERE {column} < ? LIMIT {ROWS_PER_DELETE}) AS old)",
                [before],
            )
            total += removed
            if removed < ROWS_PER_DELETE:
                return total

    async def _timelines(self, before: datetime) -> int:
        """Delete what happened to tasks and jobs that have ended for long."""
        writer = self._ports.database.write()
        return sum([await forget_lines(writer, model, before) for model in (Task, Job)])

    async def _unfinished(self) -> int:
        """Delete what a crash left of objects that were being written."""
        objects = self._ports.objects
        if not isinstance(objects, SweepsTemporary):
            return 0
        return await objects.sweep_temporary(ORPHAN_AGE_S)

    async def _orphans(self, now: datetime) -> int:
        """Delete objects that are older than ``ORPHAN_AGE_S`` and that no row names."""
        removed, before = 0, now - timedelta(seconds=ORPHAN_AGE_S)
        for prefix in OBJECT_PREFIXES:
            after: str | None = None
            while True:
                entries = await self._ports.objects.list(prefix, after=after, limit=PAGE)
                for entry in entries:
                    if entry.modified_at < before and not await self._named(prefix, entry.key):
                        await self._ports.objects.delete(entry.key)
                        removed += 1
                if len(entries) < PAGE:
                    break
                after = entries[-1].key
        return removed

    async def _named(self, prefix: str, key: str) -> bool:
        query = NAMED_BY[prefix]
        values: list[Any] = [key] * query.count("?")
        if prefix == "jobs/":
            # The job is the key's second part: without it, each key would look through all jobs.
            values[:2] = [key.split("/")[1], f'%"{key}"%']
        elif prefix == "avatars/":
            values[0] = key.split("/")[1]
        return bool(await self._ports.database.read().query(f"{query} LIMIT 1", values))


class Retainer:
    """Erases personal data after the retention time."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def handle(self, message: Retain, work: UnitOfWork) -> None:
        """Erase what commenters wrote and their addresses, in tasks that have ended for long."""
        days = (await self._ports.tunables.current()).retention_days
        before = work.now - timedelta(days=days)
        ended = tuple(Task.ended_states())
        writer = self._ports.database.write()
        await writer.execute(
            "UPDATE comments SET text = '', author = '' WHERE created_at < ? "  # noqa: S608 - marks
            "AND (text <> '' OR author <> '') "
            "AND (task_id IS NULL OR task_id IN (SELECT id FROM tasks WHERE updated_at < ? "
            f"AND state IN ({marks(ended)})))",
            [before, before, *ended],
        )
        await writer.execute(
            "UPDATE deliveries SET address = '', subject = '', variables = '{}', error = '' "  # noqa: S608 - marks only
            "WHERE created_at < ? AND (address <> '' OR subject <> '' OR error <> '') "
            # What became of a mail may stay unknown; once its task has ended nobody asks any more.
            "AND (state IN ('sent', 'failed', 'suppressed') OR (state = 'unknown' AND (task_id "
            f"IS NULL OR task_id IN (SELECT id FROM tasks WHERE state IN ({marks(ended)})))))",
            [before, *ended],
        )
        erased = await writer.execute(
            "UPDATE tasks SET email = '', comment_text = '', author = '' "  # noqa: S608 - marks only
            "WHERE updated_at < ? AND (email <> '' OR comment_text <> '' OR author <> '') "
            f"AND state IN ({marks(ended)})",
            [before, *ended],
        )
        await self._mails(before)
        await writer.execute("DELETE FROM language_answers WHERE created_at < ?", [before])
        work.audit("retention.erased", data={"tasks": erased, "days": days})

    async def _mails(self, before: datetime) -> None:
        reader, writer = self._ports.database.read(), self._ports.database.write()
        while rows := await reader.query(
            "SELECT id, raw_key FROM mailbox WHERE created_at < ? LIMIT 100", [before]
        ):
            for row in rows:
                await self._ports.objects.delete(str(row["raw_key"]))
                await writer.execute("DELETE FROM mailbox WHERE id = ?", [row["id"]])

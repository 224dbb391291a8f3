"""Sources: feeds of comments, where each was read up to, and how the last poll went.

Each source has one row in ``schedules`` that asks for its polls; the functions here keep the two
in step, in one unit. Nothing else creates, edits or deletes a source.
"""

import random
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, ClassVar

from tortoise import fields

from limner.core.ids import derived_id
from limner.core.message import Message
from limner.core.unit import UnitOfWork
from limner.storage.sql.aggregate import Leased, column_value
from limner.storage.sql.connection import Connection, FromNow
from limner.storage.sql.schedules import Schedule

JITTER = 0.1
# Options that do not say which feed it is, but with what right and from where on it is read, and
# what becomes of it: a poll that broke off goes on from its cursor once they are mended.
_SAME_FEED = frozenset({"headers", "xsec_token", "resume", "provider"})


class Source(Leased):
    """A feed. cursor is saved in the unit that saves a page's comments.

    ``poll_id`` names the poll that runs (empty: none); ``broken`` says that the last one ended
    half-way, so that the next goes on from ``cursor``.
    """

    kind: ClassVar[str] = "source"
    transitions: ClassVar[dict[str, frozenset[str]]] = {
        "active": frozenset({"paused", "deleted"}),
        "paused": frozenset({"active", "deleted"}),
        "deleted": frozenset(),
    }

    name = fields.CharField(200)
    connector = fields.CharField(64)
    external_id = fields.CharField(255, default="")
    interval_s = fields.IntField(default=120)
    options: dict[str, object] = fields.JSONField(default=dict)
    cursor = fields.CharField(2000, default="")
    broken = fields.BooleanField(default=False)
    poll_id = fields.CharField(48, default="")
    last_polled_at = fields.DatetimeField(null=True)
    last_error = fields.CharField(1000, default="")

    class Meta:
        table = "sources"


def schedule_of(source: Source, command: Message, work: UnitOfWork) -> Schedule:
    """Give the schedule that sends ``command`` every ``source.interval_s`` seconds.

    It first fires one interval from now: creating a source does not poll it.
    """
    return Schedule(
        id=derived_id("schedule", source.id),
        name=f"poll {source.id}",
        subject_id=source.id,
        interval_s=source.interval_s,
        jitter_s=source.interval_s * JITTER,
        topic=command.topic,
        body=command.to_bytes(),
        enabled=source.state == "active",
        fire_at=work.now + timedelta(seconds=_first_s(source.interval_s)),
        created_at=work.now,
    )


def create_source(work: UnitOfWork, source: Source, command: Message) -> None:
    """Insert a source and the schedule that sends ``command``, the one that polls it."""
    work.add(source, schedule_of(source, command, work))


def update_source(work: UnitOfWork, source: Source, **changes: Any) -> None:
    """Change name, connector, external_id, interval_s, options or state of a source.

    ``state`` may be ``active`` or ``paused``. Its schedule follows; if the source becomes another
    feed, a running poll ends and the next starts at the beginning. The unit is dropped (Stale) if
    the source has been deleted, or paused or resumed, in the meantime.
    """
    after = {name: changes.get(name, getattr(source, name)) for name in ("state", "interval_s")}
    if _feed(source, changes) != _feed(source, {}):
        changes |= {"cursor": "", "broken": False, "poll_id": "", "lease_until": None}
    if after["state"] != source.state:
        del changes["state"]
        work.move(source, expected=source.state, to=after["state"], **changes)
    else:
        work.change(source, guard={"state": source.state}, **changes)
    if after != {"state": source.state, "interval_s": source.interval_s}:
        work.step(_Reschedule(source.id, after["interval_s"], enabled=after["state"] == "active"))


def delete_source(work: UnitOfWork, source: Source) -> None:
    """Mark a source as deleted, end its poll and remove its schedule; its comments stay."""
    work.move(source, expected=("active", "paused"), to="deleted", poll_id="")

    async def unschedule(connection: Connection) -> None:
        await connection.execute("DELETE FROM schedules WHERE subject_id = ?", [source.id])

    work.step(unschedule)


class _Reschedule:
    """The step that gives a source's schedule another interval, or stops or resumes it."""

    def __init__(self, source_id: str, interval_s: int, *, enabled: bool) -> None:
        self._source_id = source_id
        self._interval_s = interval_s
        self._enabled = enabled

    async def __call__(self, connection: Connection) -> None:
        await connection.execute(
            "UPDATE schedules SET interval_s = ?, jitter_s = ?, enabled = ?, fire_at = ? "
            "WHERE subject_id = ?",
            [
                self._interval_s,
                self._interval_s * JITTER,
                column_value(Schedule, "enabled", self._enabled),
                FromNow(_first_s(self._interval_s)),
                self._source_id,
            ],
        )


def _first_s(interval_s: int) -> float:
    """Draw the seconds to the first fire time, so that sources made together spread."""
    return interval_s * (1 + random.uniform(0, JITTER))  # noqa: S311 - jitter, not a secret


def _feed(source: Source, changes: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Give what makes a source the feed it is."""
    connector, external_id, options = (
        changes.get(name, getattr(source, name)) for name in ("connector", "external_id", "options")
    )
    which = {name: value for name, value in options.items() if name not in _SAME_FEED}
    return connector, external_id, which

"""What is kept of an account, table by table, for whoever asks for all of it."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from tortoise.expressions import Q
from tortoise.models import Model

from limner.storage.sql.accounts import ApiKey, User
from limner.storage.sql.action_links import ActionLink
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.comments import Comment
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.identities import Identity
from limner.storage.sql.jobs import Job
from limner.storage.sql.mailbox import MailboxMail
from limner.storage.sql.notifications import Notification
from limner.storage.sql.reading import batches
from limner.storage.sql.sessions import Session
from limner.storage.sql.sources import Source
from limner.storage.sql.suppressions import Suppression, hashed
from limner.storage.sql.tasks import Task
from limner.storage.sql.timeline import TimelineLine

HIDDEN = frozenset({"password_hash", "sha256", "token", "totp_sealed", "totp_last_step"})
"""Hashes and encrypted secrets say nothing about a person and must not leave the service."""


def _owned(user: User) -> Q:
    return Q(user_id=user.id)


def _mailed(user: User) -> Q:
    # Who only claims an address is not told what was sent to it.
    return Q(recipient__iexact=user.confirmed_email or "")


def _suppressed(user: User) -> Q:
    address = user.confirmed_email or ""
    return Q(address__in=[address.lower(), hashed(address)])


def _done_by_or_to(user: User) -> Q:
    return Q(actor=user.id) | Q(subject=user.id)


@dataclass(frozen=True)
class Section:
    """A list in the export: an account's rows of a table, oldest first by ``at``.

    ``whose`` chooses the rows of an account.
    """

    name: str
    model: type[Model]
    at: str = "created_at"
    whose: Callable[[User], Q] = _owned

    def batches(self, user: User) -> AsyncIterator[list[Model]]:
        """Read the rows, some hundred at a time."""
        return batches(self.model.filter(self.whose(user)), self.at)


SECTIONS = (
    Section("sessions", Session),
    Section("api_keys", ApiKey),
    Section("identities", Identity),
    Section("links", ActionLink),
    Section("notifications", Notification),
    Section("sources", Source),
    Section("comments", Comment),
    Section("tasks", Task),
    Section("jobs", Job),
    Section("timelines", TimelineLine, "id"),
    Section("deliveries", Delivery),
    Section("mailbox", MailboxMail, whose=_mailed),
    Section("suppressions", Suppression, whose=_suppressed),
    Section("audit", AuditLine, "at", _done_by_or_to),
)


def plain(row: Model) -> dict[str, Any]:
    """Give a row's columns without what is hidden."""
    names = row._meta.fields_db_projection
    return {name: getattr(row, name) for name in names if name not in HIDDEN}

"""What is kept of an account, table by table, for whoever asks for all of it."""

from collections.abc import AsyncIterator
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


@dataclass(frozen=True)
class Section:
    """A list in the export: an account's rows of a table, oldest first by the time ``at``."""

    name: str
    model: type[Model]
    at: str = "created_at"

    def batches(self, user: User) -> AsyncIterator[list[Model]]:
        """Read the rows, some hundred at a time."""
        return batches(self.model.filter(self._whose(user)), self.at)

    def _whose(self, user: User) -> Q:
        if self.model is AuditLine:
            return Q(actor=user.id) | Q(subject=user.id)
        # Who only claims an address is not told what was sent to it.
        address = user.confirmed_email or ""
        if self.model is MailboxMail:
            return Q(recipient__iexact=address)
        if self.model is Suppression:
            return Q(address__in=[address.lower(), hashed(address)])
        return Q(user_id=user.id)


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
    Section("mailbox", MailboxMail),
    Section("suppressions", Suppression),
    Section("audit", AuditLine, "at"),
)


def plain(row: Model) -> dict[str, Any]:
    """Give a row's columns without what is hidden."""
    names = row._meta.fields_db_projection
    return {name: getattr(row, name) for name in names if name not in HIDDEN}

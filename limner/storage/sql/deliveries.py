"""Deliveries: one row per mail that shall go out, with the states of an irrevocable effect."""

import re
from email.utils import parseaddr
from typing import ClassVar

from tortoise import fields

from limner.core.ids import new_id
from limner.core.unit import UnitOfWork
from limner.storage.sql.aggregate import ID_LENGTH, Leased
from limner.storage.sql.tasks import Task

ADDRESS_LENGTH = 320

_DOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,58}[a-z0-9])?")


class Delivery(Leased):
    """A mail to one address.

    ``message_id`` is fixed when the row is made (RFC 5322 section 3.6.4), so that the receiver,
    a provider's log and we can recognise a repetition. A person's resend is a new row with
    ``attempt`` + 1.
    """

    kind: ClassVar[str] = "delivery"
    transitions: ClassVar[dict[str, frozenset[str]]] = {
        "pending": frozenset({"sending", "failed", "suppressed"}),
        "sending": frozenset({"pending", "sent", "failed", "unknown"}),
        "unknown": frozenset({"pending", "sent", "failed"}),
        "sent": frozenset(),
        "failed": frozenset(),
        "suppressed": frozenset(),
    }

    task_id = fields.CharField(ID_LENGTH, null=True, db_index=True)
    purpose = fields.CharField(32, default="result")
    address = fields.CharField(ADDRESS_LENGTH, db_index=True)
    subject = fields.CharField(500, default="")
    message_id = fields.CharField(255, unique=True)
    attempt = fields.IntField(default=1)
    template = fields.CharField(64, default="")
    variables: dict[str, object] = fields.JSONField(default=dict)
    error = fields.CharField(1000, default="")
    sent_at = fields.DatetimeField(null=True)

    class Meta:
        table = "deliveries"
        indexes = (("address", "sent_at"), ("state", "created_at"))


def message_domain(mail_from: str) -> str:
    """Give the host name of the sender's address, in ASCII, that ends every Message-ID.

    ``localhost`` stands for an address without a plain one (RFC 5322 section 3.6.4 wants a name
    that makes the id unique; ours is so by its left side).
    """
    _, at, domain = parseaddr(mail_from)[1].rpartition("@")
    try:
        name = domain.encode("idna").decode().lower()
    except UnicodeError:
        return "localhost"
    return name if at and _DOMAIN.fullmatch(name) else "localhost"


def create_delivery(work: UnitOfWork, task: Task, domain: str, attempt: int) -> Delivery:
    """Add to ``work`` the mail that brings a task's result, and give it.

    ``domain`` is that of ``message_domain``; ``attempt`` counts a task's mails from 1. Sending the
    mailer its message is the caller's.
    """
    ident = new_id("delivery")
    delivery = Delivery(
        id=ident,
        state="pending",
        user_id=task.user_id,
        trace_id=task.trace_id,
        task_id=task.id,
        purpose="result",
        address=task.email,
        message_id=f"<{ident}.result.{attempt}@{domain}>",
        attempt=attempt,
    )
    work.add(delivery)
    return delivery

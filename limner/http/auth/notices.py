"""Telling owners that something about their account has changed, here and by mail."""

from limner.actors.mailer.messages import AccountMail, Notice
from limner.core.unit import UnitOfWork
from limner.storage.sql.accounts import User
from limner.storage.sql.notifications import notify


def tell_owner(work: UnitOfWork, user: User, event: str, mail_kind: Notice) -> None:
    """Audit a change of an account in ``work``, and tell its owner here and by mail."""
    work.audit(event, subject=user.id)
    notify(work, user.id, event)
    if user.email:
        work.send(AccountMail(user_id=user.id, kind=mail_kind))

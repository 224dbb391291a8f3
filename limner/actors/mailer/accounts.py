"""Mails about accounts: who gets which, how many, and what their links lead to.

They go to suppressed addresses too if the reason is that somebody unsubscribed, and neither count
as mails of the day nor wait for them; instead an address gets a few of each kind an hour. What is
stored names a link's row and never its token.
"""

import math
from datetime import datetime
from typing import get_args

from limner.actors.mailer.account_phrases import ACCOUNT_WORDS
from limner.actors.mailer.messages import AccountMail, Deliver, LinkWanted
from limner.actors.mailer.phrases import Language
from limner.actors.mailer.rendering import Rendered, render_account
from limner.core.clock import Clock
from limner.core.errors import Invalid, Permanent
from limner.core.ids import derived_id, new_id
from limner.core.logs import get_logger
from limner.core.metrics import Metrics
from limner.core.signing import Signer
from limner.core.unit import UnitOfWork
from limner.storage.sql.accounts import User
from limner.storage.sql.action_links import (
    RECENT_LIMIT,
    ActionLink,
    counted_since,
    create_link,
    has_enough_links,
)
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.suppressions import suppression_of

log = get_logger("mailer")

PURPOSE = "account"
PATHS = {
    ActionLink.VERIFY: "/verify-email",
    ActionLink.RESET: "/reset-password",
    ActionLink.CHANGE: "/verify-email",
}


class AccountMailer:
    """Makes the delivery of a notice, or of the letter that carries a link."""

    def __init__(self, domain: str, metrics: Metrics) -> None:
        self._domain = domain
        self._metrics = metrics

    async def handle(self, message: AccountMail, work: UnitOfWork) -> None:
        """Make it, unless the account is gone or its address has had many of the kind."""
        user = await User.get_or_none(id=message.user_id)
        if user is None or user.state == "deleted":
            return
        link = await ActionLink.get_or_none(id=message.link_id) if message.link_id else None
        kind = link.purpose if link else message.kind
        address = link.email if link else message.address or user.email
        if kind is None or not address:
            raise Invalid("a notice has a kind, a letter a link, and both have an address")
        if not await self.has_enough(address, kind, work.now):
            self.write(work, user, kind, address, link)

    async def has_enough(self, address: str, kind: str, now: datetime) -> bool:
        """Whether an address has had as many mails of a kind as it gets: a few an hour."""
        since = counted_since(kind, now)
        recent = Delivery.filter(
            address=address, purpose=PURPOSE, template=kind, created_at__gt=since
        )
        if await recent.count() < RECENT_LIMIT:
            return False
        self._metrics.mails.labels("limited").inc()
        log.warning("an address had many mails of a kind; no more now", kind=kind)
        return True

    def write(
        self, work: UnitOfWork, user: User, kind: str, address: str, link: ActionLink | None
    ) -> None:
        """Make the delivery in ``work``, and have it sent."""
        envelope = work.envelope
        ident = derived_id("delivery", envelope.message_id) if envelope else new_id("delivery")
        language = "zh" if user.language == "zh" else "en"
        work.add(
            Delivery(
                id=ident,
                state="pending",
                user_id=user.id,
                purpose=PURPOSE,
                address=address,
                message_id=f"<{ident}.{PURPOSE}.1@{self._domain}>",
                template=kind,
                variables={"link": link.id if link else "", "language": language},
            )
        )
        work.send(Deliver(delivery_id=ident))


class LinkMailer:
    """Makes the link that somebody wants for an address, if an account has use for it."""

    def __init__(self, mailer: AccountMailer) -> None:
        self._mailer = mailer

    async def handle(self, message: LinkWanted, work: UnitOfWork) -> None:
        """Make link and delivery in one unit; neither where account or address has had enough."""
        user = await User.get_or_none(email=message.address, state="active")
        if user is None or (message.purpose == ActionLink.VERIFY and user.is_verified):
            return
        if await has_enough_links(user.id, message.purpose, work.now):
            return
        if await self._mailer.has_enough(message.address, message.purpose, work.now):
            return
        link = create_link(work, user, message.purpose)
        self._mailer.write(work, user, link.purpose, link.email, link)


async def is_refused(address: str) -> bool:
    """Whether an address must not get a mail about its account: it bounced, or somebody said so.

    Who unsubscribed from results must still be able to get back in.
    """
    found = await suppression_of(address)
    return found is not None and found.reason != "unsubscribed"


async def account_letter(
    delivery: Delivery, signer: Signer, base_url: str, clock: Clock
) -> Rendered:
    """Write the words of a mail about an account; a link's token is made here and kept nowhere.

    Raises:
        Permanent: its link has been used or has expired meanwhile.
        Invalid: there is no such kind of mail.
    """
    kind, language = delivery.template, str(delivery.variables.get("language"))
    ident = str(delivery.variables.get("link") or "")
    if kind not in ACCOUNT_WORDS or language not in get_args(Language):
        raise Invalid(f"there is no mail {kind!r} in {language!r}")
    spoken: Language = "zh" if language == "zh" else "en"
    if not ident:
        return render_account(kind, spoken)
    link = await ActionLink.get_or_none(id=ident)
    if link is None or link.used_at is not None or link.expires_at <= clock.now():
        raise Permanent("the link was used or has expired", code="link_expired")
    token = signer.token(link.purpose, {"link": link.id}, link.expires_at)
    # The seconds since the link was made must not turn "30 minutes" into "29 minutes".
    left_s = 60 * math.ceil((link.expires_at - clock.now()).total_seconds() / 60)
    return render_account(
        kind, spoken, url=f"{base_url}{PATHS[link.purpose]}?token={token}", expires_in_s=left_s
    )

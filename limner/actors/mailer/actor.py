"""The mailer: brings a finished picture to whoever asked for it, at most once.

A delivery is ``sending`` before the first byte leaves (its own commit, with lease and token) and
``sent`` in the unit that ends the task. What nobody can know is ``unknown`` and never repeated
blindly (RFC 1047; docs/operating.md).
"""

from dataclasses import dataclass
from datetime import timedelta

from limner.actors.mailer.accounts import PURPOSE, AccountMailer, LinkMailer, is_refused
from limner.actors.mailer.letters import Letters
from limner.actors.mailer.message import address
from limner.actors.mailer.messages import AccountMail, Deliver, LinkWanted, Reconcile, Send
from limner.actors.mailer.rendering import render_named
from limner.actors.mailer.transport import Mail, Transport
from limner.actors.mailer.transports import sender_domain, transport
from limner.actors.ports import Ports
from limner.core.actor import Actor
from limner.core.backoff import Backoff
from limner.core.clock import Clock
from limner.core.errors import Ambiguous, Invalid, NotFound, Permanent, Refused, Transient
from limner.core.ids import derived_id, new_id
from limner.core.logs import get_logger
from limner.core.metrics import Metrics
from limner.core.patience import patiently
from limner.core.unit import UnitOfWork
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.leases import Leases
from limner.storage.sql.suppressions import is_suppressed, suppress
from limner.storage.sql.tasks import Task
from limner.storage.sql.tunables import TunableStore

log = get_logger("mailer")

BACKOFF = Backoff(first_s=5.0, cap_s=900.0)
MAX_ATTEMPTS = 8
DAY_S = 86_400.0
WAITING = ("succeeded", "unknown")


@dataclass(frozen=True)
class Post:
    """What the mailer's handlers share."""

    transport: Transport
    letters: Letters
    leases: Leases
    tunables: TunableStore
    clock: Clock
    metrics: Metrics
    domain: str


class Mailer:
    """Sends the mail of one delivery."""

    def __init__(self, post: Post) -> None:
        self._post = post

    async def handle(self, message: Deliver, work: UnitOfWork) -> None:
        """Send, unless the delivery is done with, suppressed or over its address's limit."""
        delivery, task = await _delivery_and_task(message.delivery_id)
        work.follow(delivery.trace_id)
        if delivery.state != "pending":
            return
        if task is not None and not _may_go(delivery, task):
            reason = f"the task is {task.state}"
            work.move(delivery, expected="pending", to="failed", error=reason)
            return
        waiting = task if task is not None and task.state in WAITING else None
        is_of_account = delivery.purpose == PURPOSE
        if await (is_refused if is_of_account else is_suppressed)(delivery.address):
            self._suppress(delivery, waiting, work)
            return
        wait_s = 0.0 if is_of_account else await self._wait_for_limit(delivery)
        if wait_s > 0:
            self._postpone(delivery, task, wait_s, work)
            return
        try:
            mail = await self._post.letters.write(delivery, task)
        except Permanent as error:
            self._fail(delivery, waiting, "pending", None, error.detail, work)
            return
        await self._send(delivery, mail, work)

    async def _send(self, delivery: Delivery, mail: Mail, work: UnitOfWork) -> None:
        """Begin, hand the mail over, and say in ``work`` how that ended."""
        token = await work.begin(
            delivery,
            expected="pending",
            to="sending",
            lease_s=self._post.leases.lease_s,
            subject=mail.subject[:500],
        )
        failure: Ambiguous | Transient | Permanent | None = None
        try:
            async with self._post.leases.keep(delivery, token):
                await self._post.transport.send(mail)
        except (Ambiguous, Transient, Permanent) as error:
            failure = error
        # The task may have been cancelled meanwhile: what became of the mail is kept all the same.
        # The mail is out: a database that is away now must not make anyone forget that.
        task = await patiently(lambda: _waiting(delivery), self._post.clock)
        attempt = work.envelope.attempt if work.envelope else 1
        if failure is None:
            self._be_sent(delivery, task, "sending", token, work)
        elif isinstance(failure, Ambiguous):
            self._be_unknown(delivery, task, token, failure.detail, work)
        elif isinstance(failure, Permanent):
            _remember_bounce(failure, delivery, work)
            self._fail(delivery, task, "sending", token, failure.detail, work)
        elif attempt >= MAX_ATTEMPTS:
            # Here it is known that nothing was sent; abandon() could not tell.
            self._fail(delivery, task, "sending", token, failure.detail, work)
            work.bury("attempts_exhausted", failure.detail)
        else:
            self._defer(delivery, token, failure, attempt, work)

    def _defer(
        self, delivery: Delivery, token: int, failure: Transient, attempt: int, work: UnitOfWork
    ) -> None:
        """Put the delivery back and have the message come again."""
        self._post.metrics.mails.labels("deferred").inc()
        error = failure.detail[:1000]
        work.move(delivery, expected="sending", to="pending", token=token, error=error)
        after_s = failure.retry_after_s or BACKOFF.delay_s(attempt)
        work.retry(failure.detail, after_s=after_s)

    async def abandon(self, message: Deliver, reason: str, work: UnitOfWork) -> None:
        """Fail a delivery that was never begun; one that was may be out, and is the sweeper's."""
        delivery, task = await _delivery_and_task(message.delivery_id)
        work.follow(delivery.trace_id)
        if delivery.state == "pending":
            self._fail(delivery, task, "pending", None, reason, work)

    def _be_sent(
        self,
        delivery: Delivery,
        task: Task | None,
        before: str,
        token: int | None,
        work: UnitOfWork,
    ) -> None:
        self._post.metrics.mails.labels("sent").inc()
        now = self._post.clock.now()
        work.move(delivery, expected=before, to="sent", token=token, sent_at=now, error="")
        if task is not None:
            work.move(task, expected=WAITING, to="emailed", error="")
        work.audit("mail.sent", subject=delivery.id)

    def _fail(
        self,
        delivery: Delivery,
        task: Task | None,
        before: str,
        token: int | None,
        reason: str,
        work: UnitOfWork,
    ) -> None:
        self._post.metrics.mails.labels("failed").inc()
        error = reason[:1000]
        work.move(delivery, expected=before, to="failed", token=token, error=error)
        if task is not None and task.state in WAITING:
            work.move(task, expected=WAITING, to="failed", detail=error, error=error)
        work.audit("mail.failed", subject=delivery.id, data={"reason": error})

    def _be_unknown(
        self, delivery: Delivery, task: Task | None, token: int, reason: str, work: UnitOfWork
    ) -> None:
        self._post.metrics.mails.labels("unknown").inc()
        error = reason[:1000]
        work.move(delivery, expected="sending", to="unknown", token=token, error=error)
        if task is not None and task.state == "succeeded":
            work.move(task, expected="succeeded", to="unknown", detail=error, error=error)
        work.audit("mail.unknown", subject=delivery.id, data={"reason": error})

    def _suppress(self, delivery: Delivery, task: Task | None, work: UnitOfWork) -> None:
        self._post.metrics.mails.labels("suppressed").inc()
        reason = "the address is on the suppression list"
        work.move(delivery, expected="pending", to="suppressed", error=reason)
        if task is not None:
            work.move(task, expected=WAITING, to="failed", detail=reason, error=reason)

    def _postpone(
        self, delivery: Delivery, task: Task | None, wait_s: float, work: UnitOfWork
    ) -> None:
        """Let the delivery wait until its address may get another mail."""
        self._post.metrics.mails.labels("postponed").inc()
        work.change(delivery, guard={"state": "pending"}, error="over the daily limit; waits")
        if task is not None:
            work.note(task, "log", {"message": "mail postponed", "seconds": round(wait_s)})
        work.send(Deliver(delivery_id=delivery.id), after_s=wait_s)

    async def _wait_for_limit(self, delivery: Delivery) -> float:
        """Give the seconds until the address is below its limit of mails per day; 0 is now.

        Mails about an account do not count: anybody can have some of them sent.
        """
        limit = (await self._post.tunables.current()).mail_per_address_per_day
        now = self._post.clock.now()
        sent = (
            await Delivery.filter(
                address=delivery.address, sent_at__gt=now - timedelta(seconds=DAY_S)
            )
            .exclude(purpose=PURPOSE)
            .order_by("-sent_at")
            .offset(limit - 1)
            .limit(1)
        )
        if not sent or sent[0].sent_at is None:
            return 0.0
        return max(1.0, DAY_S - (now - sent[0].sent_at).total_seconds())


class Reconciler:
    """Settles a delivery that is ``unknown``, where the transport can look it up."""

    def __init__(self, post: Post, mailer: Mailer) -> None:
        self._post = post
        self._mailer = mailer

    async def handle(self, message: Reconcile, work: UnitOfWork) -> None:
        """Look the mail up: found is sent, certainly absent goes out, else it stays visible."""
        delivery, _ = await _delivery_and_task(message.delivery_id)
        work.follow(delivery.trace_id)
        if delivery.state != "unknown":
            return
        accepted = await self._post.transport.lookup(delivery.message_id)
        if accepted:
            task = await _waiting(delivery)
            self._mailer._be_sent(delivery, task, "unknown", None, work)  # noqa: SLF001
        elif accepted is False:
            work.move(delivery, expected="unknown", to="pending", error="")
            work.send(Deliver(delivery_id=delivery.id))
        else:
            log.warning("a mail stays unknown", delivery_id=delivery.id)


class Sender:
    """Takes the public command: makes the delivery that the mailer then sends."""

    def __init__(self, domain: str) -> None:
        self._domain = domain

    async def handle(self, message: Send, work: UnitOfWork) -> None:
        """Check everything, then store the delivery under an id derived from the message's."""
        envelope = work.envelope
        recipient = address(message.to, "to")
        variables: dict[str, object] = dict(message.variables)
        if message.template:
            render_named(message.template, message.language, variables)
        elif message.subject and message.text:
            variables = {"subject": message.subject, "text": message.text, "html": message.html}
        else:
            raise Invalid(
                "either template, or subject and text", faults=[("/template", "is missing")]
            )
        ident = new_id("delivery")
        if envelope is not None:
            ident = derived_id("delivery", envelope.app_id, envelope.message_id)
        delivery = Delivery(
            id=ident,
            state="pending",
            purpose="message",
            address=recipient,
            message_id=f"<{ident}.message.1@{self._domain}>",
            template=message.template,
            variables={**variables, "language": message.language},
        )
        work.add(delivery)
        work.send(Deliver(delivery_id=ident))


def _may_go(delivery: Delivery, task: Task) -> bool:
    """Whether the task still waits for its mail, or a person has asked for it once more."""
    if task.state in WAITING:
        return True
    return delivery.attempt > 1 and bool(task.result_key) and task.state in {"emailed", "failed"}


async def _delivery_and_task(ident: str) -> tuple[Delivery, Task | None]:
    delivery = await Delivery.found(ident)
    if delivery is None:
        raise NotFound(f"there is no delivery {ident}")
    task = await Task.found(delivery.task_id) if delivery.task_id else None
    return delivery, task


async def _waiting(delivery: Delivery) -> Task | None:
    """Give the delivery's task as it is now, if it still waits for its mail."""
    task = await Task.found(delivery.task_id) if delivery.task_id else None
    return task if task is not None and task.state in WAITING else None


def _remember_bounce(error: Permanent, delivery: Delivery, work: UnitOfWork) -> None:
    """Suppress an address that the other side says does not exist (RFC 3463: 5.1.x)."""
    if not isinstance(error, Refused) or error.context.get("phase") != "recipient":
        return
    if not error.context.get("status", "").startswith("5.1."):
        return
    work.step(suppress(delivery.address, "bounced", work.now))
    work.audit("suppression.added", subject=delivery.id, data={"reason": "bounced"})


def build(ports: Ports) -> Actor[Deliver]:
    """The mailer needs a transport, the object store and signed links."""
    settings = ports.settings
    domain = sender_domain(settings.mail_from)
    carrier = transport(settings.mail_url.get_secret_value(), ports)
    letters = Letters(
        ports.objects,
        ports.signer,
        ports.tunables,
        ports.clock,
        settings.base_url,
        settings.mail_from,
    )
    post = Post(carrier, letters, ports.leases, ports.tunables, ports.clock, ports.metrics, domain)
    mailer, of_accounts = Mailer(post), AccountMailer(domain, ports.metrics)
    return Actor(
        name="mailer",
        inbox=Deliver,
        handler=mailer,
        others={
            Reconcile: Reconciler(post, mailer),
            AccountMail: of_accounts,
            LinkWanted: LinkMailer(of_accounts),
            Send: Sender(domain),
        },
        max_attempts=MAX_ATTEMPTS,
        backoff=BACKOFF,
        close=carrier.aclose,
    )

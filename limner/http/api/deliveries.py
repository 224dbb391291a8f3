"""Deliveries: the mails that went out or shall go out, and sending one again."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from limner.actors.mailer.messages import Deliver
from limner.core.errors import Conflict
from limner.core.ids import new_id
from limner.core.unit import UnitOfWork
from limner.http.body import Form
from limner.http.call import Call
from limner.http.etags import tagged
from limner.http.listing import Listing, Page, page_of, rows_of
from limner.http.routes import Answer, Result, Route
from limner.storage.sql.deliveries import Delivery, create_delivery, message_domain
from limner.storage.sql.tasks import Task

UNDER_WAY = ("pending", "sending")


class DeliveryOut(BaseModel):
    """A mail to one address; ``unknown`` means that it may or may not have arrived."""

    id: str
    task_id: str | None
    purpose: str
    address: str
    subject: str
    state: str
    message_id: str
    attempt: int
    error: str
    trace_id: str
    created_at: datetime
    updated_at: datetime
    sent_at: datetime | None


class DeliveryGoing(DeliveryOut):
    """A mail that has been asked for."""

    status_url: str


class DeliveryQuery(Listing):
    """Filters of the list."""

    state: Literal["pending", "sending", "sent", "failed", "unknown", "suppressed"] | None = None
    task_id: str | None = None
    address: str | None = None
    purpose: str | None = None


def shown(delivery: Delivery) -> DeliveryOut:
    """Give a delivery as clients see it."""
    return DeliveryOut.model_validate(delivery, from_attributes=True)


class Resolution(Form):
    """What a person found out, e.g. from the mail server's log."""

    outcome: Literal["sent", "failed"]


async def own(call: Call) -> Delivery:
    """Give the delivery in the path.

    Raises:
        NotFound: there is none, or it is somebody else's.
    """
    return call.visible(await Delivery.found(call.param("id")), "delivery")


async def listed(call: Call, query: DeliveryQuery) -> Result:
    """List."""
    rows = Delivery.filter(**query.filters())
    if not call.caller.is_admin:
        rows = rows.filter(user_id=call.caller.id)
    return page_of(call, query, await rows_of(rows, query), shown)


async def show(call: Call) -> Result:
    """Show one."""
    delivery = await own(call)
    return tagged(call, shown(delivery), delivery.version)


async def resend(call: Call) -> Result:
    """Make a delivery of its own for the same mail; the old one stays as it is."""
    delivery = await own(call)
    if delivery.state in UNDER_WAY:
        raise Conflict(f"the mail is {delivery.state}; it goes out by itself")
    work = call.work()
    work.follow(delivery.trace_id)
    domain = message_domain(call.front.settings.mail_from)
    attempt = await _attempts(delivery) + 1
    task = await Task.found(delivery.task_id) if delivery.task_id else None
    if task is None:
        again = _copy(work, delivery, domain, attempt)
    else:
        again = create_delivery(work, task, domain, attempt)
    work.send(Deliver(delivery_id=again.id))
    work.audit("delivery.resent", subject=again.id, data={"of": delivery.id, "attempt": attempt})
    url = call.url(f"/api/deliveries/{again.id}")
    going = DeliveryGoing(**shown(again).model_dump(), status_url=url)
    return await call.answered(work, Answer(going, headers={"Location": url}))


async def resolve(call: Call, body: Resolution) -> Result:
    """Say what became of a mail whose fate nobody knew; its task ends with it."""
    delivery = await own(call)
    if delivery.state != "unknown":
        raise Conflict(f"the mail is {delivery.state}; only an unknown one can be resolved")
    work = call.work()
    work.follow(delivery.trace_id)
    sent = body.outcome == "sent"
    reason = f"resolved by a person: {body.outcome}"
    changes = {"sent_at": call.now} if sent else {"error": reason}
    work.move(delivery, expected="unknown", to=body.outcome, **changes)
    task = await Task.found(delivery.task_id) if delivery.task_id else None
    if task is not None and task.state == "unknown" and task.result_key:
        error = "" if sent else reason
        to = "emailed" if sent else "failed"
        work.move(task, expected="unknown", to=to, detail=reason, error=error)
    work.audit("delivery.resolved", subject=delivery.id, data={"outcome": body.outcome})
    await call.commit(work)
    return shown(await Delivery.get(id=delivery.id))


async def _attempts(delivery: Delivery) -> int:
    """Give the highest number among the mails of the same task."""
    if delivery.task_id is None:
        return delivery.attempt
    newest = await Delivery.filter(task_id=delivery.task_id).order_by("-attempt").first()
    return max(delivery.attempt, newest.attempt if newest else 0)


def _copy(work: UnitOfWork, delivery: Delivery, domain: str, attempt: int) -> Delivery:
    ident = new_id("delivery")
    again = Delivery(
        id=ident,
        state="pending",
        user_id=delivery.user_id,
        trace_id=delivery.trace_id,
        purpose=delivery.purpose,
        address=delivery.address,
        message_id=f"<{ident}.{delivery.purpose}.{attempt}@{domain}>",
        attempt=attempt,
        template=delivery.template,
        variables=delivery.variables,
    )
    work.add(again)
    return again


ROUTES = [
    Route(
        "GET",
        "/api/deliveries",
        listed,
        "List the mails",
        "tasks:read",
        answer=Page[DeliveryOut],
        query=DeliveryQuery,
    ),
    Route(
        "POST",
        "/api/deliveries/{id}/resolve",
        resolve,
        "Say whether an unknown mail arrived",
        "tasks:write",
        answer=DeliveryOut,
        body=Resolution,
    ),
    Route(
        "GET",
        "/api/deliveries/{id}",
        show,
        "Show a mail",
        "tasks:read",
        answer=DeliveryOut,
        is_tagged=True,
    ),
    Route(
        "POST",
        "/api/deliveries/{id}/resend",
        resend,
        "Send a mail again, as a new delivery",
        "tasks:write",
        answer=DeliveryGoing,
        status=202,
        creates=True,
    ),
]

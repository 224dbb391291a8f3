"""Suppressions: addresses that are not written to."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from limner.actors.intent.rules import find_addresses
from limner.core.errors import Conflict, Invalid, NotFound
from limner.core.ids import new_id
from limner.http.body import Form
from limner.http.call import Call
from limner.http.etags import tagged
from limner.http.listing import Listing, Page, page_of, rows_of
from limner.http.routes import Answer, Result, Route
from limner.storage.sql.suppressions import Suppression, hashed, is_suppressed, remove

Reason = Literal["unsubscribed", "bounced", "complained", "manual"]


class SuppressionIn(Form):
    """An address that shall not be written to."""

    address: Annotated[str, Field(min_length=3, max_length=320)]
    reason: Reason = "manual"


class SuppressionOut(BaseModel):
    """A suppressed address and why; of one that was erased only ``sha256:…`` is left."""

    id: str
    address: str
    reason: str
    created_at: datetime


class SuppressionQuery(Listing):
    """Filters of the list."""

    address: str | None = None
    reason: Reason | None = None


def shown(row: Suppression) -> SuppressionOut:
    """Give a suppression as clients see it."""
    return SuppressionOut.model_validate(row, from_attributes=True)


async def listed(call: Call, query: SuppressionQuery) -> Result:
    """List."""
    asked = query.filters()
    if "address" in asked:
        address = asked.pop("address")
        asked["address__in"] = [address.lower(), hashed(address)]
    rows = Suppression.filter(**asked)
    return page_of(call, query, await rows_of(rows, query), shown)


async def create(call: Call, body: SuppressionIn) -> Result:
    """Suppress an address."""
    address = body.address.strip().lower()
    if [found.lower() for found in find_addresses(address)] != [address]:
        raise Invalid("no address", faults=[("/address", "is not one mail address")])
    if await is_suppressed(address):
        raise Conflict("the address is suppressed already")
    work = call.work()
    row = Suppression(
        id=new_id("suppression"), address=address, reason=body.reason, created_at=work.now
    )
    work.add(row)
    work.audit("suppression.created", subject=row.id, data={"reason": row.reason})
    location = {"Location": call.url(f"/api/suppressions/{row.id}")}
    answer = Answer(shown(row), headers=location)
    return await call.answered(work, answer, taken="the address is suppressed already")


async def _found(call: Call) -> Suppression:
    row = await Suppression.get_or_none(id=call.param("id"))
    if row is None:
        raise NotFound("there is no such suppression")
    return row


async def show(call: Call) -> Result:
    """Show one."""
    return tagged(call, shown(await _found(call)))


async def delete(call: Call) -> Result:
    """Let an address be written to again."""
    row = await _found(call)
    work = call.work()
    work.step(remove(row))
    work.audit("suppression.deleted", subject=row.id, data={"reason": row.reason})
    await call.commit(work)
    return None


ROUTES = [
    Route(
        "GET",
        "/api/suppressions",
        listed,
        "List the addresses that are not written to",
        "suppressions:read",
        answer=Page[SuppressionOut],
        query=SuppressionQuery,
    ),
    Route(
        "POST",
        "/api/suppressions",
        create,
        "Suppress an address",
        "suppressions:write",
        answer=SuppressionOut,
        status=201,
        body=SuppressionIn,
        creates=True,
    ),
    Route(
        "GET",
        "/api/suppressions/{id}",
        show,
        "Show a suppression",
        "suppressions:read",
        answer=SuppressionOut,
        is_tagged=True,
    ),
    Route(
        "DELETE",
        "/api/suppressions/{id}",
        delete,
        "Let an address be written to again",
        "suppressions:write",
        status=204,
    ),
]

"""Erasing what is known of a mail address, for who asks to be forgotten."""

from dataclasses import asdict
from functools import partial

from pydantic import BaseModel

from limner.actors.intent.rules import names_address
from limner.actors.sweeper.messages import Erase
from limner.core.emails import normal_email
from limner.http.auth.fields import AnyAddress
from limner.http.body import Form
from limner.http.call import Call
from limner.http.routes import Answer, Result, Route
from limner.storage.sql.accounts import ADMIN, User
from limner.storage.sql.address_erasure import AddressEraser
from limner.storage.sql.erasure import Eraser, is_erasing
from limner.storage.sql.suppressions import hashed
from limner.storage.sql.users import delete_user

DONE = 200


class ErasureIn(Form):
    """The address that asks to be forgotten."""

    email: AnyAddress


class ErasureOut(BaseModel):
    """How many objects of each kind were erased; what an ``account`` had made goes soon after."""

    account: int
    tasks: int
    comments: int
    deliveries: int
    mails: int
    language_answers: int
    messages: int


async def erase(call: Call, body: ErasureIn) -> Result:
    """Erase; asked for again, it erases what has come in since.

    200 if all is done, 202 as long as more is being erased by and by: what an account had made
    that was deleted, now or before, and jobs that have still to stop.
    """
    address = normal_email(body.email)
    forms = sorted({address, body.email.strip().lower()})
    accounts = await _account(call, address)
    eraser = Eraser(
        call.front.units,
        call.front.database,
        call.front.objects,
        lambda ident: Erase(task_id=ident),
    )
    erased = asdict(await AddressEraser(eraser, forms, partial(names_address, forms=forms)).erase())
    work = call.work()
    # The hash says which request this was to whoever knows the address, and to nobody else.
    data = {"address": hashed(address), "account": accounts, **erased}
    work.audit("erasure.done", data=data)
    await call.commit(work)
    status = 202 if await is_erasing(call.front.database) else DONE
    return Answer(ErasureOut(account=accounts, **erased), status=status)


async def _account(call: Call, address: str) -> int:
    """Delete the account of an address and give how many there were: one, or none."""
    user = await User.get_or_none(email=address)
    if user is None:
        return 0
    work = call.work()
    await delete_user(work, user, Erase(user_id=user.id), because="erasure")
    await call.commit(work)
    return 1


ROUTES = [
    Route(
        "POST",
        "/api/erasure",
        erase,
        "Erase what is known of a mail address",
        ADMIN,
        answer=ErasureOut,
        status=202,
        body=ErasureIn,
        also={200: "All is erased", 409: "This is the last administrator"},
    ),
]

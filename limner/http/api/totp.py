"""The caller's second factor: set up, confirmed, taken away, and its recovery codes."""

from typing import Annotated

from pydantic import BaseModel, Field

from limner.actors.mailer.messages import Notice
from limner.core.errors import Conflict, Invalid
from limner.core.unit import UnitOfWork
from limner.http.auth.confirmation import confirm_identity
from limner.http.auth.fields import Password
from limner.http.auth.notices import tell_owner
from limner.http.auth.second_factor import (
    CODE_MAX_CHARACTERS,
    check_code,
    enrol,
    matching_step,
    take_try,
)
from limner.http.body import Form
from limner.http.call import Call
from limner.http.routes import Answer, Result, Route
from limner.storage.sql.accounts import User, active_user
from limner.storage.sql.recovery_codes import drop_second_factor, new_codes

MAIL: Notice = "second-factor-changed"

Code = Annotated[str, Field(min_length=1, max_length=CODE_MAX_CHARACTERS, examples=["492039"])]


class TotpIn(Form):
    """The account's password, if it has one."""

    password: Password | None = None


class EnrolmentOut(BaseModel):
    """A secret for an authenticator, shown once; it counts when a code of it is confirmed."""

    secret: str
    otpauth_url: str
    qr_svg: str


class CodeIn(Form):
    """A code that the authenticator shows."""

    code: Code


class Proof(Form):
    """The account's password, if it has one, and a code of the second factor."""

    password: Password | None = None
    code: Code


class RecoveryCodesOut(BaseModel):
    """Codes that sign in once each in place of the authenticator; never shown again."""

    recovery_codes: list[str]


async def begin(call: Call, body: TotpIn) -> Result:
    """Give a new secret; what was set up before and not confirmed is forgotten."""
    user = await active_user(call.caller.id)
    await confirm_identity(call, user, body.password)
    if user.totp_enabled:
        raise Conflict("the account has a second factor; take it away first")
    work = call.work()
    made = await enrol(call, work, user)
    work.audit("user.totp_begun", subject=user.id)
    await call.commit(work)
    content = EnrolmentOut(secret=made.secret, otpauth_url=made.otpauth_url, qr_svg=made.qr_svg)
    return Answer(content, headers={"Cache-Control": "no-store"})


async def confirm(call: Call, body: CodeIn) -> Result:
    """Put the secret in force, now that the authenticator is known to have it."""
    user = await active_user(call.caller.id)
    if user.totp_enabled:
        raise Conflict("the second factor is in force already")
    if user.totp_sealed is None:
        raise Conflict("no second factor has been begun", code="totp_not_begun")
    await take_try(call, user)
    step = matching_step(call.front.sealer, user, body.code, call.now)
    if step is None:
        raise wrong_code()
    work = call.work()
    guard = {"totp_enabled_at": None, "version": user.version}
    work.change(user, guard=guard, totp_enabled_at=work.now, totp_last_step=step)
    codes = new_codes(work, user.id)
    tell_owner(work, user, "user.totp_enabled", MAIL)
    await call.commit(work)
    return Answer(RecoveryCodesOut(recovery_codes=codes), headers={"Cache-Control": "no-store"})


async def remove(call: Call, body: Proof) -> Result:
    """Take the second factor away, with its recovery codes."""
    user, work = await _proven(call, body)
    drop_second_factor(work, user)
    tell_owner(work, user, "user.totp_disabled", MAIL)
    await call.commit(work)
    return None


async def renew_codes(call: Call, body: Proof) -> Result:
    """Replace the recovery codes; the former ones count no more."""
    user, work = await _proven(call, body)
    codes = new_codes(work, user.id)
    tell_owner(work, user, "user.recovery_codes_renewed", MAIL)
    await call.commit(work)
    return Answer(RecoveryCodesOut(recovery_codes=codes), headers={"Cache-Control": "no-store"})


async def _proven(call: Call, proof: Proof) -> tuple[User, UnitOfWork]:
    """Give the caller's account and a unit in which the code is used up."""
    user = await active_user(call.caller.id)
    if not user.totp_enabled:
        raise Conflict("the account has no second factor")
    await confirm_identity(call, user, proof.password)
    work = call.work()
    if not await check_code(call, work, user, proof.code):
        raise wrong_code()
    return user, work


def wrong_code() -> Invalid:
    """Give the error for a code that is not one of the account's now."""
    return Invalid(
        "the code is not right", code="totp_invalid", faults=[("/code", "is not valid now")]
    )


STATE = {409: "The second factor is in force already, was not begun, or is not there"}

ROUTES = [
    Route(
        "POST",
        "/api/me/totp",
        begin,
        "Begin to set up a second factor",
        "account:write",
        answer=EnrolmentOut,
        body=TotpIn,
        has_optional_body=True,
        also=STATE,
    ),
    Route(
        "POST",
        "/api/me/totp/confirm",
        confirm,
        "Put the second factor in force and get recovery codes",
        "account:write",
        answer=RecoveryCodesOut,
        body=CodeIn,
        also=STATE,
    ),
    Route(
        "POST",
        "/api/me/totp/recovery-codes",
        renew_codes,
        "Get new recovery codes in place of the old ones",
        "account:write",
        answer=RecoveryCodesOut,
        body=Proof,
        also=STATE,
    ),
    Route(
        "DELETE",
        "/api/me/totp",
        remove,
        "Take the second factor away",
        "account:write",
        status=204,
        body=Proof,
        also=STATE,
    ),
]

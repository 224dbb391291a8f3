"""From a new account to a lost password: what is asked for, confirmed by mail, and changed.

Nobody learns here whether an address has an account: the answers are the same, what differs goes
by mail to the address itself (ASVS 5.0 section 6.3.8). Links are used up by a POST only, so that a
scanner that opens every link of a mail changes nothing.
"""

import asyncio
from dataclasses import dataclass

from pydantic import BaseModel, Field

from limner.actors.mailer.messages import AccountMail, LinkWanted
from limner.core.emails import normal_email
from limner.core.errors import Conflict, Forbidden, Invalid, Unauthenticated
from limner.core.unit import UnitOfWork
from limner.http.answers import Answer
from limner.http.auth import attempts, passwords
from limner.http.auth.confirmation import confirm_identity
from limner.http.auth.fields import NAME_MAX_CHARACTERS, NO_NAME
from limner.http.auth.notices import tell_owner
from limner.http.call import Call
from limner.storage.sql.accounts import User, active_user, new_user
from limner.storage.sql.action_links import (
    ActionLink,
    create_link,
    find_link,
    has_enough_links,
    spend_link,
    spent,
    void_links,
)
from limner.storage.sql.notifications import notify
from limner.storage.sql.sessions import revoke_sessions

TRIES = 3
PURPOSES = (ActionLink.VERIFY, ActionLink.RESET, ActionLink.CHANGE)


class Registered(BaseModel):
    """What everybody is told who registers, whether the address was free or not."""

    email: str = Field(examples=["anna@example.org"])
    name: str = Field(examples=["Anna"])
    verified: bool = False
    detail: str = "a mail was sent to this address; its link finishes the registration"


async def register(
    call: Call, email: str, password: str, name: str, language: str = "en"
) -> Answer:
    """Make an account that its address has still to confirm.

    One that waits for that already gets another link; if it comes with another password, nobody
    can tell whose address it is, and then neither password counts. The owner of an address that
    has an account is told that somebody tried.

    Raises:
        Forbidden: ``registration_closed``.
        Invalid: with all faults.
        TooMany: too many from one address.
        Busy: too many passwords are being hashed.
    """
    if not (await call.front.tunables.current()).registration_is_open:
        raise Forbidden("nobody can register here", code="registration_closed")
    await attempts.admit_letter(call)
    address = await _checked(email, password, name)
    hashed = await passwords.hash_password(password)
    for _ in range(TRIES):
        work = call.work()
        user = await User.get_or_none(email=address)
        # Compared for every address, so that the time it takes tells nothing.
        same = await passwords.verify(user.password_hash if user else None, password)
        if user is None:
            _create(work, address, hashed, name, language)
        elif user.is_verified or user.state != "active":
            _tell_other(work, user, "user.registered_again")
        else:
            await _register_again(work, user, is_same=same.ok)
        # The same place for everybody: where whoever signs in finds their own.
        told = Answer(
            Registered(email=address, name=name), headers={"Location": call.url("/api/me")}
        )
        try:
            return await call.answered(work, told)
        except Conflict:
            continue  # Somebody else registered the address, or verified it, meanwhile.
    raise Conflict("the address is being registered elsewhere; try again")


async def _checked(email: str, password: str, name: str) -> str:
    """Give the normal form of the address if everything fits."""
    faults: list[tuple[str, str]] = []
    address = ""
    try:
        address = normal_email(email)
    except Invalid as error:
        faults += error.faults
    try:
        await asyncio.to_thread(passwords.check_new, password, email=address, name=name)
    except Invalid as error:
        faults += error.faults
    if len(name) > NAME_MAX_CHARACTERS:
        faults.append(("/name", f"has more than {NAME_MAX_CHARACTERS} characters"))
    if NO_NAME.search(name):
        faults.append(("/name", "holds a control character"))
    if faults:
        raise Invalid("the registration does not fit", faults=faults)
    return address


def _create(work: UnitOfWork, email: str, hashed: str, name: str, language: str) -> None:
    user = new_user(email, name=name, password_hash=hashed, language=language)
    work.add(user)
    work.audit("user.registered", subject=user.id)
    _send_link(work, user, ActionLink.VERIFY)


def _tell_other(work: UnitOfWork, user: User, event: str) -> None:
    """Audit that somebody wants an address that has an account, and mail whose it is."""
    work.audit(event, subject=user.id)
    if user.state == "active":
        work.send(AccountMail(user_id=user.id, kind="already-registered"))


async def _register_again(work: UnitOfWork, user: User, *, is_same: bool) -> None:
    """Send another link; what two want who do not know the same password, neither gets.

    Otherwise whoever registers somebody else's address, before or after them, would have the
    password of an account that the owner of the address confirms. An account that has been used
    keeps what it has.
    """
    guard = {"verified_at": None, "state": "active", "password_hash": user.password_hash}
    was_used = user.last_sign_in_at is not None
    drops = user.has_password and not (is_same or was_used)
    work.change(user, guard=guard, **({"password_hash": None, "name": ""} if drops else {}))
    work.audit("user.registered_again", subject=user.id)
    if not await has_enough_links(user.id, ActionLink.VERIFY, work.now):
        _send_link(work, user, ActionLink.VERIFY)


def _send_link(work: UnitOfWork, user: User, purpose: str) -> None:
    link = create_link(work, user, purpose)
    work.send(AccountMail(user_id=user.id, link_id=link.id))


async def resend(call: Call, email: str) -> None:
    """Have the link to verify an address sent again, if an account waits for that.

    Raises:
        Invalid: it is no address.
        TooMany: too many from one address.
    """
    await attempts.admit_letter(call)
    await _ask(call, LinkWanted(purpose="verify-email", address=normal_email(email)))


async def forgot(call: Call, email: str) -> None:
    """Have a link to set a new password sent, if there is an account.

    Raises:
        Invalid: it is no address.
        TooMany: too many from one address.
    """
    await attempts.admit_letter(call)
    await _ask(call, LinkWanted(purpose="reset-password", address=normal_email(email)))


async def _ask(call: Call, wanted: LinkWanted) -> None:
    work = call.work()
    work.send(wanted)
    await call.commit(work)


@dataclass(frozen=True)
class Confirmed:
    """An address that was confirmed; without a password, a link that sets one has been mailed."""

    email: str
    has_password: bool


async def verify_email(call: Call, token: str) -> Confirmed:
    """Use up a link that was sent to an address: it verifies an account, or changes its address.

    Raises:
        Unauthenticated: ``token_invalid`` or ``link_expired``.
        Conflict: the new address belongs to another account by now.
    """
    for _ in range(TRIES):
        link, user = await _opened(call, token, ActionLink.VERIFY, ActionLink.CHANGE)
        work = call.work()
        work.actor_id = user.id
        spend_link(work, link)
        if link.purpose == ActionLink.CHANGE:
            _change_email(work, user, link)
        else:
            await _verify(work, user, link)
        try:
            await call.commit(work, taken="this address belongs to another account")
        except Conflict as error:
            if error.code == "stale":
                continue  # It was used, or the account was changed, meanwhile.
            raise
        return Confirmed(link.email, user.has_password)
    raise spent()


async def _verify(work: UnitOfWork, user: User, link: ActionLink) -> None:
    if link.email != user.email or user.is_verified:
        raise spent()
    seen = {"email": link.email, "password_hash": user.password_hash, "state": "active"}
    work.change(user, guard={"verified_at": None, **seen}, verified_at=work.now)
    void_links(work, user.id, ActionLink.VERIFY)
    work.audit("user.verified", subject=user.id)
    if not user.has_password and not await has_enough_links(user.id, ActionLink.RESET, work.now):
        _send_link(work, user, ActionLink.RESET)


def _change_email(work: UnitOfWork, user: User, link: ActionLink) -> None:
    guard = {"email": user.email, "state": "active"}
    work.change(user, guard=guard, email=link.email, verified_at=work.now)
    # What was sent to the old address must not open the account any more.
    void_links(work, user.id, *PURPOSES)
    work.audit("user.email_changed", subject=user.id)
    notify(work, user.id, "user.email_changed")
    if user.email:
        work.send(AccountMail(user_id=user.id, kind="email-changed", address=user.email))


async def reset(call: Call, token: str, password: str) -> None:
    """Set a new password by a link that was sent to the account's address.

    Ends all sessions, and nothing else; who opened the link has shown the address to be theirs.

    Raises:
        Unauthenticated: ``token_invalid`` or ``link_expired``.
        Invalid: the password may not be chosen; the link can still be used.
        Busy: too many passwords are being hashed.
    """
    link, user = await _opened(call, token, ActionLink.RESET)
    if link.email != user.email:
        raise spent()
    await asyncio.to_thread(passwords.check_new, password, email=link.email, name=user.name)
    hashed = await passwords.hash_password(password)
    work = call.work()
    work.actor_id = user.id
    spend_link(work, link)
    verified_at = user.verified_at or work.now
    guard = {"email": link.email, "state": "active"}
    work.change(user, guard=guard, password_hash=hashed, verified_at=verified_at)
    void_links(work, user.id, *PURPOSES)
    revoke_sessions(work, user.id, because="password_reset")
    tell_owner(work, user, "user.password_reset", "password-changed")
    await _commit_once(call, work)
    await attempts.succeeded(call, user)


async def change_password(call: Call, current: str, new: str) -> None:
    """Change the caller's password; all their other sessions end.

    Raises:
        Forbidden: ``password_wrong``, the current one.
        Conflict: ``no_password``, the account has none: a mailed link sets one.
        Invalid: the new one may not be chosen.
        TooMany: too many attempts.
        Busy: too many passwords are being checked.
    """
    user = await active_user(call.caller.id)
    if not user.has_password:
        raise Conflict("there is no password; have a link sent to set one", code="no_password")
    await confirm_identity(call, user, current, "/current_password")
    await asyncio.to_thread(
        passwords.check_new,
        new,
        email=user.email or "",
        name=user.name,
        pointer="/new_password",
    )
    hashed = await passwords.hash_password(new)
    work = call.work()
    work.change(user, guard={"password_hash": user.password_hash}, password_hash=hashed)
    void_links(work, user.id, ActionLink.RESET, ActionLink.CHANGE)
    session = call.caller.session
    revoke_sessions(work, user.id, but=session.id if session else None, because="password_changed")
    tell_owner(work, user, "user.password_changed", "password-changed")
    await call.commit(work)


async def ask_email_change(call: Call, email: str, password: str | None) -> None:
    """Have a link sent to the caller's new address, and a notice to the one they have.

    Raises:
        Forbidden: ``password_wrong``; or ``sign_in_again``, if there is no password to show.
        Invalid: it is no address, or the one they have; or the password is missing.
        TooMany: too many attempts, or too many links.
        Busy: too many passwords are being checked.
    """
    await attempts.admit_letter(call)
    address = normal_email(email)
    user = await active_user(call.caller.id)
    await confirm_identity(call, user, password)
    if address == user.email:
        raise Invalid("nothing would change", faults=[("/email", "is the account's address")])
    work = call.work()
    other = await User.get_or_none(email=address)
    if other is not None:
        _tell_other(work, other, "user.address_wanted")
    elif not await has_enough_links(user.id, ActionLink.CHANGE, call.now):
        link = create_link(work, user, ActionLink.CHANGE, email=address)
        work.send(AccountMail(user_id=user.id, link_id=link.id))
    work.audit("user.email_change_asked", subject=user.id)
    if user.email:
        work.send(AccountMail(user_id=user.id, kind="email-change-asked"))
    await call.commit(work)


async def _opened(call: Call, token: str, *purposes: str) -> tuple[ActionLink, User]:
    """Give the link of a token, and its account if that is active.

    Raises:
        Unauthenticated: it is not ours, for another purpose, used or expired.
    """
    for purpose in purposes:
        try:
            payload = call.front.signer.open(purpose, token, call.now)
        except Unauthenticated as error:
            if error.code == "token_expired":
                raise spent() from None
            continue
        link = await find_link(str(payload["link"]), purpose, call.now)
        user = await User.get_or_none(id=link.user_id, state="active")
        if user is None:
            raise spent()
        return link, user
    raise Unauthenticated("This link is not valid", code="token_invalid")


async def _commit_once(call: Call, work: UnitOfWork) -> None:
    """Commit what a link does; of two uses at the same time the second finds it spent."""
    try:
        await call.commit(work)
    except Conflict as error:
        if error.code == "stale":
            raise spent() from None
        raise

"""The user commands: make an account, give one another role, help who lost a second factor."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from limner.core.emails import normal_email
from limner.core.errors import Conflict, NotFound
from limner.core.unit import Commit, UnitOfWork, Units
from limner.storage.sql.accounts import User
from limner.storage.sql.recovery_codes import drop_second_factor
from limner.storage.sql.users import change_role, create_user


@dataclass(frozen=True)
class Passwords:
    """The front's rules: ``check_new(password, email=…)`` refuses what nobody should have."""

    check_new: Callable[..., None]
    hash_password: Callable[[str], Awaitable[str]]


Tell = Callable[[UnitOfWork, User, str, Any], None]
"""Audits a change of an account, and tells its owner: unit, account, event, kind of mail."""


async def create(
    units: Units, email: str, role: str, password: str | None, rules: Passwords
) -> dict[str, Any]:
    """Make an account whose address counts as verified: who can run this may say so.

    Raises:
        Invalid: an address or password that cannot be.
        Conflict: the address has an account.
    """
    address = normal_email(email)
    hashed = None
    if password is not None:
        rules.check_new(password, email=address)
        hashed = await rules.hash_password(password)
    work = units.open("cli")
    user = create_user(work, address, role=role, password_hash=hashed, is_verified=True)
    try:
        await units.commit(work)
    except Conflict:
        raise Conflict(f"there is an account {address} already") from None
    return _row(user)


async def promote(units: Units, email: str, role: str) -> dict[str, Any]:
    """Give an account another role and tell its owner; with the same role nothing changes.

    Raises:
        Invalid: no address.
        NotFound: no account has the address.
        LastAdmin: nobody else could administer the service.
    """
    user = await _found(email)
    if user.role != role:
        work = units.open("cli")
        change_role(work, user, role)
        work.audit("user.changed", subject=user.id, data={"fields": ["role"], "role": role})
        if await units.commit(work) is not Commit.DONE:
            raise Conflict("the account has just been changed; try again")
        user.role = role
    return _row(user)


async def drop_factor(units: Units, email: str, tell: Tell) -> dict[str, Any]:
    """Take the second factor of somebody who lost it away, and tell them.

    Raises:
        Invalid: no address.
        NotFound: no account has the address.
        Conflict: it has no second factor, or was just changed.
    """
    user = await _found(email)
    if not user.totp_enabled:
        raise Conflict(f"{user.email} has no second factor")
    work = units.open("cli")
    drop_second_factor(work, user)
    tell(work, user, "user.totp_disabled", "second-factor-changed")
    if await units.commit(work) is not Commit.DONE:
        raise Conflict("the account has just been changed; try again")
    return _row(user)


async def _found(email: str) -> User:
    address = normal_email(email)
    user = await User.get_or_none(email=address)
    if user is None:
        raise NotFound(f"there is no account {address}")
    return user


def _row(user: User) -> dict[str, Any]:
    return {
        "id": user.id,
        "email": user.email,
        "role": user.role,
        "state": user.state,
        "has_password": user.has_password,
    }

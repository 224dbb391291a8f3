"""The key command: makes an API key for an account."""

from collections.abc import Sequence

from limner.core.emails import normal_email
from limner.core.errors import NotFound
from limner.core.unit import Units
from limner.storage.sql import accounts
from limner.storage.sql.accounts import User


async def create(units: Units, email: str | None, scopes: Sequence[str], name: str) -> str:
    """Make a key for the account with ``email``, or the owner's; gives the key itself.

    Raises:
        NotFound: there is no such active account.
        Invalid: no address, or a scope that does not exist.
    """
    user = await (
        User.get_or_none(email=normal_email(email)) if email else User.get_or_none(is_owner=True)
    )
    if user is None:
        raise NotFound(f"there is no account {email}" if email else "run.py migrate comes first")
    if user.state != "active":
        whose = email or "of the owner"
        raise NotFound(f"the account {whose} is {user.state}; name the EMAIL of another one")
    work = units.open("cli")
    _, secret = accounts.create_key(work, user, frozenset(scopes), name)
    await units.commit(work)
    return secret

"""What administrators and owners do to accounts; at least one active administrator always stays."""

from collections.abc import Mapping
from typing import Any

from limner.core.errors import LastAdmin
from limner.core.message import Message
from limner.core.unit import UnitOfWork
from limner.storage.sql.accounts import ADMIN, OWNER_ID, ApiKey, User, new_user
from limner.storage.sql.connection import Connection
from limner.storage.sql.notifications import notify
from limner.storage.sql.sessions import revoke_sessions

TOMBSTONE: dict[str, Any] = {
    "email": None,
    "name": "",
    "role": "user",
    "password_hash": None,
    "verified_at": None,
    "language": "en",
    "timezone": "UTC",
    "avatar_key": "",
    "defaults": {},
    "last_sign_in_at": None,
    "totp_sealed": None,
    "totp_enabled_at": None,
    "totp_last_step": 0,
}
"""What is left of a deleted account beside its id, so that nothing else takes the id."""

OWNED = (
    "DELETE FROM recovery_codes WHERE user_id = ?",
    "DELETE FROM sign_in_links WHERE user_id = ?",
    "DELETE FROM action_links WHERE user_id = ?",
    "DELETE FROM identities WHERE user_id = ?",
    "DELETE FROM authorizations WHERE linking_user_id = ?",
    "DELETE FROM notifications WHERE user_id = ?",
    "DELETE FROM idempotent_requests WHERE user_id = ?",
)


def avatars_of(user_id: str) -> str:
    """Give what the keys of an account's pictures begin with."""
    return f"avatars/{user_id}/"


async def own_defaults(user_id: str | None) -> Mapping[str, Any]:
    """Give what an account has chosen for its own sources in place of the settings."""
    user = await User.found(user_id) if user_id else None
    return user.defaults if user is not None else {}


def create_user(
    work: UnitOfWork,
    email: str,
    *,
    name: str = "",
    role: str = "user",
    plan: str = "free",
    language: str = "en",
    password_hash: str | None = None,
    is_verified: bool = False,
) -> User:
    """Add an account in ``work`` and give it; ``email`` is in its normal form.

    That the address is taken shows at the commit, as Conflict.
    """
    user = new_user(
        email,
        name=name,
        role=role,
        plan=plan,
        language=language,
        password_hash=password_hash,
        verified_at=work.now if is_verified else None,
    )
    work.add(user)
    work.audit("user.created", subject=user.id, data={"role": role})
    return user


def keep_an_admin(work: UnitOfWork, user: User) -> None:
    """Drop ``work`` with LastAdmin if ``user`` is the only active administrator.

    Called before what takes the role, the state or the account away. All such units lock the
    owner's row first, which is always there: of two administrators who demote each other at the
    same time, the second finds that the first is none any more.
    """

    async def check(connection: Connection) -> None:
        await connection.query(
            f"SELECT id FROM users WHERE id = ?{connection.for_update}",  # noqa: S608 - our words
            [OWNER_ID],
        )
        admins = await connection.query(
            "SELECT id FROM users WHERE role = ? AND state = 'active' LIMIT 2", [ADMIN]
        )
        if [row["id"] for row in admins] == [user.id]:
            raise LastAdmin("this is the last administrator; make another one first")

    work.step(check)


def change_role(work: UnitOfWork, user: User, role: str) -> None:
    """Give an account another role in ``work`` and tell its owner; at the commit, if ever.

    ``Commit.STALE`` if its role or state is another one by then.

    Raises:
        LastAdmin: at the commit.
    """
    if role != ADMIN:
        keep_an_admin(work, user)
    work.change(user, guard={"role": user.role, "state": user.state}, role=role)
    tell_of_role(work, user, role)


def tell_of_role(work: UnitOfWork, user: User, role: str) -> None:
    """Tell the owner of an account, which changes in ``work``, of their new role."""
    notify(work, user.id, "user.role_changed", data={"role": role})


async def delete_user(work: UnitOfWork, user: User, *rest: Message, because: str) -> None:
    """Turn an account into a tombstone in ``work``: whoever it was is gone at the commit.

    Sessions and keys end with it. ``rest`` are the commands that erase, piece by piece, what the
    account had made. The audit log keeps its lines, which hold ids and no names.

    Raises:
        LastAdmin: at the commit.
    """
    keep_an_admin(work, user)
    keys = await ApiKey.filter(user_id=user.id, revoked_at=None).values_list("id", flat=True)
    # The account first: who signs in meanwhile locks it too, before it begins a session.
    work.move(user, expected=("active", "disabled"), to="deleted", **TOMBSTONE)
    revoke_sessions(work, user.id, because=because)

    async def clear(connection: Connection) -> None:
        for sql in OWNED:
            await connection.execute(sql, [user.id])
        await connection.execute(
            "UPDATE api_keys SET name = '', revoked_at = COALESCE(revoked_at, ?) WHERE user_id = ?",
            [work.now, user.id],
        )

    work.step(clear)
    work.forget(*map(str, keys))
    for command in rest:
        work.send(command)
    work.audit("user.deleted", subject=user.id, data={"because": because})

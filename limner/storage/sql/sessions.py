"""Sessions: who is signed in where, and the refresh tokens of those who use access tokens.

Functions that take a unit only collect in it. Whatever they change is forgotten by this process
with the commit; other processes hear the event ``session.revoked``, or see it within seconds.
"""

from datetime import datetime, timedelta
from typing import ClassVar

from tortoise import fields
from tortoise.models import Model
from tortoise.queryset import QuerySet

from limner.core.errors import Stale
from limner.core.ids import uuid7_hex
from limner.core.message import Event
from limner.core.unit import UnitOfWork
from limner.storage.sql.aggregate import ID_LENGTH
from limner.storage.sql.connection import Connection

USE_NOTED_EVERY_S = 60.0
PER_ACCOUNT = 1_000
"""Living sessions of one account; of more, those unused for longest end."""


class Session(Model):
    """One signed-in browser or program, only the hash of a browser's token is stored.

    ``kind`` is web (a cookie) or token (access and refresh tokens).
    """

    WEB: ClassVar[str] = "web"
    TOKEN: ClassVar[str] = "token"  # noqa: S105 - a kind, no secret

    id = fields.CharField(ID_LENGTH, primary_key=True)
    user_id = fields.CharField(ID_LENGTH, db_index=True)
    kind = fields.CharField(8)
    sha256 = fields.CharField(64, null=True, unique=True)
    created_at = fields.DatetimeField()
    last_seen_at = fields.DatetimeField()
    idle_until = fields.DatetimeField()
    expires_at = fields.DatetimeField(db_index=True)
    revoked_at = fields.DatetimeField(null=True)
    revoked_because = fields.CharField(64, default="")
    signed_in_by = fields.CharField(32, default="")
    user_agent = fields.CharField(255, default="")
    address = fields.CharField(64, default="")

    class Meta:
        table = "sessions"


class RefreshToken(Model):
    """A refresh token of a session, used once, a second use revokes the session."""

    id = fields.CharField(ID_LENGTH, primary_key=True)
    session_id = fields.CharField(ID_LENGTH, db_index=True)
    user_id = fields.CharField(ID_LENGTH, db_index=True)
    sha256 = fields.CharField(64, unique=True)
    created_at = fields.DatetimeField()
    expires_at = fields.DatetimeField(db_index=True)
    used_at = fields.DatetimeField(null=True)

    class Meta:
        table = "refresh_tokens"


def session_lives(session: Session, now: datetime) -> bool:
    """Whether a session is neither revoked nor over, by age or by being unused."""
    return session.revoked_at is None and now < min(session.expires_at, session.idle_until)


def living_sessions_of(user_id: str, now: datetime) -> "QuerySet[Session]":
    """Give the query for the sessions of an account that live."""
    return Session.filter(user_id=user_id, revoked_at=None, expires_at__gt=now, idle_until__gt=now)


def idle_end(session: Session, idle_s: float, now: datetime) -> datetime:
    """Give when a session ends that is used now and then no more."""
    return min(session.expires_at, now + timedelta(seconds=idle_s))


async def note_session_use(
    connection: Connection, session: Session, idle_s: float, now: datetime
) -> None:
    """Store that a session is used, at most once a minute, whoever else does so too."""
    if (now - session.last_seen_at).total_seconds() < USE_NOTED_EVERY_S:
        return
    session.last_seen_at, session.idle_until = now, idle_end(session, idle_s, now)
    await connection.execute(
        "UPDATE sessions SET last_seen_at = ?, idle_until = ? "
        "WHERE id = ? AND revoked_at IS NULL AND last_seen_at < ?",
        [now, session.idle_until, session.id, now],
    )


def add_session(work: UnitOfWork, session: Session) -> None:
    """Add a session; the account's oldest by use end where it has too many."""

    async def bound(connection: Connection) -> None:
        # Read without locks, so that many who sign in to one account at once do not deadlock.
        over = await connection.query(
            "SELECT id FROM sessions WHERE user_id = ? AND revoked_at IS NULL AND expires_at > ? "
            "ORDER BY last_seen_at DESC, id DESC LIMIT ? OFFSET ?",
            [session.user_id, work.now, PER_ACCOUNT, PER_ACCOUNT - 1],
        )
        for row in over:
            await connection.execute(
                "UPDATE sessions SET revoked_at = ?, revoked_because = 'too_many' "
                "WHERE id = ? AND revoked_at IS NULL",
                [work.now, row["id"]],
            )

    work.step(bound)
    work.add(session)


def revoke_session(work: UnitOfWork, session: Session, *, because: str, once: bool = False) -> None:
    """Revoke one; with ``once``, the unit is dropped if it was revoked before."""

    async def write(connection: Connection) -> None:
        changed = await connection.execute(
            "UPDATE sessions SET revoked_at = ?, revoked_because = ? "
            "WHERE id = ? AND revoked_at IS NULL",
            [work.now, because, session.id],
        )
        if once and not changed:
            raise Stale("the session was revoked before")

    work.step(write)
    work.forget(session.id)
    work.announce(_revoked(work, session.user_id, "session", session.id))
    data = {"user": session.user_id, "because": because}
    work.audit("session.revoked", subject=session.id, data=data)


def revoke_sessions(
    work: UnitOfWork, user_id: str, *, but: str | None = None, because: str
) -> None:
    """Revoke all sessions of an account, except one; the event's subject is the account."""

    async def write(connection: Connection) -> None:
        await connection.execute(
            "UPDATE sessions SET revoked_at = ?, revoked_because = ? "
            "WHERE user_id = ? AND id <> ? AND revoked_at IS NULL",
            [work.now, because, user_id, but or ""],
        )

    work.step(write)
    work.forget(user_id)
    work.announce(_revoked(work, user_id, "user", user_id))
    work.audit("session.revoked_all", subject=user_id, data={"because": because, "but": but})


def _revoked(work: UnitOfWork, user_id: str, kind: str, ident: str) -> Event:
    return Event(
        id=uuid7_hex(),
        type="session.revoked",
        at=work.now,
        user_id=user_id,
        subject={"kind": kind, "id": ident},
    )


def use_refresh_token(
    work: UnitOfWork, token: RefreshToken, session: Session, idle_s: float
) -> None:
    """Use a token up and keep its session awake; of two uses the second drops its unit."""

    async def write(connection: Connection) -> None:
        used = await connection.execute(
            "UPDATE refresh_tokens SET used_at = ? "
            "WHERE id = ? AND used_at IS NULL AND expires_at > ?",
            [work.now, token.id, work.now],
        )
        if not used:
            raise Stale("the refresh token was used before")
        # Row locks are taken in one order, token before session, here and nowhere otherwise.
        awake = await connection.execute(
            "UPDATE sessions SET last_seen_at = ?, idle_until = ? "
            "WHERE id = ? AND revoked_at IS NULL AND idle_until > ? AND expires_at > ?",
            [work.now, idle_end(session, idle_s, work.now), session.id, work.now, work.now],
        )
        if not awake:
            raise Stale("the session has ended")

    work.step(write)
    work.forget(session.id)

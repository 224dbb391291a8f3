"""Sessions: how they begin, with a cookie or with tokens, and how they end.

Functions here only collect in a unit of work; who calls commits it, and then answers.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from aiohttp import web
from pydantic import BaseModel

from limner.core.ids import new_id
from limner.core.unit import Commit, UnitOfWork
from limner.http.auth import access_tokens, cookies, passwords
from limner.http.call import Call
from limner.http.limits import client_address
from limner.storage.sql.accounts import User, digest, new_secret
from limner.storage.sql.sessions import (
    RefreshToken,
    Session,
    add_session,
    revoke_session,
)

REFRESH_PREFIX = "limr_"
AGENT_CHARACTERS = 255
ADDRESS_CHARACTERS = 64


@dataclass(frozen=True)
class SignedIn:
    """A new session of a browser; ``token`` is the value of its cookie."""

    session: Session
    token: str


class TokenPair(BaseModel):
    """An access token for ``expires_in`` seconds, and a refresh token for one use after that."""

    access_token: str
    refresh_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - the scheme's name (RFC 6750)
    expires_in: int = access_tokens.LIFE_S


def begin_web(call: Call, work: UnitOfWork, user: User, *, by: str) -> SignedIn:
    """Begin a session with a cookie; the one that the request came with ends.

    ``by`` is how they signed in: password, link, google, github or oidc. The cookie's value is
    always new, whatever the browser sent (session fixation, ASVS 5.0 section 7.2.4).
    """
    token = new_secret()
    session = _session(call, work, user, Session.WEB, by)
    session.sha256 = digest(token)
    _begin(work, user, session, call.caller.session if call.caller.by_cookie else None)
    return SignedIn(session, token)


async def commit_sign_in(call: Call, work: UnitOfWork) -> None:
    """Commit the session that a password has begun.

    Raises:
        Unauthenticated: ``invalid_credentials``; the password is another one by now, or the
            account is not active any more.
    """
    if await call.front.units.commit(work) is not Commit.DONE:
        raise passwords.wrong_credentials()


def put_cookie(call: Call, response: web.StreamResponse, signed_in: SignedIn) -> None:
    """Give the browser its cookie; call it after the commit."""
    session = signed_in.session
    life_s = int((session.expires_at - session.created_at).total_seconds())
    cookies.put(call.front, response, signed_in.token, life_s=life_s)
    if cookies.read(call.front, call.request, cookies.VISITOR) is not None:
        cookies.clear(call.front, response, cookies.VISITOR)


async def begin_token(call: Call, work: UnitOfWork, user: User, *, by: str) -> TokenPair:
    """Begin a session with access and refresh tokens.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    session = _session(call, work, user, Session.TOKEN, by)
    _begin(work, user, session)
    return await next_pair(call, work, session)


async def next_pair(call: Call, work: UnitOfWork, session: Session) -> TokenPair:
    """Give a pair for a session; the refresh token ends with the session, whenever it is used.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    refresh = REFRESH_PREFIX + new_secret()
    work.add(
        RefreshToken(
            id=new_id("refresh"),
            session_id=session.id,
            user_id=session.user_id,
            sha256=digest(refresh),
            created_at=work.now,
            expires_at=session.expires_at,
        )
    )
    access = await access_tokens.issue(call.front, session.user_id, session.id)
    return TokenPair(access_token=access, refresh_token=refresh)


def _session(call: Call, work: UnitOfWork, user: User, kind: str, by: str) -> Session:
    tunables, now = call.front.tunables.latest, work.now
    expires_at = now + timedelta(seconds=tunables.session_life_s)
    return Session(
        id=new_id("session"),
        user_id=user.id,
        kind=kind,
        created_at=now,
        last_seen_at=now,
        idle_until=min(expires_at, now + timedelta(seconds=tunables.session_idle_s)),
        expires_at=expires_at,
        signed_in_by=by,
        user_agent=_plain(call.request.headers.get("User-Agent", ""))[:AGENT_CHARACTERS],
        address=client_address(call.front, call.request)[:ADDRESS_CHARACTERS],
    )


def _plain(text: str) -> str:
    """Give a header without what no column takes: bytes that are no UTF-8, and controls."""
    return "".join(one for one in text.encode(errors="replace").decode() if one.isprintable())


def _begin(work: UnitOfWork, user: User, session: Session, former: Session | None = None) -> None:
    """Begin a session in ``work``, if the account is still as it was when it was looked at.

    A password that was set, or an account that was disabled or deleted meanwhile, has ended all
    sessions: this one must not begin after that. The account is locked before any session, as
    whoever ends its sessions does.
    """
    work.actor_id = user.id
    guard = {"state": "active", "password_hash": user.password_hash}
    work.change(user, guard=guard, last_sign_in_at=work.now)
    if former is not None:
        revoke_session(work, former, because="signed_in_again")
    add_session(work, session)
    work.audit(
        "user.signed_in",
        subject=user.id,
        data={"by": session.signed_in_by, "session": session.id, "kind": session.kind},
    )

"""Refresh tokens: each is used once and gives the next pair (RFC 9700 section 4.14.2).

There is no time of grace. A second use of a token means that two hold it, and nobody can tell who
is the thief: the session ends, and with it every token it gave. That goes for uses at the same
moment too: of fifty one gets a pair, and the others end the session. A client that shares its
tokens between parts of itself lets one of them refresh.
"""

from limner.core.errors import Unauthenticated
from limner.core.logs import get_logger
from limner.core.unit import Commit
from limner.http.auth.devices import device_of
from limner.http.auth.sessions import TokenPair, next_pair
from limner.http.call import Call
from limner.storage.sql.accounts import active_user, digest
from limner.storage.sql.notifications import notify
from limner.storage.sql.sessions import (
    RefreshToken,
    Session,
    revoke_session,
    session_lives,
    use_refresh_token,
)

log = get_logger("http")

REUSED = "session.refresh_reused"


async def refresh(call: Call, secret: str) -> TokenPair:
    """Use a refresh token up and give the next pair of its session.

    Raises:
        Unauthenticated: it is none of ours or its session has ended; one answer for all.
        EngineUnavailable: the database does not answer.
    """
    token, session = await _found(secret)
    if not session_lives(session, call.now):
        raise _refused()
    if token.used_at is not None:
        await _end_of_both(call, token, session)
        raise _refused()
    user = await active_user(session.user_id)
    work = call.work()
    work.actor_id = user.id
    use_refresh_token(work, token, session, (await call.front.tunables.current()).session_idle_s)
    pair = await next_pair(call, work, session)
    if await call.front.units.commit(work) is Commit.DONE:
        return pair
    token, session = await _found(secret)
    if token.used_at is not None:
        await _end_of_both(call, token, session)
    raise _refused()


async def _found(secret: str) -> tuple[RefreshToken, Session]:
    token = await RefreshToken.get_or_none(sha256=digest(secret))
    session = await Session.get_or_none(id=token.session_id) if token is not None else None
    if token is None or session is None:
        raise _refused()
    return token, session


async def _end_of_both(call: Call, token: RefreshToken, session: Session) -> None:
    """Revoke the session and tell its owner, once whoever else does so at the same time."""
    work = call.work()
    data = {"user": session.user_id, "token": token.id, "device": device_of(session.user_agent)}
    revoke_session(work, session, because="refresh_reused", once=True)
    work.audit(REUSED, subject=session.id, data=data)
    notify(work, session.user_id, REUSED, subject=session.id, data={"device": data["device"]})
    if await call.front.units.commit(work) is Commit.DONE:
        log.warning("a refresh token was used twice; its session has ended", session=session.id)


def _refused() -> Unauthenticated:
    return Unauthenticated("The refresh token is not valid; sign in again", code="token_invalid")

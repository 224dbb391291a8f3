"""Who is calling: an account by its API key, its access token or its session cookie, or nobody.

An Authorization header wins over a cookie, which browsers send along by themselves; a header that
is not valid makes nobody, whatever cookie is beside it. What a credential was found to be is
remembered for some seconds: a change by this process counts at once, a change by another one when
its event comes or after ``LIFE_S`` seconds.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeAlias
from weakref import WeakKeyDictionary

from aiohttp import web

from limner.core.clock import Clock
from limner.core.errors import EngineUnavailable, Unauthenticated
from limner.core.recent import Recent
from limner.http.auth import access_tokens, cookies
from limner.http.ports import Front
from limner.storage.sql.accounts import (
    ADMIN,
    KEY_PREFIX,
    ApiKey,
    User,
    active_user,
    digest,
    effective_scopes,
    find_key,
    key_lives,
    note_use,
    use_is_stale,
)
from limner.storage.sql.database import Database
from limner.storage.sql.living import active_roles, living_keys, living_sessions
from limner.storage.sql.remembered import Remembered
from limner.storage.sql.sessions import Session, note_session_use, session_lives

BEARER = "bearer "
OPS_READ = "ops:read"
REPORTS = frozenset({"/healthz", "/metrics", "/readyz"})
"""What an operator reads to learn which engine is away, the database included."""
LOOK_UP_LIMIT_S = 2.0
REMEMBERED_S = 300.0
REMEMBERED_LIMIT = 1_000


@dataclass(frozen=True, eq=False)
class Caller:
    """An account and what this credential lets it do; ``user`` is None for nobody.

    ``key`` or ``session`` is what the credential stands for; ``expires_at`` is the end of an access
    token, which ends before its session.
    """

    user: User | None = None
    scopes: frozenset[str] = frozenset()
    key: ApiKey | None = None
    session: Session | None = None
    expires_at: datetime | None = None
    fault: Unauthenticated | None = None

    @property
    def id(self) -> str:
        """The account's id, or an empty string."""
        return self.user.id if self.user else ""

    @property
    def is_known(self) -> bool:
        """Whether there is an account."""
        return self.user is not None

    @property
    def by_cookie(self) -> bool:
        """Whether the credential is one that browsers send by themselves."""
        return self.session is not None and self.session.kind == Session.WEB

    @property
    def is_admin(self) -> bool:
        """Whether everything of everybody may be seen."""
        return ADMIN in self.scopes

    def sees(self, user_id: str | None) -> bool:
        """Whether an object of ``user_id`` exists for this caller."""
        return self.is_admin or (self.user is not None and self.user.id == user_id)

    def is_over(self, now: datetime) -> bool:
        """Whether the credential has ended by the time alone, or was revoked when it was read."""
        if self.expires_at is not None and self.expires_at <= now:
            return True
        if self.session is not None and not session_lives(self.session, now):
            return True
        return self.key is not None and not key_lives(self.key, now)


LookUp: TypeAlias = Callable[[Front, str, str], Awaitable[Caller]]


class RecentCallers:
    """Who was let in during the last minutes and may read the reports; for a database outage.

    The report that says which engine is away is needed most while the database is, and then no
    key can be looked up. Whoever the database itself has vouched for within ``life_s`` seconds is
    therefore believed for ``REPORTS`` and nothing else: the caller that is given has the scope
    ``ops:read`` alone. The price is that a key which is revoked during an outage, or by another
    process just before it, can go on to read the health report and the metrics, which hold no
    user's data, for ``life_s`` seconds at most; being believed does not renew them. Only digests
    of credentials are kept, and of at most ``limit`` callers.
    """

    def __init__(
        self, clock: Clock, limit: int = REMEMBERED_LIMIT, life_s: float = REMEMBERED_S
    ) -> None:
        self._clock = clock
        self._seen: Recent[Caller] = Recent(clock, life_s, limit)

    def __len__(self) -> int:
        """Give how many are remembered."""
        return len(self._seen)

    def note(self, credential: str, caller: Caller) -> None:
        """Remember whom the database has just let in, if the scope is theirs."""
        self.forget(credential)
        if OPS_READ in caller.scopes:
            self._seen.note(credential, replace(caller, scopes=frozenset({OPS_READ})))

    def forget(self, credential: str) -> None:
        """Remember nobody by a credential, e.g. because the database has just refused it."""
        self._seen.forget(credential)

    def find(self, credential: str) -> Caller | None:
        """Give the caller, with the scope ``ops:read`` alone, if they may still be believed."""
        caller = self._seen.find(credential)
        if caller is None or caller.is_over(self._clock.now()):
            return None
        return caller


_recent: WeakKeyDictionary[Database, RecentCallers] = WeakKeyDictionary()
"""What each database of this process has said lately of those who called."""


def recent_callers(front: Front) -> RecentCallers:
    """Give who was let in lately by the front's database."""
    recent = _recent.get(front.database)
    if recent is None:
        recent = _recent[front.database] = RecentCallers(front.clock)
    return recent


def _memory(front: Front) -> Remembered[Caller]:
    return front.database.memory("callers")


def forget_session(front: Front, ident: str) -> None:
    """Ask the database again about a session, or all of an account: what ``session.revoked`` names.

    Another process has revoked it; without this the change shows within seconds all the same.
    """
    front.database.forget([ident])


async def identify(front: Front, request: web.Request) -> Caller:
    """Find out who calls; a credential that is not valid makes nobody, with ``fault`` set.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    headers = request.headers.getall("Authorization", [])
    try:
        if headers:
            secret = _secret_of(headers)
            if secret.startswith(KEY_PREFIX):
                return await _known(front, request, "key", secret, _by_key)
            return await _known(front, request, "token", secret, _by_token)
        cookie = cookies.read(front, request)
        if cookie is not None:
            return await _known(front, request, "session", cookie, _by_cookie)
    except Unauthenticated as error:
        return Caller(fault=error)
    return Caller()


def _secret_of(headers: list[str]) -> str:
    if len(headers) > 1:
        raise Unauthenticated("send one Authorization header")
    if headers[0][: len(BEARER)].lower() != BEARER:
        raise Unauthenticated("use Authorization: Bearer with an API key or an access token")
    return headers[0][len(BEARER) :].strip()


async def _known(
    front: Front, request: web.Request, kind: str, secret: str, look_up: LookUp
) -> Caller:
    """Look a credential up; for the reports, believe a recent answer where there is none now."""
    credential = f"{kind} {digest(secret)}"
    recent = recent_callers(front)
    try:
        if not _asks_for_report(request):
            return await _remembered(front, secret, credential, look_up)
        async with asyncio.timeout(LOOK_UP_LIMIT_S):
            return await look_up(front, secret, credential)
    except Unauthenticated:
        recent.forget(credential)
        raise
    except (EngineUnavailable, TimeoutError) as error:
        caller = recent.find(credential) if _asks_for_report(request) else None
        if caller is not None:
            return caller
        if isinstance(error, EngineUnavailable):
            raise
        raise EngineUnavailable("The database does not answer in time") from error


async def _remembered(front: Front, secret: str, credential: str, look_up: LookUp) -> Caller:
    """Ask this process's memory, else the database; refuse what has ended since it was read."""

    async def load() -> tuple[Caller, list[str]]:
        found = await look_up(front, secret, credential)
        rows = (found.user, found.key, found.session)
        return found, [str(row.pk) for row in rows if row is not None]

    caller = await _memory(front).get(credential, load)
    if caller.is_over(front.clock.now()):
        raise Unauthenticated("the credential has expired", code="token_invalid")
    return caller


def _asks_for_report(request: web.Request) -> bool:
    """Whether the request is for one of ``REPORTS``; ``/readyz`` asks who calls if verbose only.

    Another method than theirs matches no route and has no resource.
    """
    resource = request.match_info.route.resource
    return resource is not None and resource.canonical in REPORTS


async def _by_key(front: Front, secret: str, credential: str) -> Caller:
    now = front.clock.now()
    user, key = await find_key(secret, now)
    caller = Caller(user, effective_scopes(user, frozenset(key.scopes)), key)
    recent_callers(front).note(credential, caller)
    if use_is_stale(key, now):
        await note_use(front.database.write(), key, now)
    return caller


async def _by_token(front: Front, token: str, credential: str) -> Caller:
    claims = await access_tokens.read(front, token)
    session = await Session.get_or_none(id=claims.session_id, kind=Session.TOKEN)
    if session is None or session.user_id != claims.user_id:
        raise access_tokens.refused()
    return await _by_session(front, session, credential, access_tokens.refused, claims.expires_at)


async def _by_cookie(front: Front, value: str, credential: str) -> Caller:
    session = await Session.get_or_none(sha256=digest(value), kind=Session.WEB)
    if session is None:
        raise _ended()
    return await _by_session(front, session, credential, _ended)


async def _by_session(
    front: Front,
    session: Session,
    credential: str,
    refused: Callable[[], Unauthenticated],
    expires_at: datetime | None = None,
) -> Caller:
    now = front.clock.now()
    if not session_lives(session, now):
        raise refused()
    user = await active_user(session.user_id)
    idle_s = (await front.tunables.current()).session_idle_s
    await note_session_use(front.database.write(), session, idle_s, now)
    caller = Caller(user, effective_scopes(user), session=session, expires_at=expires_at)
    recent_callers(front).note(credential, caller)
    return caller


def _ended() -> Unauthenticated:
    return Unauthenticated("This session has ended; sign in again", code="token_invalid")


async def still_valid(front: Front, callers: Iterable[Caller]) -> set[Caller]:
    """Give those whose account is active with the same rights, and whose credential lives.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    now = front.clock.now()
    everybody = [caller for caller in callers if not _token_is_over(caller, now)]
    database = front.database.read()
    roles = await active_roles(database, {caller.id for caller in everybody})
    keys = {caller.key.id for caller in everybody if caller.key}
    sessions = {caller.session.id for caller in everybody if caller.session}
    keys = await living_keys(database, keys, now)
    sessions = await living_sessions(database, sessions, now)
    return {
        caller
        for caller in everybody
        if caller.user is not None
        # With another role they may do other things: they come back and are asked anew.
        and roles.get(caller.id) == caller.user.role
        and (caller.key is None or caller.key.id in keys)
        and (caller.session is None or caller.session.id in sessions)
    }


def _token_is_over(caller: Caller, now: datetime) -> bool:
    return caller.expires_at is not None and caller.expires_at <= now

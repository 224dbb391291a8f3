"""Who is calling: an account by its bearer key or its session cookie, or nobody."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias
from weakref import WeakKeyDictionary

from aiohttp import web

from limner.core.clock import Clock
from limner.core.errors import EngineUnavailable, Unauthenticated
from limner.http.auth import cookies
from limner.http.ports import Front
from limner.storage.sql.accounts import (
    ADMIN,
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
from limner.storage.sql.reading import by_ids

BEARER = "bearer "
OPS_READ = "ops:read"
REPORTS = frozenset({"/healthz", "/metrics", "/readyz"})
"""What an operator reads to learn which engine is away, the database included."""
LOOK_UP_LIMIT_S = 2.0
REMEMBERED_S = 300.0
REMEMBERED_LIMIT = 1_000


@dataclass(frozen=True, eq=False)
class Caller:
    """An account and what this credential lets it do; ``user`` is None for nobody."""

    user: User | None = None
    scopes: frozenset[str] = frozenset()
    key: ApiKey | None = None
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
        return self.user is not None and self.key is None

    @property
    def is_admin(self) -> bool:
        """Whether everything of everybody may be seen."""
        return ADMIN in self.scopes

    def sees(self, user_id: str | None) -> bool:
        """Whether an object of ``user_id`` exists for this caller."""
        return self.is_admin or (self.user is not None and self.user.id == user_id)


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
        self._limit = limit
        self._life_s = life_s
        self._seen: OrderedDict[str, tuple[Caller, float]] = OrderedDict()

    def __len__(self) -> int:
        """Give how many are remembered."""
        return len(self._seen)

    def note(self, credential: str, caller: Caller) -> None:
        """Remember whom the database has just let in, if the scope is theirs."""
        self.forget(credential)
        if OPS_READ in caller.scopes:
            believed = replace(caller, scopes=frozenset({OPS_READ}))
            self._seen[credential] = (believed, self._clock.monotonic() + self._life_s)
        self._drop()

    def forget(self, credential: str) -> None:
        """Remember nobody by a credential, e.g. because the database has just refused it."""
        self._seen.pop(credential, None)

    def find(self, credential: str) -> Caller | None:
        """Give the caller, with the scope ``ops:read`` alone, if they may still be believed."""
        self._drop()
        caller, _ = self._seen.get(credential, (None, 0.0))
        if caller is None or (caller.key and not key_lives(caller.key, self._clock.now())):
            return None
        return caller

    def _drop(self) -> None:
        """Drop whose time is over, and the oldest of too many; they stand in the order of it."""
        now_s = self._clock.monotonic()
        while self._seen:
            _, until_s = next(iter(self._seen.values()))
            if until_s > now_s and len(self._seen) <= self._limit:
                return
            self._seen.popitem(last=False)


_recent: WeakKeyDictionary[Database, RecentCallers] = WeakKeyDictionary()
"""What each database of this process has said lately of those who called."""


def recent_callers(front: Front) -> RecentCallers:
    """Give who was let in lately by the front's database."""
    recent = _recent.get(front.database)
    if recent is None:
        recent = _recent[front.database] = RecentCallers(front.clock)
    return recent


async def identify(front: Front, request: web.Request) -> Caller:
    """Find out who calls; a credential that is not valid makes nobody, with ``fault`` set.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    header = request.headers.get("Authorization")
    try:
        if header is not None:
            return await _known(front, request, "key", _secret_of(header), _by_key)
        token = cookies.read(front, request)
        if token is not None:
            return await _known(front, request, "session", token, _by_cookie)
    except Unauthenticated as error:
        return Caller(fault=error)
    return Caller()


def _secret_of(header: str) -> str:
    if header[: len(BEARER)].lower() != BEARER:
        raise Unauthenticated("use Authorization: Bearer with an API key")
    return header[len(BEARER) :].strip()


async def _known(
    front: Front, request: web.Request, kind: str, secret: str, look_up: LookUp
) -> Caller:
    """Look a credential up; for the reports, believe a recent answer where there is none now."""
    credential = f"{kind} {digest(secret)}"
    if not _asks_for_report(request):
        return await look_up(front, secret, credential)
    try:
        async with asyncio.timeout(LOOK_UP_LIMIT_S):
            return await look_up(front, secret, credential)
    except (EngineUnavailable, TimeoutError) as error:
        caller = recent_callers(front).find(credential)
        if caller is not None:
            return caller
        if isinstance(error, EngineUnavailable):
            raise
        raise EngineUnavailable("The database does not answer in time") from error


def _asks_for_report(request: web.Request) -> bool:
    """Whether the request is for one of ``REPORTS``; ``/readyz`` asks who calls if verbose only.

    Another method than theirs matches no route and has no resource.
    """
    resource = request.match_info.route.resource
    return resource is not None and resource.canonical in REPORTS


async def _by_key(front: Front, secret: str, credential: str) -> Caller:
    now, recent = front.clock.now(), recent_callers(front)
    try:
        user, key = await find_key(secret, now)
    except Unauthenticated:
        recent.forget(credential)
        raise
    caller = Caller(user, effective_scopes(user, frozenset(key.scopes)), key)
    recent.note(credential, caller)
    if use_is_stale(key, now):
        await note_use(front.database.write(), key, now)
    return caller


async def _by_cookie(front: Front, token: str, credential: str) -> Caller:
    recent = recent_callers(front)
    try:
        user = await active_user(cookies.user_of(front, token))
    except Unauthenticated:
        recent.forget(credential)
        raise
    caller = Caller(user, effective_scopes(user))
    recent.note(credential, caller)
    return caller


async def still_valid(front: Front, callers: Iterable[Caller]) -> set[Caller]:
    """Give those whose account is still active and whose key still lives.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    everybody = list(callers)
    now = front.clock.now()
    users = await by_ids(User, {caller.id for caller in everybody})
    keys = await by_ids(ApiKey, {caller.key.id for caller in everybody if caller.key})
    active = {user.id for user in users if user.state == "active"}
    living = {key.id for key in keys if key_lives(key, now)}
    return {
        caller
        for caller in everybody
        if caller.id in active and (caller.key is None or caller.key.id in living)
    }

"""Who is calling: an account by its bearer key or its session cookie, or nobody."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from aiohttp import web

from limner.core.errors import Unauthenticated
from limner.http.auth import cookies
from limner.http.ports import Front
from limner.storage.sql.accounts import (
    ADMIN,
    ApiKey,
    User,
    active_user,
    effective_scopes,
    find_key,
    key_lives,
    note_use,
    use_is_stale,
)
from limner.storage.sql.reading import by_ids

BEARER = "bearer "


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


async def identify(front: Front, request: web.Request) -> Caller:
    """Find out who calls; a credential that is not valid makes nobody, with ``fault`` set.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    now = front.clock.now()
    header = request.headers.get("Authorization")
    try:
        if header is not None:
            return await _by_key(front, header, now)
        token = cookies.read(front, request)
        if token is not None:
            user = await active_user(cookies.user_of(front, token))
            return Caller(user, effective_scopes(user))
    except Unauthenticated as error:
        return Caller(fault=error)
    return Caller()


async def _by_key(front: Front, header: str, now: datetime) -> Caller:
    if header[: len(BEARER)].lower() != BEARER:
        raise Unauthenticated("use Authorization: Bearer with an API key")
    user, key = await find_key(header[len(BEARER) :].strip(), now)
    if use_is_stale(key, now):
        await note_use(front.database.write(), key, now)
    return Caller(user, effective_scopes(user, frozenset(key.scopes)), key)


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

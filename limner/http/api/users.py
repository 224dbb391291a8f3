"""Accounts, for administrators: made, listed, changed, disabled and deleted."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from limner.actors.mailer.messages import AccountMail
from limner.actors.sweeper.messages import after_deletion
from limner.core.emails import normal_email
from limner.core.errors import Forbidden, Invalid, NotFound
from limner.core.unit import UnitOfWork
from limner.http.auth.fields import AnyAddress, Language, Name
from limner.http.body import Form
from limner.http.call import Call
from limner.http.etags import tagged
from limner.http.listing import Listing, Page, page_of, rows_of
from limner.http.routes import Answer, Result, Route
from limner.storage.sql.accounts import ADMIN, User
from limner.storage.sql.action_links import ActionLink, create_link
from limner.storage.sql.sessions import revoke_sessions
from limner.storage.sql.users import create_user, delete_user, keep_an_admin, tell_of_role

Role = Literal["user", "tutor", "admin"]
Plan = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,15}$", examples=["free"])]
State = Literal["active", "disabled"]

TAKEN = "an account has this address"


class UserIn(Form):
    """A new account; its owner is mailed a link to set a password."""

    email: AnyAddress
    name: Name = ""
    role: Role = "user"
    plan: Plan = "free"
    language: Language = "en"
    verified: bool = False


class UserPatch(Form):
    """What to change; null leaves a field as it is."""

    name: Name | None = None
    role: Role | None = None
    plan: Plan | None = None
    state: State | None = None
    verified: bool | None = None


class UserOut(BaseModel):
    """An account."""

    id: str
    email: str | None
    name: str
    role: str
    plan: str
    state: str
    language: str
    timezone: str
    verified: bool
    has_password: bool
    totp_enabled: bool
    is_owner: bool
    created_at: datetime
    updated_at: datetime
    last_sign_in_at: datetime | None


class UserQuery(Listing):
    """Filters of the list."""

    email: AnyAddress | None = None
    role: Role | None = None
    state: Literal["active", "disabled", "deleted"] | None = None
    plan: str | None = None

    def filters(self) -> dict[str, Any]:
        """Give the columns to filter by; an address may be typed in any case."""
        asked = super().filters()
        if "email" in asked:
            asked["email"] = asked["email"].strip().lower()
        return asked


def shown(user: User) -> UserOut:
    """Give an account as administrators see it."""
    same = {name: getattr(user, name) for name in UserOut.model_fields if hasattr(user, name)}
    return UserOut(**same, verified=user.is_verified)


async def listed(call: Call, query: UserQuery) -> Result:
    """List."""
    rows = User.filter(**query.filters())
    if query.state is None:
        rows = rows.exclude(state="deleted")
    return page_of(call, query, await rows_of(rows, query), shown)


async def found(call: Call) -> User:
    """Give the account in the path.

    Raises:
        NotFound: there is none, or it has been deleted.
    """
    user = await User.get_or_none(id=call.param("id"))
    if user is None or user.state == "deleted":
        raise NotFound("there is no such account")
    return user


def _check_may(call: Call, user: User | None, role: str | None) -> None:
    """Return if the caller may touch this account and give this role.

    A key that may only write accounts could otherwise make itself an administrator.

    Raises:
        Forbidden: an administrator is touched or made without the scope ``admin``.
    """
    touches_admin = user is not None and user.role == ADMIN
    if (touches_admin or role is not None) and not call.caller.is_admin:
        raise Forbidden("roles, and accounts of administrators, need the scope admin")


async def create(call: Call, body: UserIn) -> Result:
    """Make an account and mail its owner a link to set a password."""
    _check_may(call, None, body.role if body.role != "user" else None)
    work = call.work()
    user = create_user(
        work,
        normal_email(body.email),
        is_verified=body.verified,
        **body.model_dump(include={"name", "role", "plan", "language"}),
    )
    link = create_link(work, user, ActionLink.RESET)
    work.send(AccountMail(user_id=user.id, link_id=link.id))
    location = {"Location": call.url(f"/api/users/{user.id}")}
    return await call.answered(work, Answer(shown(user), headers=location), taken=TAKEN)


async def show(call: Call) -> Result:
    """Show one."""
    user = await found(call)
    return tagged(call, shown(user), user.version)


async def patch(call: Call, body: UserPatch) -> Result:
    """Change one; a role or a state that is taken away counts at once."""
    user = await found(call)
    _check_may(call, user, body.role)
    work = call.work()
    changes = body.model_dump(exclude_none=True, exclude={"state", "verified"})
    if body.verified is not None and body.verified != user.is_verified:
        changes["verified_at"] = work.now if body.verified else None
    if body.verified and user.email is None:
        raise Invalid(
            "nothing to verify", faults=[("/verified", "the account has no mail address")]
        )
    state = body.state or user.state
    if changes.get("role", ADMIN) != ADMIN or state != "active":
        keep_an_admin(work, user)
    _change(work, user, state, changes)
    if changes or state != user.state:
        fields = sorted({*changes, *(["state"] if state != user.state else [])})
        work.audit("user.changed", subject=user.id, data={"fields": fields, **_told(body)})
        await call.commit(work)
    return shown(await found(call))


def _change(work: UnitOfWork, user: User, state: str, changes: dict[str, Any]) -> None:
    if state != user.state:
        work.move(user, expected=user.state, to=state, **changes)
        if state == "disabled":
            revoke_sessions(work, user.id, because="disabled")
    elif changes:
        work.change(user, guard={"state": user.state}, **changes)
    if "role" in changes and changes["role"] != user.role:
        tell_of_role(work, user, changes["role"])


def _told(body: UserPatch) -> dict[str, Any]:
    """Give what the audit log keeps of a change: no names."""
    return body.model_dump(exclude_none=True, include={"role", "plan", "state", "verified"})


async def delete(call: Call) -> Result:
    """Delete one, for good; what it made goes soon after."""
    user = await found(call)
    _check_may(call, user, None)
    work = call.work()
    rest = after_deletion(user.id, user.confirmed_email, work.now)
    await delete_user(work, user, *rest, because="administrator")
    await call.commit(work)
    return None


LAST = {409: "This is the last administrator, or the account has just been changed"}

ROUTES = [
    Route(
        "GET",
        "/api/users",
        listed,
        "List the accounts",
        "users:read",
        answer=Page[UserOut],
        query=UserQuery,
    ),
    Route(
        "POST",
        "/api/users",
        create,
        "Make an account; its owner is mailed a link to set a password",
        "users:write",
        answer=UserOut,
        status=201,
        body=UserIn,
        creates=True,
        also={409: "An account has this address"},
    ),
    Route(
        "GET",
        "/api/users/{id}",
        show,
        "Show an account",
        "users:read",
        answer=UserOut,
        is_tagged=True,
    ),
    Route(
        "PATCH",
        "/api/users/{id}",
        patch,
        "Change an account, its role or its plan; disable or enable it",
        "users:write",
        answer=UserOut,
        body=UserPatch,
        also=LAST,
    ),
    Route(
        "DELETE",
        "/api/users/{id}",
        delete,
        "Delete an account and what it made",
        "users:write",
        status=204,
        also=LAST,
    ),
]

"""Whose account an identity signs in: a known one, a new one, and never one that has to guess.

An identity is (issuer, subject). The same mail address somewhere else proves nothing about an
account here: who runs the other place decides who has which address there. So an address that an
account has already never links by itself; its owner signs in and links by intent.

Who signs in elsewhere is not asked for a second factor here: a provider has its own, and often a
better one. The second factor of an account guards its password.
"""

from limner.core.emails import normal_email
from limner.core.errors import Conflict, Forbidden, Invalid, NotFound
from limner.core.unit import UnitOfWork
from limner.http.auth.confirmation import signed_in_recently
from limner.http.auth.oauth import Returned
from limner.http.auth.oauth_providers import Person
from limner.http.auth.sessions import SignedIn, begin_web
from limner.http.call import Call
from limner.storage.sql.accounts import User, active_user, new_user
from limner.storage.sql.identities import (
    Identity,
    find_identity,
    is_last_way,
    link_identity,
    unlink_identity,
    use_identity,
)

AGAIN = "This was done at the same moment elsewhere. Begin again"


async def sign_in(call: Call, returned: Returned) -> SignedIn:
    """Begin a session for whose identity it is; an unknown one makes a new account.

    Raises:
        Forbidden: ``account_disabled``; ``oauth_unverified``: the provider does not say that the
            address is theirs; ``registration_closed``.
        Conflict: ``oauth_account_exists``: an account has this address already.
    """
    person, by = returned.person, returned.provider.name
    identity = await find_identity(person.issuer, person.subject)
    if identity is None:
        return await _register(call, returned)
    user = await User.get_or_none(id=identity.user_id)
    if user is None or user.state != "active":
        raise Forbidden("This account is disabled", code="account_disabled")
    work = call.work()
    use_identity(work, identity, verified_email(person))
    signed_in = begin_web(call, work, user, by=by)
    await call.commit(work, taken=AGAIN)
    return signed_in


async def _register(call: Call, returned: Returned) -> SignedIn:
    """Make an account for a verified address that nobody has here."""
    person, provider = returned.person, returned.provider
    email = verified_email(person)
    if not email:
        raise Forbidden(
            f"{provider.label} does not say that you have a verified mail address. Verify it "
            "there, or make an account here with a password",
            code="oauth_unverified",
        )
    if await User.exists(email=email):
        raise Conflict(
            "There is an account with this mail address already. Sign in to it as before and link "
            f"{provider.label} in your account. If you forgot its password, set a new one",
            code="oauth_account_exists",
        )
    if not (await call.front.tunables.current()).registration_is_open:
        raise Forbidden("Accounts are made by an administrator here", code="registration_closed")
    user = new_user(email, name=person.name, verified_at=call.now)
    work = call.work()
    work.actor_id = user.id
    work.add(user)
    work.audit("user.registered", subject=user.id, data={"by": provider.name})
    _add(work, user, returned)
    signed_in = begin_web(call, work, user, by=provider.name)
    await call.commit(work, taken=AGAIN)
    return signed_in


async def link(call: Call, returned: Returned) -> None:
    """Link the identity to the account that asked for it; doing it twice changes nothing.

    Its address need not be verified: it decides nothing.

    Raises:
        Unauthenticated: the account is not active any more.
        Conflict: ``oauth_linked_elsewhere``: it signs in another account.
    """
    person, label = returned.person, returned.provider.label
    user = await active_user(call.caller.id)
    taken = f"This account at {label} signs in to another account here"
    identity = await find_identity(person.issuer, person.subject)
    if identity is not None and identity.user_id != user.id:
        raise Conflict(taken, code="oauth_linked_elsewhere")
    if identity is None:
        work = call.work()
        # An account that is deleted meanwhile must not keep the identity from a later one.
        work.change(user, guard={"state": "active"})
        _add(work, user, returned)
        await call.commit(work, taken=taken)


def _add(work: UnitOfWork, user: User, returned: Returned) -> None:
    person = returned.person
    link_identity(
        work,
        user,
        returned.provider.name,
        issuer=person.issuer,
        subject=person.subject,
        email=verified_email(person),
    )


async def unlink(call: Call, ident: str) -> None:
    """Remove one of the caller's identities.

    Raises:
        NotFound: the caller has none of this id.
        Conflict: ``last_way``: without it nobody could sign in to the account; ``stale``.
    """
    identity = await Identity.get_or_none(id=ident, user_id=call.caller.id)
    if identity is None:
        raise NotFound("there is no such identity")
    user = await active_user(call.caller.id)
    if await is_last_way(user, identity):
        raise Conflict(
            "This is the only way to sign in to the account. Set a password first", code="last_way"
        )
    work = call.work()
    unlink_identity(work, user, identity)
    await call.commit(work)


def check_recent(call: Call) -> None:
    """Return if the caller signed in with this browser within the last quarter of an hour.

    Who finds an open browser shall not be able to give the account another owner (ASVS 5.0
    section 7.5.1).

    Raises:
        Forbidden: ``sign_in_again``: longer ago; ``needs_browser``: not with a browser.
    """
    if not call.caller.by_cookie:
        raise Forbidden("Identities are linked in a browser", code="needs_browser")
    if not signed_in_recently(call):
        raise Forbidden(
            "Sign out and in again first, then link: this changes who can get into the account",
            code="sign_in_again",
        )


def verified_email(person: Person) -> str:
    """Give the person's address as accounts have it, or nothing if it is not verified or none."""
    try:
        return normal_email(person.email) if person.is_verified else ""
    except Invalid:
        return ""

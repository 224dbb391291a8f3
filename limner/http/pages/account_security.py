"""The page of what guards one's account: password, address, second factor, other ways in."""

from collections.abc import Mapping

from aiohttp import web

from limner.core.errors import Conflict, LimnerError
from limner.http.answers import content_of
from limner.http.api import totp
from limner.http.auth import oauth_accounts, registration
from limner.http.auth.csrf import read_form
from limner.http.auth.oauth import offered
from limner.http.body import Form
from limner.http.call import Call
from limner.http.pages.account_rooms import SECURITY, RoomQuery, room, seen
from limner.http.pages.declared import READ, WRITE, posted_to, shown_at
from limner.http.pages.form_state import EMPTY, FormState, fitted, refused
from limner.http.routes import Result
from limner.storage.sql.accounts import active_user
from limner.storage.sql.identities import Identity

FACTOR = f"{SECURITY}/second-factor"
FORMS = ("password_form", "email_form", "factor_form", "identity_form")
IDENTITIES_SHOWN = 50

# The page has several passwords; each error goes to the field of the form that was sent.
PASSWORD_NAMES = {"password_wrong": "current_password"}
EMAIL_NAMES = {"password_wrong": "password"}
FACTOR_NAMES = {"password": "factor_password", "password_wrong": "factor_password"}


class PasswordForm(Form):
    """The present password and the new one; ``account`` only helps programs that keep them."""

    account: str = ""
    current_password: str = ""
    new_password: str = ""


class EmailForm(Form):
    """The new address, and the password."""

    email: str = ""
    password: str = ""


class FactorForm(Form):
    """The password, and a code where there is a second factor already."""

    factor_password: str = ""
    code: str = ""


class CodeForm(Form):
    """A code of the authenticator."""

    code: str = ""


async def show(call: Call, query: RoomQuery) -> Result:
    """Show the page."""
    return await _room(call, done=query.done)


async def change_password(call: Call) -> Result:
    """Change the password."""
    typed = await read_form(call, PasswordForm)
    try:
        await registration.change_password(call, typed.current_password, typed.new_password)
    except LimnerError as error:
        return await _room(call, password_form=refused(error, names=PASSWORD_NAMES))
    return seen(SECURITY, "password")


async def send_link(call: Call) -> Result:
    """Send a link to set a password where there is none."""
    await read_form(call, Form)
    user = await active_user(call.caller.id)
    try:
        if user.email is None:
            raise Conflict("this account has no address")
        await registration.forgot(call, user.email)
    except LimnerError as error:
        return await _room(call, password_form=refused(error))
    return seen(SECURITY, "password-link")


async def change_email(call: Call) -> Result:
    """Send a link to the new address."""
    typed = await read_form(call, EmailForm)
    try:
        await registration.ask_email_change(call, typed.email, typed.password or None)
    except LimnerError as error:
        return await _room(call, email_form=refused(error, typed, EMAIL_NAMES))
    return seen(SECURITY, "email")


async def begin_factor(call: Call) -> Result:
    """Show a new secret; it is shown once, so that this is no 303."""
    typed = await read_form(call, FactorForm)
    try:
        body = fitted(totp.TotpIn, password=typed.factor_password or None)
        enrolment = content_of(await totp.begin(call, body))
    except LimnerError as error:
        return await _room(call, factor_form=refused(error, names=FACTOR_NAMES))
    return await room(call, "account_second_factor.html", SECURITY, enrolment=enrolment)


async def confirm_factor(call: Call) -> Result:
    """Turn the second factor on and show the recovery codes."""
    typed = await read_form(call, CodeForm)
    try:
        made = content_of(await totp.confirm(call, fitted(totp.CodeIn, code=typed.code)))
    except LimnerError as error:
        form = refused(error)
        return await room(call, "account_second_factor.html", SECURITY, form, enrolment=None)
    return await _codes(call, made)


async def renew_codes(call: Call) -> Result:
    """Show new recovery codes."""
    typed = await read_form(call, FactorForm)
    try:
        made = content_of(await totp.renew_codes(call, _proof(typed)))
    except LimnerError as error:
        return await _room(call, factor_form=refused(error, names=FACTOR_NAMES))
    return await _codes(call, made)


async def remove_factor(call: Call) -> Result:
    """Take the second factor away."""
    typed = await read_form(call, FactorForm)
    try:
        await totp.remove(call, _proof(typed))
    except LimnerError as error:
        return await _room(call, factor_form=refused(error, names=FACTOR_NAMES))
    return seen(SECURITY, "factor-off")


async def unlink(call: Call) -> Result:
    """Remove another way to sign in."""
    await read_form(call, Form)
    try:
        await oauth_accounts.unlink(call, call.param("id"))
    except Conflict as error:
        return await _room(call, identity_form=refused(error))
    return seen(SECURITY, "identity")


def _proof(typed: FactorForm) -> totp.Proof:
    return fitted(totp.Proof, password=typed.factor_password or None, code=typed.code)


async def _codes(call: Call, made: totp.RecoveryCodesOut) -> web.Response:
    codes = made.recovery_codes
    return await room(call, "account_recovery_codes.html", SECURITY, codes=codes)


async def _room(call: Call, *, done: str = "", **forms: FormState) -> web.Response:
    """Give the page; at most one of its forms has something to mend."""
    user = await active_user(call.caller.id)
    offers = offered(call.front.settings)
    identities = await Identity.filter(user_id=user.id).order_by("id").limit(IDENTITIES_SHOWN)
    linked = {identity.provider for identity in identities}
    states: Mapping[str, FormState] = {name: forms.get(name, EMPTY) for name in FORMS}
    return await room(
        call,
        "account_security.html",
        SECURITY,
        next(iter(forms.values()), EMPTY),
        done=done,
        user=user,
        identities=identities,
        labels={offer.name: offer.label for offer in offers},
        offers=[offer for offer in offers if offer.name not in linked],
        **states,
    )


ROUTES = [
    shown_at(SECURITY, show, "Show what guards my account", READ, query=RoomQuery),
    posted_to(f"{SECURITY}/password", change_password, "Change my password", WRITE),
    posted_to(f"{SECURITY}/password-link", send_link, "Send me a link to set a password", WRITE),
    posted_to(f"{SECURITY}/email", change_email, "Change my address", WRITE),
    posted_to(FACTOR, begin_factor, "Begin to set up a second factor", WRITE),
    posted_to(f"{FACTOR}/confirm", confirm_factor, "Turn the second factor on", WRITE),
    posted_to(f"{FACTOR}/codes", renew_codes, "Make new recovery codes", WRITE),
    posted_to(f"{FACTOR}/remove", remove_factor, "Take the second factor away", WRITE),
    posted_to(f"{SECURITY}/identities/{{id}}/remove", unlink, "Remove a way to sign in", WRITE),
]

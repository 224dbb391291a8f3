"""The pages where people make an account, confirm their address and set a password anew.

Nothing here says whether an address has an account. A link is used up by the button of its page
and never by being looked at.
"""

from aiohttp import web

from limner.core.errors import LimnerError
from limner.http.auth import registration
from limner.http.auth.csrf import read_form
from limner.http.auth.oauth import offered
from limner.http.body import Form
from limner.http.call import Call
from limner.http.pages.declared import PageQuery, posted_to, shown_at
from limner.http.pages.form_state import EMPTY, FormState, refused
from limner.http.pages.rendering import form_page, see_other
from limner.http.routes import Result

CHECK = "/check-mail"
RESET = "reset"


class RegisterForm(Form):
    """A new account."""

    name: str = ""
    email: str = ""
    password: str = ""


class AddressForm(Form):
    """Where a link shall be sent."""

    email: str = ""


class TokenForm(Form):
    """The token of a mail's link."""

    token: str = ""


class ResetForm(Form):
    """Either the address that a link shall be sent to, or a link's token and the new password."""

    email: str = ""
    token: str = ""
    password: str = ""


class TokenQuery(PageQuery):
    """The token of a mail's link."""

    token: str = ""


class CheckQuery(PageQuery):
    """What the mail is for."""

    why: str = ""


async def show_register(call: Call) -> Result:
    """Show the form for a new account."""
    return await _register_form(call, EMPTY)


async def register(call: Call) -> Result:
    """Make an account, and say that a mail is on its way, whether or not the address was free."""
    typed = await read_form(call, RegisterForm)
    try:
        await registration.register(call, typed.email, typed.password, typed.name)
    except LimnerError as error:
        return await _register_form(call, refused(error, typed))
    return see_other(CHECK)


async def check_mail(call: Call, query: CheckQuery) -> Result:
    """Say that a mail is on its way."""
    return await _check_form(call, EMPTY, is_reset=query.why == RESET)


async def resend(call: Call) -> Result:
    """Send the link that confirms an address again."""
    typed = await read_form(call, AddressForm)
    try:
        await registration.resend(call, typed.email)
    except LimnerError as error:
        return await _check_form(call, refused(error, typed), is_reset=False)
    return see_other(CHECK)


async def show_link(call: Call, query: TokenQuery) -> Result:
    """Show the button that confirms an address."""
    return await form_page(call, "verify_email.html", EMPTY, link=query.token)


async def verify(call: Call) -> Result:
    """Confirm an address."""
    typed = await read_form(call, TokenForm)
    try:
        confirmed = await registration.verify_email(call, typed.token)
    except LimnerError as error:
        return await form_page(call, "verify_email.html", refused(error), link="")
    if call.caller.is_known:
        return see_other("/account?done=confirmed")
    return see_other(f"/login?done={'verified' if confirmed.has_password else 'mailed'}")


async def show_reset(call: Call, query: TokenQuery) -> Result:
    """Show the form that asks for a link, or with a link's token the one for a new password."""
    return await form_page(call, "reset_password.html", EMPTY, link=query.token)


async def reset(call: Call) -> Result:
    """Send a link, or set a new password by one."""
    typed = await read_form(call, ResetForm)
    try:
        if typed.token:
            await registration.reset(call, typed.token, typed.password)
            return see_other("/login?done=reset")
        await registration.forgot(call, typed.email)
        return see_other(f"{CHECK}?why={RESET}")
    except LimnerError as error:
        # A link that does not work any more leaves the form that asks for another.
        link = typed.token if error.status != 401 else ""
        return await form_page(call, "reset_password.html", refused(error, typed), link=link)


async def _register_form(call: Call, form: FormState) -> web.Response:
    tunables = await call.front.tunables.current()
    return await form_page(
        call,
        "register.html",
        form,
        is_open=tunables.registration_is_open,
        offers=offered(call.front.settings),
    )


async def _check_form(call: Call, form: FormState, *, is_reset: bool) -> web.Response:
    return await form_page(call, "check_mail.html", form, is_reset=is_reset)


ROUTES = [
    shown_at("/register", show_register, "Show the form for a new account"),
    posted_to("/register", register, "Make an account"),
    shown_at(CHECK, check_mail, "Say that a mail is on its way", query=CheckQuery),
    posted_to("/verify-email/resend", resend, "Send the link again"),
    shown_at("/verify-email", show_link, "Ask to confirm an address", query=TokenQuery),
    posted_to("/verify-email", verify, "Confirm an address"),
    shown_at("/reset-password", show_reset, "Show the form for a new password", query=TokenQuery),
    posted_to("/reset-password", reset, "Send a link, or set a new password"),
]

"""The pages where people sign in and out; the second factor is asked for on a page of its own."""

from datetime import timedelta

from aiohttp import web
from yarl import URL

from limner.core.errors import LimnerError, Unauthenticated
from limner.http.api.sessions import log_out
from limner.http.auth import cookies, sessions
from limner.http.auth.csrf import read_form
from limner.http.auth.oauth import offered
from limner.http.auth.sign_in import right_password, second_step
from limner.http.body import Form
from limner.http.call import Call
from limner.http.local_paths import START, local_path
from limner.http.pages.declared import PageQuery, posted_to, shown_at
from limner.http.pages.form_state import EMPTY, FormState, refused
from limner.http.pages.rendering import form_page, see_other
from limner.http.pages.sign_up import ROUTES as SIGN_UP_ROUTES
from limner.http.routes import Result, Route
from limner.storage.sql.accounts import User, active_user, digest

TICKET = "second-step"
TICKET_LIFE_S = 300
DONE = {
    "reset": "Your new password is set. Sign in with it.",
    "verified": "Your address is confirmed. Sign in now.",
    "mailed": "Your address is confirmed. Another mail brings a link to set your password.",
    "left": "You are signed out.",
    "deleted": "Your account has been deleted.",
}


class LoginQuery(PageQuery):
    """Where to go afterwards, and what has just been done."""

    next: str = START
    done: str = ""


class LoginForm(Form):
    """Address and password."""

    email: str = ""
    password: str = ""
    next: str = START


class CodeForm(Form):
    """The second step: what the first one gave, and a code."""

    ticket: str = ""
    code: str = ""
    next: str = START


async def show(call: Call, query: LoginQuery) -> Result:
    """Show the form; who is signed in goes on."""
    if call.caller.is_known:
        return _onward(query.next)
    return await _form(call, EMPTY, query.next, done=DONE.get(query.done, ""))


async def sign_in(call: Call) -> Result:
    """Check address and password; begin a session, or ask for the second factor."""
    typed = await read_form(call, LoginForm)
    try:
        user = await right_password(call, typed.email, typed.password)
        if user.totp_enabled:
            return await _step(call, EMPTY, _ticket(call, user), typed.next)
        await second_step(call, user)
    except LimnerError as error:
        return await _form(call, refused(error, typed), typed.next)
    return await _begin(call, user, typed.next)


async def check_code(call: Call) -> Result:
    """Check the code of the second factor and begin a session."""
    typed = await read_form(call, CodeForm)
    try:
        user = await _of_ticket(call, typed.ticket)
    except Unauthenticated:
        again = Unauthenticated("that took too long; sign in again", code="ticket_expired")
        return await _form(call, refused(again), typed.next)
    try:
        await second_step(call, user, typed.code)
    except LimnerError as error:
        return await _step(call, refused(error), typed.ticket, typed.next)
    return await _begin(call, user, typed.next)


async def leave(call: Call) -> Result:
    """End the session and take the cookie back."""
    await read_form(call, Form)
    await log_out(call)
    response = see_other("/login?done=left")
    cookies.clear(call.front, response)
    return response


async def _begin(call: Call, user: User, wanted: str) -> web.Response:
    work = call.work()
    signed_in = sessions.begin_web(call, work, user, by="password")
    await sessions.commit_sign_in(call, work)
    response = _onward(wanted)
    sessions.put_cookie(call, response, signed_in)
    return response


def _onward(wanted: str) -> web.Response:
    return see_other(str(URL(local_path(wanted))))


def _ticket(call: Call, user: User) -> str:
    """Give what says for five minutes that this password was right; a new password voids it."""
    payload = {"user": user.id, "password": digest(user.password_hash or "")}
    return call.front.signer.token(TICKET, payload, call.now + timedelta(seconds=TICKET_LIFE_S))


async def _of_ticket(call: Call, ticket: str) -> User:
    """Give the account whose password was right.

    Raises:
        Unauthenticated: the ticket is not ours or too old, the password is another one by now, or
            the account is not active.
    """
    payload = call.front.signer.open(TICKET, ticket, call.now)
    user = await active_user(str(payload["user"]))
    if payload["password"] != digest(user.password_hash or ""):
        raise Unauthenticated("the password was changed", code="ticket_expired")
    return user


async def _form(call: Call, form: FormState, wanted: str, *, done: str = "") -> web.Response:
    return await form_page(
        call,
        "login.html",
        form,
        next=local_path(wanted),
        is_wall=False,
        may_wait=form.code == "invalid_credentials" and bool(form.value("email")),
        offers=offered(call.front.settings),
        done=done,
    )


async def _step(call: Call, form: FormState, ticket: str, wanted: str) -> web.Response:
    return await form_page(call, "second_step.html", form, ticket=ticket, next=local_path(wanted))


ROUTES: list[Route] = [
    *SIGN_UP_ROUTES,
    shown_at("/login", show, "Show the form to sign in", query=LoginQuery),
    posted_to("/login", sign_in, "Sign in"),
    posted_to("/login/code", check_code, "Sign in with the second factor"),
    posted_to("/logout", leave, "Sign out"),
]

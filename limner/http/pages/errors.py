"""Errors as pages, for who came with a browser."""

from http import HTTPStatus

from aiohttp import web

from limner.core.errors import Unauthenticated
from limner.http.auth.oauth import offered
from limner.http.call import CALLER, FRONT, REQUEST_ID
from limner.http.local_paths import START, local_path
from limner.http.pages.form_state import SERVER_ERROR, FormState, sentence_of
from limner.http.pages.rendering import frame_of, render, shown

UNAUTHENTICATED = 401
SENTENCES = {
    "link_expired": "This link has been used or has expired.",
    "token_expired": "This link has expired.",
    "token_invalid": "This link is not whole. Copy all of it from where you got it.",
    "csrf": "This page was open for too long, or it was not ours. Go back, load it again and "
    "send it once more.",
    "provider_away": "The service you wanted to sign in by does not answer now. Try again in a "
    "minute, or sign in another way.",
    "provider_failed": "Signing in there does not work. Sign in another way, and tell whoever runs "
    "this service.",
}


BY_STATUS = {
    404: "There is nothing at this address.",
    405: "This address shows nothing by itself. Go back to the page you came from.",
    413: "That is too large to be sent here.",
    500: "Something went wrong here. The request below names it in the log.",
    503: "This cannot be done right now. Try again in a minute.",
}


def error_page(request: web.Request, status: int, code: str, detail: str) -> web.Response:
    """Give the page for an error; who is not signed in can sign in on it, and comes back."""
    told = detail if status < SERVER_ERROR else ""
    sentence = SENTENCES.get(code) or told or BY_STATUS.get(status, "")
    if status == UNAUTHENTICATED:
        fault = _fault_of(request)
        if fault is not None and fault.detail == detail:
            return _sign_in(request, sentence_of(detail), is_wall=True)
        is_wall = code == "unauthenticated"
        return _sign_in(request, "" if is_wall else sentence, is_wall=is_wall)
    text = render(
        "error.html",
        frame_of(request),
        title=HTTPStatus(status).phrase,
        sentence=sentence_of(sentence) if sentence else "",
        request_id=request.get(REQUEST_ID, ""),
    )
    return shown(text, status)


def _fault_of(request: web.Request) -> Unauthenticated | None:
    """Give what is wrong with the credential that the request came with, e.g. an ended session."""
    caller = request.get(CALLER)
    return caller.fault if caller is not None else None


def _sign_in(request: web.Request, sentence: str, *, is_wall: bool) -> web.Response:
    """Give the form to sign in; ``is_wall``: in place of a page, which is shown afterwards."""
    wanted = request.path_qs if request.method == "GET" and is_wall else START
    text = render(
        "login.html",
        frame_of(request),
        form=FormState(summary=sentence),
        next=local_path(wanted),
        is_wall=is_wall,
        may_wait=False,
        offers=offered(request.app[FRONT].settings),
        done="",
    )
    return shown(text, UNAUTHENTICATED)

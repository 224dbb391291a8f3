"""Errors as pages, for who came with a browser."""

from http import HTTPStatus

from aiohttp import web

from limner.http.call import CALLER, REQUEST_ID
from limner.http.pages.rendering import render

UNAUTHENTICATED = 401
SENTENCES = {
    "link_expired": "This link has been used or has expired.",
    "token_expired": "This link has expired.",
    "token_invalid": "This link is not whole. Copy all of it from where you got it.",
}


def error_page(request: web.Request, status: int, code: str, detail: str) -> web.Response:
    """Give the page for an error; who is not signed in is told how to sign in."""
    caller = request.get(CALLER)
    is_known = caller is not None and caller.is_known
    sentence = SENTENCES.get(code) or (detail if status < 500 else "")
    template = "sign_in.html" if status == UNAUTHENTICATED else "error.html"
    text = render(
        template,
        path="",
        is_known=is_known,
        code=code,
        title=HTTPStatus(status).phrase,
        sentence=sentence,
        request_id=request.get(REQUEST_ID, ""),
    )
    return web.Response(
        text=text,
        status=status,
        content_type="text/html",
        charset="utf-8",
        headers={"Cache-Control": "no-store"},
    )

"""Pages behind the links in mails: the result, and no more mails."""

from aiohttp import web

from limner.core.errors import Unauthenticated
from limner.http.body import read_raw
from limner.http.call import Call
from limner.http.pages.declared import posted_to, shown_at
from limner.http.pages.rendering import page
from limner.http.results import link_to, link_to_result, link_ttl_s
from limner.http.routes import Result
from limner.storage.sql.suppressions import suppress
from limner.storage.sql.tasks import Task

RESULT = "result"
UNSUBSCRIBE = "unsubscribe"
GONE = 410
FORM_LIMIT_BYTES = 4096


async def result(call: Call) -> Result:
    """Show the picture or video with a link made now; tell kindly if the mail's has expired."""
    ttl_s = await link_ttl_s(call)
    try:
        payload = call.front.signer.open(RESULT, call.param("signed"), call.now)
    except Unauthenticated as error:
        expired = error.code == "token_expired"
        return await _no_result(call, ttl_s, status=GONE if expired else 404, is_expired=expired)
    task = await Task.found(str(payload.get("task", "")))
    url = await link_to_result(call, task) if task is not None else None
    if task is None or url is None:
        return await _no_result(call, ttl_s, status=GONE, is_expired=False)
    poster_url = await link_to(call, task.poster_key) if task.poster_key else None
    is_video = task.result_type.startswith("video/")
    return await page(
        call,
        "result.html",
        task=task,
        url=url,
        poster_url=poster_url,
        ttl_s=ttl_s,
        is_video=is_video,
    )


async def _no_result(call: Call, ttl_s: int, *, status: int, is_expired: bool) -> web.Response:
    return await page(call, "no_result.html", status=status, ttl_s=ttl_s, is_expired=is_expired)


async def ask(call: Call) -> Result:
    """Ask before unsubscribing: programs that look at links in mails must not do it."""
    address = _address(call)
    return await page(call, "unsubscribe.html", status=200 if address else 404, address=address)


async def unsubscribe(call: Call) -> Result:
    """Write to the address no more; the button's form and RFC 8058's one click end here."""
    await read_raw(call.request, FORM_LIMIT_BYTES)
    address = _address(call)
    if address:
        work = call.work()
        work.step(suppress(address, "unsubscribed", work.now))
        work.audit("address.unsubscribed")
        await call.commit(work)
    return await page(call, "unsubscribed.html", status=200 if address else 404, address=address)


def _address(call: Call) -> str:
    """Give the address that the link names, or nothing if the link is not ours."""
    try:
        payload = call.front.signer.open(UNSUBSCRIBE, call.param("signed"), call.now)
    except Unauthenticated:
        return ""
    return str(payload.get("address", ""))


ROUTES = [
    shown_at("/r/{signed}", result, "Show a result"),
    shown_at("/unsubscribe/{signed}", ask, "Ask whether to unsubscribe"),
    posted_to("/unsubscribe/{signed}", unsubscribe, "Unsubscribe"),
]

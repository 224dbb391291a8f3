"""Pages from templates; everything is escaped, and a name that is missing is an error."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from limner.http.auth.callers import Caller
from limner.http.auth.csrf import token_for
from limner.http.call import CALLER, VERSION, Call
from limner.http.pages.declared import READ
from limner.http.pages.form_state import FormState
from limner.http.problems import whole_seconds
from limner.storage.sql.notifications import unread_count

NAVIGATION = (("/tasks", "Tasks", "tasks:read"), ("/mailbox", "Mailbox", "mailbox:read"))
DOCS = ("/docs", "Docs")
ACCOUNT = ("/account", "Account")
UNITS = (("day", 86_400), ("hour", 3600), ("minute", 60))


@dataclass(frozen=True)
class Frame:
    """What every page shows around its content: who looks at it, and where they can go."""

    path: str
    is_known: bool
    has_account: bool
    registers: bool
    navigation: tuple[tuple[str, str], ...]
    unread: int
    csrf_token: str
    version: str


def frame_of(request: web.Request, *, unread: int = 0, registers: bool = False) -> Frame:
    """Give the frame of a page that answers ``request``."""
    # A request that no middleware of ours let through has nobody yet.
    caller = request.setdefault(CALLER, Caller())
    has_account = READ in caller.scopes
    shown = [(path, name) for path, name, scope in NAVIGATION if scope in caller.scopes]
    shown.append(DOCS)
    if has_account:
        shown.append(ACCOUNT)
    return Frame(
        path=request.path,
        is_known=caller.is_known,
        has_account=has_account,
        registers=registers,
        navigation=tuple(shown),
        unread=unread,
        csrf_token=token_for(request),
        version=request.app[VERSION],
    )


def duration(seconds: float) -> str:
    """Give a duration in words: ``1 hour``, ``90 minutes``, ``7 days``."""
    for name, length_s in UNITS:
        if seconds >= length_s and seconds % length_s == 0:
            count = int(seconds // length_s)
            return f"{count} {name}" + ("s" if count != 1 else "")
    return f"{round(seconds / 60)} minutes"


def moment(at: datetime) -> str:
    """Give a time as people read it, in UTC; the page turns it into local time."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def machine_time(at: datetime) -> str:
    """Give a time for the ``datetime`` attribute."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("limner.http.pages"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=duration, moment=moment, machine_time=machine_time)
    return environment


ENVIRONMENT = _environment()


def render(template: str, frame: Frame, **values: Any) -> str:
    """Give a page's HTML."""
    return ENVIRONMENT.get_template(template).render(frame=frame, **values)


def shown(text: str, status: int = 200) -> web.Response:
    """Give a page's HTML as an answer that no cache keeps."""
    return web.Response(
        text=text,
        status=status,
        content_type="text/html",
        charset="utf-8",
        headers={"Cache-Control": "no-store"},
    )


def see_other(path: str) -> web.Response:
    """Send the browser on to look at another page (303, RFC 9110 section 15.4.4)."""
    return web.Response(status=303, headers={"Location": path})


async def form_page(call: Call, template: str, form: FormState, **values: Any) -> web.Response:
    """Give a page with a form: with the status of what refused it, if something did."""
    response = await page(call, template, status=form.status, form=form, **values)
    if form.retry_after_s is not None:
        response.headers["Retry-After"] = whole_seconds(form.retry_after_s)
    return response


async def page(
    call: Call, template: str, *, status: int = 200, unread: int | None = None, **values: Any
) -> web.Response:
    """Give a page as an answer; ``unread`` is how many notifications are, if that is known.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    frame = frame_of(
        call.request,
        unread=await _unread(call) if unread is None else unread,
        registers=not call.caller.is_known and await _registers(call),
    )
    return shown(render(template, frame, **values), status)


async def _unread(call: Call) -> int:
    return await unread_count(call.caller.id) if READ in call.caller.scopes else 0


async def _registers(call: Call) -> bool:
    tunables = await call.front.tunables.current()
    return tunables.registration_is_open

"""Pages from templates; everything is escaped, and a name that is missing is an error."""

from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from limner.http.call import Call

NAVIGATION = (("/tasks", "Tasks"), ("/mailbox", "Mailbox"), ("/docs", "API"))
UNITS = (("day", 86_400), ("hour", 3600), ("minute", 60))


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
    environment.globals["navigation"] = NAVIGATION
    return environment


ENVIRONMENT = _environment()


def render(template: str, *, path: str, is_known: bool, **values: Any) -> str:
    """Give a page's HTML; ``path`` marks the entry of the navigation."""
    return ENVIRONMENT.get_template(template).render(path=path, is_known=is_known, **values)


def page(call: Call, template: str, *, status: int = 200, **values: Any) -> web.Response:
    """Give a page as an answer."""
    text = render(template, path=call.request.path, is_known=call.caller.is_known, **values)
    return web.Response(
        text=text,
        status=status,
        content_type="text/html",
        charset="utf-8",
        headers={"Cache-Control": "no-store"},
    )

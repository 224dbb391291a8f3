"""The documentation page: every operation with its fields, answers and examples, and the problems.

It is made from the OpenAPI document, once, in a thread: some hundred operations take a while.
"""

import asyncio

from aiohttp import web
from markupsafe import Markup

from limner.core.errors import LimnerError
from limner.http.api.descriptions import OPENAPI
from limner.http.call import Call
from limner.http.pages.declared import shown_at
from limner.http.pages.reference import groups_of
from limner.http.pages.rendering import ENVIRONMENT, page
from limner.http.problems import CODES, DETAILS, SPECIAL
from limner.http.routes import Result

OWN_PACKAGE = "limner."
REFERENCE: web.AppKey[dict[str, Markup]] = web.AppKey("reference", dict)
"""What was made once: the page's part that is the same for everybody."""


async def docs(call: Call) -> Result:
    """Show the page."""
    made = call.request.app[REFERENCE]
    if "html" not in made:
        document = await call.request.app[OPENAPI].document()
        made["html"] = await asyncio.to_thread(_reference, document)
    return await page(call, "docs.html", reference=made["html"])


def _reference(document: dict[str, object]) -> Markup:
    template = ENVIRONMENT.get_template("reference.html")
    return Markup(template.render(groups=groups_of(document), problems=problems()))  # noqa: S704 - escaped by the template


def problems() -> list[tuple[int, str, str]]:
    """Give status, code and meaning of every problem that an answer may name."""
    found = {code: (status, DETAILS.get(status, "")) for status, code in CODES.items()}
    waiting = [LimnerError]
    while waiting:
        kind = waiting.pop()
        waiting += [one for one in kind.__subclasses__() if one.__module__.startswith(OWN_PACKAGE)]
        found[kind.code] = (kind.status, kind.__doc__ or "")
    found |= SPECIAL
    return sorted((status, code, _sentence(text)) for code, (status, text) in found.items())


def _sentence(text: str) -> str:
    """Give the first line of a docstring as one whole sentence for the page."""
    return text.strip().partition("\n")[0].replace("``", "").rstrip(".") + "."


ROUTES = [shown_at("/docs", docs, "Show the documentation")]

"""The documentation page: the operations, listed from the OpenAPI document, and the problems."""

from limner.core.errors import LimnerError
from limner.http.call import Call
from limner.http.pages.rendering import page
from limner.http.problems import CODES, DETAILS
from limner.http.routes import OPEN, Result, Route

OWN_PACKAGE = "limner."


async def docs(call: Call) -> Result:
    """Show the page; a script of ours fills the operations in."""
    return page(call, "docs.html", problems=problems())


def problems() -> list[tuple[int, str, str]]:
    """Give status, code and meaning of every problem that an answer may name."""
    found = {code: (status, DETAILS.get(status, "")) for status, code in CODES.items()}
    waiting = [LimnerError]
    while waiting:
        kind = waiting.pop()
        waiting += [one for one in kind.__subclasses__() if one.__module__.startswith(OWN_PACKAGE)]
        found[kind.code] = (kind.status, (kind.__doc__ or "").strip().partition("\n")[0])
    return sorted((status, code, text) for code, (status, text) in found.items())


ROUTES = [Route("GET", "/docs", docs, "Show the documentation", OPEN, is_documented=False)]

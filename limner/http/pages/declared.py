"""Routes of pages: a page that is shown, and a form that is posted."""

from pydantic import BaseModel

from limner.http.routes import OPEN, Handler, Route


def shown_at(
    path: str,
    handler: Handler,
    summary: str,
    access: str = OPEN,
    *,
    query: type[BaseModel] | None = None,
) -> Route:
    """Give the route of a page."""
    return Route("GET", path, handler, summary, access, query=query, is_documented=False)


def posted_to(path: str, handler: Handler, summary: str, access: str = OPEN) -> Route:
    """Give the route of a form; its handler reads it, and checks its token by that."""
    return Route("POST", path, handler, summary, access, reads_body=False, is_documented=False)

"""Routes of pages: a page that is shown, its query, and a form that is posted."""

from pydantic import BaseModel, ConfigDict

from limner.http.routes import OPEN, Handler, Route

READ = "account:read"
WRITE = "account:write"
"""What the pages of one's own account need."""


class PageQuery(BaseModel):
    """What a page's address may say; whatever else stands there is left alone."""

    model_config = ConfigDict(extra="ignore")


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

"""All routes of the front, in one list: served, described and tested from here."""

from limner.http.api import (
    audit,
    comments,
    deliveries,
    descriptions,
    health,
    intent,
    keys,
    mailbox,
    objects,
    ops,
    providers,
    sessions,
    settings,
    sources,
    streams,
    suppressions,
    tasks,
)
from limner.http.pages import docs, links, overview, static
from limner.http.pages import mailbox as mailbox_pages
from limner.http.pages import tasks as task_pages
from limner.http.routes import Route

ROUTES: list[Route] = [
    *sessions.ROUTES,
    *keys.ROUTES,
    *sources.ROUTES,
    *comments.ROUTES,
    *tasks.ROUTES,
    *streams.ROUTES,
    *deliveries.ROUTES,
    *intent.ROUTES,
    *providers.ROUTES,
    *mailbox.ROUTES,
    *settings.ROUTES,
    *audit.ROUTES,
    *suppressions.ROUTES,
    *ops.ROUTES,
    *health.ROUTES,
    *objects.ROUTES,
    *descriptions.ROUTES,
    *overview.ROUTES,
    *task_pages.ROUTES,
    *mailbox_pages.ROUTES,
    *docs.ROUTES,
    *links.ROUTES,
    *static.ROUTES,
]

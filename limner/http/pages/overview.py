"""The first page: what this is, and how many tasks are where."""

from limner.http.call import Call
from limner.http.pages.declared import shown_at
from limner.http.pages.rendering import page
from limner.http.routes import Result
from limner.storage.sql.reading import counts_by_state
from limner.storage.sql.sources import Source
from limner.storage.sql.tasks import Task


async def overview(call: Call) -> Result:
    """Show the overview; numbers only to who is signed in."""
    if "tasks:read" not in call.caller.scopes:
        return await page(call, "overview.html", counts=None, sources=0)
    tasks, sources = Task.all(), Source.exclude(state="deleted")
    if not call.caller.is_admin:
        tasks = tasks.filter(user_id=call.caller.id)
        sources = sources.filter(user_id=call.caller.id)
    counts = await counts_by_state(tasks)
    return await page(call, "overview.html", counts=counts, sources=await sources.count())


ROUTES = [shown_at("/", overview, "Show the overview")]

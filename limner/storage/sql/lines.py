"""Timelines read for streams: of many objects by one query."""

from collections.abc import Mapping, Sequence

from tortoise.expressions import Q
from tortoise.functions import Max

from limner.storage.sql.timeline import TimelineLine

LINES_PER_READ = 1000
DONE = "done"


async def lines_beyond(positions: Mapping[str, int]) -> tuple[list[TimelineLine], bool]:
    """Give the lines beyond each object's number, ascending, and whether these are all.

    One read gives ``LINES_PER_READ`` at most, counted over all objects.
    A read that was cut never ends with a ``done``: whether that was the last line, only the next
    read can tell.
    """
    wanted = Q(
        *(Q(object_id=ident, n__gt=number) for ident, number in positions.items()), join_type="OR"
    )
    lines = await TimelineLine.filter(wanted).order_by("object_id", "n").limit(LINES_PER_READ)
    is_whole = len(lines) < LINES_PER_READ
    if not is_whole and lines[-1].type == DONE:
        lines.pop()
    return lines, is_whole


async def last_numbers(idents: Sequence[str]) -> dict[str, int]:
    """Give the number of each object's newest line; objects without lines are left out."""
    rows = (
        await TimelineLine.filter(object_id__in=list(idents))
        .annotate(newest=Max("n"))
        .group_by("object_id")
        .values("object_id", "newest")
    )
    return {str(row["object_id"]): int(str(row["newest"])) for row in rows}

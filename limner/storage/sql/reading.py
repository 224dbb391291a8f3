"""Reads that many tables share: pages of rows newest first, batches, counts by state."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, TypeVar

from tortoise.exceptions import ValidationError
from tortoise.expressions import Q
from tortoise.functions import Count
from tortoise.models import Model
from tortoise.queryset import QuerySet

IDS_PER_QUERY = 500
BATCH = 500

M = TypeVar("M", bound=Model)


async def newest(
    rows: "QuerySet[M]",
    limit: int,
    before: tuple[datetime, str] | None = None,
    at: str = "created_at",
) -> list[M]:
    """Read ``limit`` rows, newest first by the time ``at`` and by id where times are equal.

    ``before`` is time and id of the row after which to go on; new rows do not disturb it.
    """
    if before is not None:
        moment, ident = before
        older: dict[str, Any] = {f"{at}__lt": moment}
        as_old: dict[str, Any] = {at: moment, "id__lt": ident}
        rows = rows.filter(Q(**older) | Q(**as_old))
    try:
        return await rows.order_by(f"-{at}", "-id").limit(limit)
    except ValidationError:
        # A filter longer than its column: no row has such a value.
        return []


async def batches(rows: "QuerySet[M]", at: str) -> AsyncIterator[list[M]]:
    """Read all rows, oldest first by the time ``at``, in batches, so that memory stays bounded."""
    after = Q()
    while batch := await _oldest(rows.filter(after), at):
        yield batch
        moment, ident = getattr(batch[-1], at), batch[-1].pk
        younger: dict[str, Any] = {f"{at}__gt": moment}
        as_young: dict[str, Any] = {at: moment, "id__gt": ident}
        after = Q(**younger) | Q(**as_young)


async def _oldest(rows: "QuerySet[M]", at: str) -> list[M]:
    try:
        return await rows.order_by(at, "id").limit(BATCH)
    except ValidationError:
        # A filter longer than its column: no row has such a value.
        return []


async def counts_by_state(rows: "QuerySet[Any]") -> dict[str, int]:
    """Count rows of an aggregate by state; states without any are left out."""
    found = await rows.annotate(count=Count("id")).group_by("state").values("state", "count")
    return {str(row["state"]): int(row["count"]) for row in found}

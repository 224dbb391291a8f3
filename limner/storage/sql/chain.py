"""The audit chain: each line's hash covers the line and the hash before it.

hash_n = SHA-256(hash_(n-1) || canonical JSON of line n); hash_0 is 64 zeros. Lines are sealed in
batches, in the order of their ids, so that no unit waits for another. Changing, removing or
inserting a sealed line breaks every hash after it.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from limner.core.failpoints import declare, step
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.connection import marks
from limner.storage.sql.database import Database

SEAL = declare("audit.seal")
BATCH = 500
ZERO = "0" * 64


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check of the chain found: how many lines hold, and where it breaks, if it does."""

    lines: int
    broken_at: int | None
    unsealed: int


def line_hash(before: str, line: AuditLine, seq: int) -> str:
    """Give the hash of ``line`` at place ``seq`` after the hash ``before``."""
    content: dict[str, Any] = {
        "seq": seq,
        "id": line.id,
        "at": line.at.isoformat(timespec="microseconds"),
        "event": line.event,
        "actor": line.actor,
        "subject": line.subject,
        "request_id": line.request_id,
        "trace_id": line.trace_id,
        "data": line.data,
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(f"{before}{canonical}".encode()).hexdigest()


async def seal(database: Database, limit: int = BATCH) -> int:
    """Seal the oldest unsealed lines and give how many."""
    if not await AuditLine.exists(seq=None):
        return 0
    async with step(SEAL), database.transaction() as connection:
        last = await connection.query(
            "SELECT seq, hash FROM audit WHERE seq IS NOT NULL "  # noqa: S608 - our own words
            f"ORDER BY seq DESC LIMIT 1{connection.for_update}"
        )
        seq, before = (int(last[0]["seq"]), str(last[0]["hash"])) if last else (0, ZERO)
        lines = (
            await AuditLine.filter(seq=None).using_db(connection.client).order_by("id").limit(limit)
        )
        numbers: list[Any] = []
        hashes: list[Any] = []
        for line in lines:
            seq += 1
            before = line_hash(before, line, seq)
            numbers += (line.id, seq)
            hashes += (line.id, before)
        if lines:
            whens = "WHEN ? THEN ? " * len(lines)
            await connection.execute(
                f"UPDATE audit SET seq = CASE id {whens}END, hash = CASE id {whens}END "  # noqa: S608
                f"WHERE id IN ({marks(lines)})",
                [*numbers, *hashes, *(line.id for line in lines)],
            )
    return len(lines)


async def verify() -> Verdict:
    """Check every sealed line, in order."""
    before, checked = ZERO, 0
    while True:
        lines = await AuditLine.filter(seq__gt=checked).order_by("seq").limit(BATCH)
        if not lines:
            break
        for line in lines:
            expected = checked + 1
            if line.seq != expected or line.hash != line_hash(before, line, expected):
                return Verdict(checked, expected, await AuditLine.filter(seq=None).count())
            before, checked = line.hash, expected
    return Verdict(checked, None, await AuditLine.filter(seq=None).count())

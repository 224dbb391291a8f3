"""The beginning of an outside effect: a commit of its own that takes a lease and a higher token."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from limner.core.errors import EngineUnavailable, Stale
from limner.storage.sql.aggregate import Leased
from limner.storage.sql.changes import Guarded, Line
from limner.storage.sql.connection import NOW, Connection, FromNow
from limner.storage.sql.database import Database
from limner.storage.sql.faults import CommitUnsure

LOOK_S = 0.2


@dataclass
class Beginning:
    """Moves ``row`` from one of ``states`` to ``to`` and holds it for ``lease_s`` seconds.

    The time that the lease ends is a mark, exact to the microsecond: when the answer to COMMIT is
    lost, it tells our own beginning from another worker's. Without it the row would look taken,
    and nobody would do what was begun.
    """

    row: Leased
    states: tuple[str, ...]
    to: str
    lease_s: float
    lines: Sequence[Line]
    changes: Mapping[str, Any]
    taken: tuple[int, datetime] = (0, datetime.fromtimestamp(0, UTC))

    async def write(self, database: Database) -> int:
        """Commit and give the token.

        Raises:
            Stale: the row is in another state, or under a lease.
            EngineUnavailable: the database does not answer.
        """
        try:
            return await database.run(self._take)
        except CommitUnsure:
            if await self._is_stored(database):
                return self.taken[0]
            return await database.run(self._take)

    async def _take(self, connection: Connection) -> int:
        table = self.row._meta.db_table
        free = await connection.query(
            f"SELECT token, ? AS until FROM {table} WHERE id = ? "  # noqa: S608 - our own names
            f"AND (lease_until IS NULL OR lease_until <= ?){connection.for_update}",
            [FromNow(self.lease_s), self.row.id, NOW],
        )
        if not free:
            raise Stale(f"{self.row.kind} {self.row.id} is being worked on")
        token, until = int(free[0]["token"]) + 1, datetime.fromisoformat(free[0]["until"])
        self.taken = token, until
        held = {"state": self.to, "token": token, "lease_until": until, **self.changes}
        guard = {"state": self.states, "token": token - 1}
        await Guarded(self.row, guard, held, self.lines).apply(connection)
        return token

    async def _is_stored(self, database: Database) -> bool:
        """Look whether the commit without an answer happened, until the lease would end."""
        (token, until), table = self.taken, self.row._meta.db_table
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.lease_s
        while True:
            try:
                mine = await database.read().query(
                    f"SELECT id FROM {table} WHERE id = ? AND token = ? "  # noqa: S608
                    "AND lease_until = ?",
                    [self.row.id, token, until],
                )
            except EngineUnavailable:
                if loop.time() >= deadline:
                    raise
                await asyncio.sleep(LOOK_S)
            else:
                return bool(mine)

"""Groups of units on their way into the database: what is told to each, and how they are written.

On SQLite a group is one transaction in the writer's thread, each unit between savepoints. On a
server its statements are merged; if that fails, each unit is committed alone and finds out why.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from limner.core.errors import EngineUnavailable, Stale
from limner.core.logs import get_logger
from limner.core.unit import Commit
from limner.storage.sql.changes import Statement
from limner.storage.sql.committer import Verdict
from limner.storage.sql.connection import Connection
from limner.storage.sql.database import Database
from limner.storage.sql.groups import check, mergeable, rows_touched
from limner.storage.sql.statements import UnitWriter

if TYPE_CHECKING:
    from limner.storage.sql.unit import SqlUnit

ALONE_AT_ONCE = 8
NO_KEYS: frozenset[str] = frozenset()

log = get_logger("units")


class GroupWriter:
    """Writes groups of units; see the module."""

    def __init__(self, database: Database, writer: UnitWriter) -> None:
        self._database = database
        self._writer = writer
        self._is_sqlite = database.dialect == "sqlite"

    def keys(self, unit: "SqlUnit") -> frozenset[str]:
        """Give what no two units of a group may share: the rows they guard, where they merge."""
        return NO_KEYS if self._is_sqlite else rows_touched(unit.changes)

    async def write(self, units: "Sequence[SqlUnit]") -> Sequence[Verdict]:
        """Write a group and give each unit's verdict, in order.

        Raises:
            EngineUnavailable: the database does not answer; the verdict of all.
        """
        try:
            return await (self._each(units) if self._is_sqlite else self._merged(units))
        finally:
            # Here, and not where a caller waits that may be cancelled; also after an error, since
            # only the answer to a commit may have been lost.
            for unit in units:
                self._database.forget(unit.touched())

    async def _each(self, units: "Sequence[SqlUnit]") -> Sequence[Verdict]:
        """Write a group into one transaction of SQLite, each unit between savepoints."""

        async def write(connection: Connection) -> list[Verdict]:
            if len(units) == 1:
                return [await self._whole(connection, units[0])]
            return [await self._between_savepoints(connection, unit) for unit in units]

        return await self._database.run(write)

    async def _between_savepoints(self, connection: Connection, unit: "SqlUnit") -> Verdict:
        await connection.execute("SAVEPOINT unit")
        try:
            verdict: Verdict = await self._whole(connection, unit)
        except EngineUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - this unit's verdict; the others go on
            await connection.execute("ROLLBACK TO unit")
            verdict = error
        await connection.execute("RELEASE unit")
        return verdict

    async def _merged(self, units: "Sequence[SqlUnit]") -> Sequence[Verdict]:
        """Write a group by merged statements; if that fails, and what cannot be merged, alone."""
        merged = [unit for unit in units if self._writer.merges and mergeable(unit.changes)]
        verdicts: dict[int, Verdict] = {}
        if merged:
            try:
                statements = self._writer.group(merged)
                await self._database.run_batch(
                    [(one.sql, one.values) for one in statements],
                    lambda counts: _check_all(statements, counts),
                )
                verdicts = {id(unit): Commit.DONE for unit in merged}
            except EngineUnavailable as error:
                verdicts = {id(unit): error for unit in merged}
            except Exception as error:  # noqa: BLE001 - some unit's; each finds out alone
                log.debug("a group is committed one by one", units=len(merged), error=str(error))
        alone = [unit for unit in units if id(unit) not in verdicts]
        rooms = asyncio.Semaphore(ALONE_AT_ONCE)

        async def write(unit: "SqlUnit") -> Commit:
            async with rooms:
                return await self._database.run(lambda connection: self._whole(connection, unit))

        found = await asyncio.gather(*(write(unit) for unit in alone), return_exceptions=True)
        verdicts |= {id(unit): verdict for unit, verdict in zip(alone, found, strict=True)}
        return [verdicts[id(unit)] for unit in units]

    async def _whole(self, connection: Connection, unit: "SqlUnit") -> Commit:
        if unit.is_abandoned:
            raise Stale("nobody waits for this unit any more")
        unit.moved_on = False
        if not await self._writer.take_key(connection, unit):
            return Commit.REPEATED
        await self._writer.apply(connection, unit)
        return Commit.DONE


def _check_all(statements: Sequence[Statement], counts: Sequence[int]) -> None:
    for statement, count in zip(statements, counts, strict=True):
        check(statement, count)

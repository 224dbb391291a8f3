"""Leases: who may finish an outside effect or a job, and until when.

15 s in database time, renewed every 5 s by a task of its own, however long the call takes. A
worker that cannot renew stops: somebody else may hold the row (reliability rule 3 and 4).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from limner.core.errors import EngineUnavailable, LeaseLost
from limner.core.failpoints import declare, step
from limner.core.logs import get_logger
from limner.storage.sql.aggregate import Leased
from limner.storage.sql.connection import NOW, FromNow, marks
from limner.storage.sql.database import Database

RENEW = declare("lease.renew")
LEASE_S = 15.0
HEARTBEAT_S = 5.0

log = get_logger("leases")


class Leases:
    """Renews and voids leases."""

    def __init__(
        self, database: Database, lease_s: float = LEASE_S, heartbeat_s: float = HEARTBEAT_S
    ) -> None:
        self._database = database
        self.lease_s = lease_s
        self._heartbeat_s = heartbeat_s

    async def renew(self, row: Leased, token: int) -> None:
        """Hold the lease for another ``lease_s``.

        Raises:
            LeaseLost: the token is no longer the newest, or the row was finished.
        """
        async with step(RENEW):
            held = await self._database.write().execute(
                f"UPDATE {row._meta.db_table} SET lease_until = ?, version = version "  # noqa: S608
                "WHERE id = ? AND token = ? AND lease_until IS NOT NULL",
                [FromNow(self.lease_s), row.id, token],
            )
        if not held:
            raise LeaseLost(f"{row.kind} {row.id}: the lease is somebody else's")

    @asynccontextmanager
    async def keep(self, row: Leased, token: int) -> AsyncIterator[None]:
        """Renew in the background while the block runs; ends the block when the lease is lost.

        Raises:
            LeaseLost: it was lost, or could not be renewed before it ended.
        """
        body = asyncio.current_task()
        lost: list[LeaseLost] = []

        async def heartbeat() -> None:
            loop = asyncio.get_running_loop()
            good_until = loop.time() + self.lease_s
            while True:
                await asyncio.sleep(self._heartbeat_s)
                started = loop.time()
                try:
                    async with asyncio.timeout_at(good_until):
                        await self.renew(row, token)
                    good_until = started + self.lease_s
                except (EngineUnavailable, TimeoutError):
                    if loop.time() < good_until - self._heartbeat_s:
                        continue
                    lost.append(LeaseLost(f"{row.kind} {row.id}: could not renew the lease"))
                except LeaseLost as error:
                    lost.append(error)
                except Exception as error:
                    log.exception("heartbeat failed", kind=row.kind, id=row.id)
                    lost.append(LeaseLost(f"{row.kind} {row.id}: {error}"))
                if lost and body is not None:
                    body.cancel()
                    return

        beating = asyncio.create_task(heartbeat())
        try:
            yield
        except asyncio.CancelledError:
            if lost and body is not None and body.uncancel() == 0:
                raise lost[0] from None
            raise
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def expired(self, model: type[Leased], states: tuple[str, ...]) -> list[str]:
        """Give the ids of rows in one of ``states`` whose lease has ended, oldest first."""
        rows = await self._database.read().query(
            f"SELECT id FROM {model._meta.db_table} WHERE lease_until <= ? "  # noqa: S608
            f"AND state IN ({marks(states)}) ORDER BY lease_until LIMIT 200",
            [NOW, *states],
        )
        return [str(row["id"]) for row in rows]

    async def void_all(self, models: tuple[type[Leased], ...]) -> None:
        """End every lease now: at an embedded start nobody else can hold one."""
        for model in models:
            await self._database.write().execute(
                f"UPDATE {model._meta.db_table} SET lease_until = ? "  # noqa: S608
                "WHERE lease_until > ?",
                [NOW, NOW],
            )

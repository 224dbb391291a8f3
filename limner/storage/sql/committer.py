"""The committer: units that finish while one group is being committed form the next group.

There is no timer and so no added latency: an idle process commits each unit at once, a busy one
pays for one transaction per group (group commit, as in Gray & Reuter, Transaction Processing,
section 9.4). What a unit gets to hear is the same as if it had been committed alone.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from limner.core.unit import Commit

U = TypeVar("U")

GROUP_LIMIT = 64

Verdict = Commit | BaseException
WriteGroup = Callable[[Sequence[U]], Awaitable[Sequence[Verdict]]]


class Committer(Generic[U]):
    """Gathers units and hands them to ``write``, ``limit`` at most and one group at a time.

    ``write`` gives one verdict per unit, in order; what it raises is the verdict of all.
    ``key`` names what a unit must not share a group over, e.g. the rows it guards: a unit whose
    keys meet those of its group waits for the next one.
    """

    def __init__(
        self,
        write: WriteGroup[U],
        keys: Callable[[U], frozenset[str]] | None = None,
        limit: int = GROUP_LIMIT,
    ) -> None:
        self._write = write
        self._keys = keys
        self._limit = limit
        self._waiting: deque[tuple[U, asyncio.Future[Commit]]] = deque()
        self._lane: asyncio.Task[None] | None = None
        self.groups = 0
        self.units = 0

    async def commit(self, unit: U) -> Commit:
        """Commit ``unit`` with those that wait beside it.

        A caller that is cancelled leaves its unit to be committed all the same.

        Raises:
            Exception: what committing this unit alone would raise.
        """
        verdict: asyncio.Future[Commit] = asyncio.get_running_loop().create_future()
        self._waiting.append((unit, verdict))
        if self._lane is None or self._lane.done():
            self._lane = asyncio.create_task(self._work())
        return await verdict

    async def _work(self) -> None:
        # One turn of the loop lets everything that is ready now join the first group.
        await asyncio.sleep(0)
        while self._waiting:
            group = self._gather()
            self.groups += 1
            self.units += len(group)
            verdicts: Sequence[Verdict]
            try:
                verdicts = await self._write([unit for unit, _ in group])
            except BaseException as error:
                verdicts = [error] * len(group)
                if not isinstance(error, Exception):
                    self._tell(group, verdicts)
                    self._abandon()
                    raise
            self._tell(group, verdicts)

    def _gather(self) -> list[tuple[U, asyncio.Future[Commit]]]:
        """Take the next group, oldest first; units that may not share it stay in front."""
        group: list[tuple[U, asyncio.Future[Commit]]] = []
        taken: set[str] = set()
        later: list[tuple[U, asyncio.Future[Commit]]] = []
        while self._waiting and len(group) < self._limit:
            one = self._waiting.popleft()
            keys = self._keys(one[0]) if self._keys is not None else frozenset[str]()
            if keys & taken:
                later.append(one)
            else:
                group.append(one)
            # Those behind a unit that waits must not overtake it on its rows.
            taken |= keys
        self._waiting.extendleft(reversed(later))
        return group

    def _abandon(self) -> None:
        """Cancel what still waits: the process ends."""
        while self._waiting:
            self._waiting.popleft()[1].cancel()

    @staticmethod
    def _tell(
        group: Sequence[tuple[U, asyncio.Future[Commit]]], verdicts: Sequence[Verdict]
    ) -> None:
        for (_, future), verdict in zip(group, verdicts, strict=True):
            if future.done():
                continue
            if isinstance(verdict, Commit):
                future.set_result(verdict)
            elif isinstance(verdict, asyncio.CancelledError):
                future.cancel()
            else:
                future.set_exception(verdict)

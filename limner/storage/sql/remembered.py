"""What was read lately, kept in memory for some seconds and forgotten when a commit changes it.

Each process keeps its own. A commit of this process makes it forget at once what was made of the
changed rows; a change by another process shows after ``life_s`` at the latest, or at once where
its event says so. Never for balances: what is spent is read where it is spent.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

from limner.core.clock import Clock

LIFE_S = 3.0
LIMIT = 10_000

V = TypeVar("V")
Load = Callable[[], Awaitable[tuple[V, Iterable[str]]]]


class Remembered(Generic[V]):
    """Values by key, each with the ids of the rows it was made of; the oldest go first.

    Args:
        clock: its monotonic time counts.
        life_s: seconds that a value is believed.
        limit: how many values are kept.
    """

    def __init__(self, clock: Clock, life_s: float = LIFE_S, limit: int = LIMIT) -> None:
        self._clock = clock
        self._life_s = life_s
        self._limit = limit
        self._values: OrderedDict[str, tuple[V, float, frozenset[str]]] = OrderedDict()
        self._keys_of: dict[str, set[str]] = {}
        self._loading: dict[str, asyncio.Task[V]] = {}
        self._changes = 0

    def __len__(self) -> int:
        """Give how many are kept."""
        return len(self._values)

    async def get(self, key: str, load: Load[V]) -> V:
        """Give the value of ``key``; ``load`` gives it anew with the ids of its rows.

        Of many who ask at once one loads. What a change overtook while it was loaded is given
        to who asked before the change and is not kept. Whatever ``load`` raises is raised.
        """
        kept = self._values.get(key)
        if kept is not None and kept[1] > self._clock.monotonic():
            return kept[0]
        loading = self._loading.get(key)
        if loading is None:
            loading = asyncio.create_task(self._load(key, load))
            self._loading[key] = loading
        # One who gives up must not end it for the others.
        return await asyncio.shield(loading)

    async def _load(self, key: str, load: Load[V]) -> V:
        changes = self._changes
        task = asyncio.current_task()
        try:
            value, rows = await load()
            if changes == self._changes:
                self._keep(key, value, frozenset(rows))
            return value
        finally:
            if self._loading.get(key) is task:
                del self._loading[key]

    def _keep(self, key: str, value: V, rows: frozenset[str]) -> None:
        self._drop(key)
        self._values[key] = (value, self._clock.monotonic() + self._life_s, rows)
        for row in rows:
            self._keys_of.setdefault(row, set()).add(key)
        while len(self._values) > self._limit:
            self._drop(next(iter(self._values)))

    def _drop(self, key: str) -> None:
        _, _, rows = self._values.pop(key, (None, 0.0, frozenset[str]()))
        for row in rows:
            keys = self._keys_of.get(row, set())
            keys.discard(key)
            if not keys:
                self._keys_of.pop(row, None)

    def forget(self, row: str) -> None:
        """Forget what was made of a row, whose id this is, and what is being made just now."""
        self._changes += 1
        self._loading.clear()
        for key in tuple(self._keys_of.get(row, ())):
            self._drop(key)

    def forget_all(self) -> None:
        """Forget everything."""
        self._changes += 1
        self._loading.clear()
        self._values.clear()
        self._keys_of.clear()

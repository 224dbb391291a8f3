"""What was read lately, kept in memory for some seconds and forgotten when a commit changes it.

Each process keeps its own. A commit of this process makes it forget at once what was made of the
changed rows; a change by another process shows after ``life_s`` at the latest, or at once where
its event says so. Never for balances: what is spent is read where it is spent.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Generic, TypeVar

from limner.core.clock import Clock

LIFE_S = 3.0
LIMIT = 10_000
CHANGES_LIMIT = 1_000

V = TypeVar("V")
Load = Callable[[], Awaitable[tuple[V, Iterable[str]]]]


class Loading(Generic[V]):
    """A value that is being loaded, and which rows have changed since it began.

    ``overtaken_at`` is, after the end, the number of the first change that the value may not
    show; None if it shows all.
    """

    def __init__(self, load: Callable[["Loading[V]"], Coroutine[Any, Any, V]]) -> None:
        self.overtaken_at: int | None = None
        self.task = asyncio.create_task(load(self))
        self._first: int | None = None
        self._of_row: dict[str, int] = {}
        self._of_any: int | None = None

    def change(self, row: str, number: int) -> None:
        """Note that a row has changed."""
        self._first = self._first or number
        if len(self._of_row) < CHANGES_LIMIT:
            self._of_row.setdefault(row, number)
        else:
            # Any row may have changed.
            self._of_any = self._of_any or number

    def end(self, rows: frozenset[str]) -> bool:
        """Whether the value, made of ``rows``, shows all changes.

        What was made of no row, because there is none yet, may be overtaken by any change.
        """
        numbers = [self._of_row[row] for row in rows if row in self._of_row]
        if self._of_any is not None:
            numbers.append(self._of_any)
        self.overtaken_at = min(numbers, default=None) if rows else self._first
        return self.overtaken_at is None


class Remembered(Generic[V]):
    """Values by key, each with the ids of the rows it was made of; the oldest go first.

    Args:
        clock: its monotonic time counts.
        life_s: seconds that a value is believed, from when its loading began.
        limit: how many values are kept.
    """

    def __init__(self, clock: Clock, life_s: float = LIFE_S, limit: int = LIMIT) -> None:
        self._clock = clock
        self._life_s = life_s
        self._limit = limit
        self._values: OrderedDict[str, tuple[V, float, frozenset[str]]] = OrderedDict()
        self._keys_of: dict[str, set[str]] = {}
        self._loading: dict[str, Loading[V]] = {}
        self._changes = 0

    def __len__(self) -> int:
        """Give how many are kept."""
        return len(self._values)

    async def get(self, key: str, load: Load[V]) -> V:
        """Give the value of ``key``; ``load`` gives it anew with the ids of its rows.

        Of many who ask at once one loads. What a change overtook while it was loaded is given
        to who asked before the change, is not kept, and is loaded again for who asked after.
        Whatever ``load`` raises is raised.
        """
        asked_at = self._changes
        while True:
            kept = self._values.get(key)
            if kept is not None and kept[1] > self._clock.monotonic():
                return kept[0]
            loading = self._loading.get(key) or self._begin(key, load)
            # One who gives up must not end it for the others.
            await asyncio.wait({loading.task})
            value = loading.task.result()
            if loading.overtaken_at is None or loading.overtaken_at > asked_at:
                return value

    def _begin(self, key: str, load: Load[V]) -> Loading[V]:
        began_s = self._clock.monotonic()

        async def run(loading: Loading[V]) -> V:
            value, made_of = await load()
            rows = frozenset(made_of)
            if loading.end(rows):
                self._keep(key, value, began_s + self._life_s, rows)
            return value

        loading = self._loading[key] = Loading(run)
        loading.task.add_done_callback(partial(self._ended, key))
        return loading

    def _ended(self, key: str, task: "asyncio.Task[V]") -> None:
        del self._loading[key]
        # An error that nobody is left to hear is no news for the event loop.
        if not task.cancelled():
            task.exception()

    def _keep(self, key: str, value: V, until_s: float, rows: frozenset[str]) -> None:
        self._drop(key)
        self._values[key] = (value, until_s, rows)
        for row in rows:
            self._keys_of.setdefault(row, set()).add(key)
        while len(self._values) > self._limit:
            self._drop(next(iter(self._values)))

    def _drop(self, key: str) -> None:
        _, _, rows = self._values.pop(key, (None, 0.0, frozenset[str]()))
        for row in rows:
            keys = self._keys_of[row]
            keys.remove(key)
            if not keys:
                del self._keys_of[row]

    def forget(self, row: str) -> None:
        """Forget what was made of a row, whose id this is, and what is being made of it."""
        self._changes += 1
        for loading in self._loading.values():
            loading.change(row, self._changes)
        for key in tuple(self._keys_of.get(row, ())):
            self._drop(key)

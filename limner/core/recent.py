"""What was noted lately, kept in memory for a time of its own."""

from collections import OrderedDict
from typing import Generic, TypeVar

from limner.core.clock import Clock

V = TypeVar("V")


class Recent(Generic[V]):
    """Values by name, each for ``life_s`` seconds from when it was noted last.

    Args:
        clock: its monotonic time counts.
        life_s: seconds that a value is kept; being asked for does not renew it.
        limit: how many are kept; of too many the oldest go first.
    """

    def __init__(self, clock: Clock, life_s: float, limit: int) -> None:
        self._clock = clock
        self._life_s = life_s
        self._limit = limit
        self._noted: OrderedDict[str, tuple[V, float]] = OrderedDict()

    def __len__(self) -> int:
        """Give how many are kept."""
        return len(self._noted)

    def __contains__(self, name: str) -> bool:
        """Whether the name was noted lately."""
        self._drop()
        return name in self._noted

    def note(self, name: str, value: V) -> None:
        """Keep a value, in place of the one that the name had."""
        self.forget(name)
        self._noted[name] = (value, self._clock.monotonic() + self._life_s)
        self._drop()

    def forget(self, name: str) -> None:
        """Forget a name, which need not be there."""
        self._noted.pop(name, None)

    def find(self, name: str) -> V | None:
        """Give the value of a name, or None."""
        self._drop()
        kept = self._noted.get(name)
        return None if kept is None else kept[0]

    def _drop(self) -> None:
        """Drop whose time is over, and the oldest of too many; they stand in the order of it."""
        now_s = self._clock.monotonic()
        while self._noted:
            _, until_s = next(iter(self._noted.values()))
            if until_s > now_s and len(self._noted) <= self._limit:
                return
            self._noted.popitem(last=False)

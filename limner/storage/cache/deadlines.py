"""Names in the order in which they end: what lets a bounded memory forget the right thing first."""

import heapq
from collections.abc import Iterator

# Below this many stale entries a rebuild costs more than it frees.
_STALE_MIN = 64


class Deadlines:
    """A map from name to end, in seconds, that can give the name that ends first.

    A heap whose entries go stale when a name is moved or dropped, and which is rebuilt when more
    than half of it is stale: memory stays within twice the number of names.
    """

    def __init__(self) -> None:
        self._ends_s: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._ends_s)

    def __contains__(self, name: object) -> bool:
        return name in self._ends_s

    def get(self, name: str, default_s: float) -> float:
        """Give the end of ``name``."""
        return self._ends_s.get(name, default_s)

    def set(self, name: str, end_s: float) -> None:
        """Let ``name`` end at ``end_s``."""
        self._ends_s[name] = end_s
        heapq.heappush(self._heap, (end_s, name))
        if len(self._heap) > 2 * len(self._ends_s) + _STALE_MIN:
            self._heap = [(end, each) for each, end in self._ends_s.items()]
            heapq.heapify(self._heap)

    def drop(self, name: str) -> None:
        """Forget ``name``, if it is there."""
        self._ends_s.pop(name, None)

    def pop_first(self) -> str:
        """Forget the name that ends first and give it.

        Raises:
            IndexError: there is none.
        """
        while True:
            end_s, name = heapq.heappop(self._heap)
            if self._ends_s.get(name) == end_s:
                del self._ends_s[name]
                return name

    def pop_ended(self, now_s: float) -> Iterator[str]:
        """Forget the names whose end is not after ``now_s`` and give them one by one."""
        while self._heap and self._heap[0][0] <= now_s:
            end_s, name = heapq.heappop(self._heap)
            if self._ends_s.get(name) == end_s:
                del self._ends_s[name]
                yield name

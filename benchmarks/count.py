"""How much of a measurement is done, in one process or in several that share it."""

import asyncio
import mmap
import struct
import time
from pathlib import Path

LOOK_S = 0.005
SLOT = struct.Struct("Q")
SLOTS = 8


class Count:
    """Counts to ``wanted`` and then sets ``stop``; the clock runs from the first message on.

    With ``path``, a file of ``SLOTS`` numbers, processes share the counting: each has a slot.
    """

    def __init__(self, wanted: int, path: str = "", slot: int = 0) -> None:
        self.stop = asyncio.Event()
        self.done = 0
        self.started_s = 0.0
        self._cpu_s = 0.0
        self._wanted = wanted
        self._slot = slot
        self._shared: mmap.mmap | None = None
        if path:
            with Path(path).open("r+b") as file:
                self._shared = mmap.mmap(file.fileno(), SLOT.size * SLOTS)

    def begin(self) -> None:
        """Start the clock, once: to be called for each message that comes."""
        if not self.started_s:
            self.started_s, self._cpu_s = time.perf_counter(), time.process_time()

    def one(self) -> None:
        """Count one."""
        self.done += 1
        if self._shared is not None:
            SLOT.pack_into(self._shared, SLOT.size * self._slot, self.done)
        elif self.done >= self._wanted:
            self.stop.set()

    async def watch(self) -> None:
        """Set ``stop`` when all processes together are done."""
        shared = self._shared
        if shared is None:
            return
        while sum(n for (n,) in SLOT.iter_unpack(shared[:])) < self._wanted:  # noqa: ASYNC110 - others
            await asyncio.sleep(LOOK_S)
        self.stop.set()

    def told(self) -> dict[str, float]:
        """Give what was done until now, from when to when, and the processor time of it.

        Times are of a clock that all processes share; a process without a message has no start.
        """
        ended_s = time.perf_counter()
        return {
            "done": self.done,
            "started_s": self.started_s or ended_s,
            "ended_s": ended_s,
            "cpu_s": time.process_time() - self._cpu_s if self.started_s else 0.0,
        }


def shared_file(folder: Path) -> str:
    """Make a file for the counts of several processes."""
    path = folder / "count"
    path.write_bytes(bytes(SLOT.size * SLOTS))
    return str(path)

"""What the figures were taken on: processor, versions, who else is busy, what a sync costs."""

import os
import platform
import sqlite3
import tempfile
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

SYNCS = 50
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
BLOCK_BYTES = 4096
PACKAGES = (
    "uvloop",
    "tortoise-orm",
    "aiosqlite",
    "aio-pika",
    "aiomysql",
    "onnxruntime",
    "numpy",
)


def facts() -> dict[str, Any]:
    """Give the machine's facts; looks at the disk of the temporary folder."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return {
        "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "processor": f"{cores()} × {_cpu_name()}",
        "memory": f"{_memory_gib():.1f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "packages": versions,
        "sync of 4 KiB": f"{sync_ms():.2f} ms",
    }


def cores() -> int:
    """Give the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def sync_ms() -> float:
    """Give the median milliseconds of appending 4 KiB and syncing it: the price of a commit."""
    taken = []
    with tempfile.TemporaryFile(prefix="limner-sync-", buffering=0) as file:
        for _ in range(SYNCS):
            file.write(bytes(BLOCK_BYTES))
            started = time.perf_counter()
            os.fsync(file.fileno())
            taken.append((time.perf_counter() - started) * 1000)
    return median(taken)


class Others:
    """Watches how much of the processors is used by others than us and our children."""

    def __init__(self) -> None:
        self._busy, self._every = _ticks()
        self._own_s = _own_s()

    def percent(self) -> float:
        """Give their share since the start, 0 to 100; 0 where the system does not tell."""
        busy, every = _ticks()
        own = (_own_s() - self._own_s) * TICKS_PER_S
        return 100 * max(0.0, busy - self._busy - own) / max(1, every - self._every)


def _own_s() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _ticks() -> tuple[int, int]:
    """Give the busy and all ticks of the processors since the start (proc_stat(5))."""
    try:
        line = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    except OSError:
        return 0, 0
    ticks = [int(word) for word in line.split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_gib() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / 2**30

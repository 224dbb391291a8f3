"""The clock seam: everything that asks for the time asks here, so that tests can hold it still."""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Wall time for records, monotonic time for waiting."""

    def now(self) -> datetime:
        """Give the wall time, UTC, microseconds."""
        ...

    def monotonic(self) -> float:
        """Give seconds that never run backwards."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Give the wall time, UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Give ``time.monotonic()``."""
        return time.monotonic()


class HeldClock:
    """A clock that moves only when told to; for tests and for replaying a day."""

    def __init__(self, at: datetime) -> None:
        self._at = at
        self._elapsed_s = 0.0

    def now(self) -> datetime:
        """Give the time that was last set."""
        return self._at

    def monotonic(self) -> float:
        """Give the seconds advanced so far."""
        return self._elapsed_s

    def advance(self, seconds: float) -> None:
        """Move both times forward."""
        self._at += timedelta(seconds=seconds)
        self._elapsed_s += seconds

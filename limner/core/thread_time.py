"""A limit of processor time for the paths that others write."""

import gc
import time

from limner.core.errors import Invalid

RENEWALS = 2


class ThreadTime:
    """The processor time that one path may use in its thread.

    Time of the thread and not of the wall, so that a busy machine refuses no honest path. A full
    collection of garbage that falls into it is the process's and not the path's, and may take
    longer than the limit itself: then the time begins anew, but not without end, as a path can
    make garbage too.
    """

    __slots__ = ("_collections", "_end_s", "_limit_s", "_renewals")

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._renewals = RENEWALS
        self._begin()

    def _begin(self) -> None:
        self._collections = _full_collections()
        self._end_s = time.thread_time() + self._limit_s

    def spend(self) -> None:
        """Raise Invalid once the time is used up."""
        if time.thread_time() <= self._end_s:
            return
        if self._renewals and _full_collections() != self._collections:
            self._renewals -= 1
            self._begin()
            return
        raise Invalid(f"the path took more than {self._limit_s:g} s", code="path_too_slow")


def _full_collections() -> int:
    return int(gc.get_stats()[-1]["collections"])

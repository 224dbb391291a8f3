"""Stopping a run: one row at its next step, or everything at once from another thread."""

import threading

import onnxruntime

from limner.core.errors import LimnerError

SILENT = 4
"""onnxruntime's severity "fatal": a run that is ended on purpose is not an error to print."""


class Cancelled(LimnerError):
    """The run was stopped before its pictures were finished."""

    code = "cancelled"


class Cancellation:
    """What a run looks at between steps, and what ends it in the middle of one.

    It belongs to one run; every method may be called from any thread.
    """

    def __init__(self) -> None:
        # One RunOptions for a run: a terminated one stays terminated, and so does this object.
        self.run_options = onnxruntime.RunOptions()
        self.run_options.log_severity_level = SILENT
        self._ended = threading.Event()
        self._dropped: set[int] = set()

    @property
    def is_terminated(self) -> bool:
        """Whether the whole run shall end."""
        return self._ended.is_set()

    def drop(self, row: int) -> None:
        """Leave row ``row`` of the batch out from the next step on."""
        self._dropped.add(row)

    def is_dropped(self, row: int) -> bool:
        """Whether row ``row`` shall be left out."""
        return row in self._dropped

    def terminate(self) -> None:
        """End the run now, within milliseconds, even in the middle of a step."""
        self._ended.set()
        self.run_options.terminate = True

    def check(self) -> None:
        """Return if the run may go on.

        Raises:
            Cancelled: it was terminated.
        """
        if self.is_terminated:
            raise Cancelled

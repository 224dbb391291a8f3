"""The lock of a home folder: an operating system lock, which a killed process lets go."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from limner.core.errors import Conflict


@contextmanager
def home_lock(home: Path) -> Iterator[None]:
    """Hold ``{home}/lock``.

    Raises:
        Conflict: another process holds it.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise Conflict(
                f"{home} is in use by process {holder}. Stop it first, or set LIMNER_HOME."
            ) from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield

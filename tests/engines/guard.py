"""Runs one server and ends it, with all it started, when it or its owner ends.

A process of its own, started by ``server.py`` with one argument of JSON: ``command``,
``environment``, ``folder``, ``log``, ``owner`` (a process id), and ``finally``, a command that is
run after the end (or null). It leads the server's parents out of every terminal's reach, tells
the server's process id on stdout and ends with the server's exit code. If the owner ends first,
however it ends, the guard kills the server's whole process group and removes the folder. Needs
Linux (pidfd) and the standard library only.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any


def _watch(process_id: int) -> int | None:
    """Give a descriptor that becomes readable when the process ends; None if it has ended."""
    try:
        return os.pidfd_open(process_id)
    except ProcessLookupError:
        return None


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _clean(last: list[str] | None, environment: dict[str, str]) -> None:
    if last is not None:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                last,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=10,
                check=False,
            )


def guard(spec: dict[str, Any]) -> int:
    """Run the server to its end or its owner's and give the exit code."""
    folder = Path(spec["folder"])
    owner = _watch(spec["owner"])
    if owner is None:
        shutil.rmtree(folder, ignore_errors=True)
        return 1
    with Path(spec["log"]).open("ab") as log:
        server = subprocess.Popen(
            spec["command"],
            env=spec["environment"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    sys.stdout.write(f"{server.pid}\n")
    sys.stdout.close()
    waiting = select.poll()
    waiting.register(owner, select.POLLIN)
    waiting.register(os.pidfd_open(server.pid), select.POLLIN)
    ended = {descriptor for descriptor, _ in waiting.poll()}
    _kill_group(server.pid)
    code = server.wait()
    _clean(spec["finally"], spec["environment"])
    if owner in ended:
        shutil.rmtree(folder, ignore_errors=True)
        # The folder around it belongs to the run; the last server out removes it.
        with contextlib.suppress(OSError):
            folder.parent.rmdir()
    return code


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(guard(json.loads(sys.argv[1])) & 0xFF)

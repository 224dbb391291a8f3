"""A private, throw-away server on loopback: started, stopped, killed, and started again.

It listens on a free port of 127.0.0.1, which stays its own over all starts, like its data. Every
wait has a limit, and what the server wrote last is in every error. A server never outlives its
owner, the process whose id it was given: see ``guard.py``. All calls block; an async test runs
them by ``asyncio.to_thread``.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

HOST = "127.0.0.1"
GUARD = str(Path(__file__).with_name("guard.py"))
PORTS = range(10_240, 19_968)
"""Below what the system gives to outgoing connections and beside what other tests take."""
STOP_LIMIT_S = 30.0
END_LIMIT_S = 15.0
LOOK_S = 0.02
LOG_TAIL_CHARS = 2_000


class NotStarted(Exception):
    """A server did not come up; the message ends with what it wrote last."""


class _Guard(subprocess.Popen[str]):
    """The process around a server; it outlives this one on purpose, so nobody warns of that."""

    def __del__(self) -> None:
        pass


def free_port() -> int:
    """Give a port that nobody listens on."""
    while True:
        port = random.choice(PORTS)  # noqa: S311 - only to keep runs apart
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        return port


def folder_for(name: str) -> Path:
    """Make a temporary folder that the server removes at its owner's end."""
    return Path(tempfile.mkdtemp(prefix=f"limner-{name}-"))


class Server:
    """What all private servers have in common; each kind says how it is run and when it is ready.

    ``ports`` are its ports by name, ``port`` the one that clients use. With those of a server that
    runs already, the object only knows it: ``start`` was another's. ``owner`` is the id of the
    process that it must not outlive (default: this one).
    """

    name: ClassVar[str]
    port_names: ClassVar[Sequence[str]] = ("port",)
    start_limit_s: ClassVar[float] = 30.0

    def __init__(
        self, folder: Path | None = None, *, ports: dict[str, int] | None = None, owner: int = 0
    ) -> None:
        self.folder = folder or folder_for(self.name)
        self.ports = ports or {name: free_port() for name in self.port_names}
        self.owner = owner or os.getpid()
        self.process_id = 0
        self._guard: _Guard | None = None

    # What each kind says of itself

    def command(self) -> list[str]:
        """Give the program and its arguments."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Give the environment."""
        return dict(os.environ)

    def prepare(self) -> None:
        """Make data and configuration in the folder, unless they are there."""

    def ready(self) -> bool:
        """Say whether the server answers in its own protocol."""
        raise NotImplementedError

    def last_command(self) -> list[str] | None:
        """Give what is run after the server's end, however it ended."""
        return None

    # Its life

    @property
    def port(self) -> int:
        """Where clients find it."""
        return self.ports["port"]

    @property
    def running(self) -> bool:
        """Whether this object started it and it has not ended."""
        return self._guard is not None and self._guard.poll() is None

    @property
    def log(self) -> Path:
        """Where it writes to."""
        return self.folder / "server.log"

    def log_tail(self) -> str:
        """Give what it wrote last."""
        if not self.log.exists():
            return ""
        return self.log.read_text("utf-8", "replace")[-LOG_TAIL_CHARS:]

    def start(self) -> Self:
        """Start it on its port and data, and wait until it is ready.

        Raises:
            NotStarted: it ended at once, or was not ready within ``start_limit_s``.
        """
        assert not self.running, f"{self.name} runs already"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.prepare()
        spec = {
            "command": self.command(),
            "environment": self.environment(),
            "folder": str(self.folder),
            "log": str(self.log),
            "owner": self.owner,
            "finally": self.last_command(),
        }
        with self.log.open("ab") as log:
            self._guard = _Guard(
                [sys.executable, "-I", GUARD, json.dumps(spec)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self._guard.stdout is not None
        with self._guard.stdout as told:
            self.process_id = int(told.readline() or 0)
        self._wait_ready()
        return self

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + self.start_limit_s
        while not self.ready():
            if not self.running:
                raise NotStarted(f"{self.name} ended at its start\n{self.log_tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise NotStarted(
                    f"{self.name} was not ready in {self.start_limit_s:g} s\n{self.log_tail()}"
                )
            time.sleep(LOOK_S)

    def signal(self, number: int) -> None:
        """Send a signal to the server's own process."""
        assert self.running, f"{self.name} does not run"
        os.kill(self.process_id, number)

    def stop(self) -> None:
        """End it in good order, by force after 30 s; does nothing if it does not run."""
        if not self.running:
            return
        self.signal(signal.SIGTERM)
        try:
            self._reap(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """``kill -9`` the server and all that it started; does nothing if it does not run."""
        if not self.running:
            return
        os.killpg(self.process_id, signal.SIGKILL)
        self._reap(END_LIMIT_S)

    def _reap(self, limit_s: float) -> None:
        if self._guard is not None:
            self._guard.wait(limit_s)

    def close(self) -> None:
        """Kill it and remove its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def exchange(port: int, said: bytes, size_bytes: int, limit_s: float = 1.0) -> bytes:
    """Say something to a port and give the first bytes of its answer; empty if there is none."""
    try:
        with socket.create_connection((HOST, port), limit_s) as line:
            line.settimeout(limit_s)
            if said:
                line.sendall(said)
            return line.recv(size_bytes)
    except OSError:
        return b""

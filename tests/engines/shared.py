"""One server of each kind for a whole test run, started by the first test that asks.

All processes of a run (pytest-xdist's workers) find the same server through a folder that is
named after the run; a Redis, which starts in 50 ms, each process has for itself. The servers end
with the process that leads the run, however that ends. Tests stay apart by fresh virtual hosts,
databases, and buckets; nobody may stop or kill these servers: for that there are private ones.
All calls block; the first may take the seconds that a server needs to start.
"""

import fcntl
import functools
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tests.engines.mariadb import MariaDbServer
from tests.engines.rabbitmq import RabbitServer
from tests.engines.redis import RedisServer
from tests.engines.s3 import S3Server
from tests.engines.server import NotStarted, Server

S = TypeVar("S", bound=Server)


def _leader() -> int:
    """Give the id of the process that leads the run: this one, or the parent of a worker."""
    return os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()


def _run_folder() -> Path:
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", "alone")
    folder = Path(tempfile.gettempdir()) / f"limner-engines-{os.getuid()}-{_leader()}-{run}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _find_or_start(kind: type[S]) -> S:
    """Give the run's server of a kind.

    Raises:
        NotStarted: it did not come up, here or where it was tried first.
    """
    folder = _run_folder() / kind.name
    with _locked(folder):
        note = folder / "ports.json"
        told = json.loads(note.read_text()) if note.exists() else None
        if told is None:
            server = kind(folder, owner=_leader())
            try:
                server.start()
            except NotStarted as error:
                note.write_text(json.dumps({"failed": str(error)}))
                raise
            note.write_text(json.dumps({"ports": server.ports}))
            return server
        if "failed" in told:
            raise NotStarted(told["failed"])
        return kind(folder, ports=told["ports"])


@functools.cache
def rabbitmq() -> RabbitServer:
    """Give the run's RabbitMQ; ``fresh_vhost`` keeps tests apart."""
    return _find_or_start(RabbitServer)


@functools.cache
def mariadb() -> MariaDbServer:
    """Give the run's MariaDB; ``fresh_database`` keeps tests apart."""
    return _find_or_start(MariaDbServer)


@functools.cache
def s3() -> S3Server:
    """Give the run's S3; ``fresh_bucket`` keeps tests apart."""
    return _find_or_start(S3Server)


@functools.cache
def redis() -> RedisServer:
    """Give this process's Redis; ``fresh_database`` keeps tests apart."""
    return RedisServer(owner=os.getpid()).start()

"""The servers themselves: what kill -9 leaves, and that nothing outlives its owner."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pika
import psutil
import pytest

from tests.contracts.engines import Engine, each, prepare
from tests.engines import missing, shared
from tests.engines.mariadb import MariaDbServer
from tests.engines.rabbitmq import RabbitServer
from tests.engines.redis import RedisServer
from tests.engines.s3 import S3Server
from tests.engines.server import NotStarted, Server, exchange
from tests.journeys.process import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

KINDS: list[tuple[type[Server], Callable[[], str | None]]] = [
    (RabbitServer, missing.no_rabbitmq),
    (MariaDbServer, missing.no_mariadb),
    (RedisServer, missing.no_redis),
    (S3Server, missing.no_moto),
]
ENGINES: list[Engine[Any]] = [
    Engine(kind.name, kind, real=True, missing=absent)  # type: ignore[arg-type]
    for kind, absent in KINDS
]
OWNER = """
import sys
from pathlib import Path
from tests.engines.{module} import {kind}
server = {kind}(Path(sys.argv[1])).start()
print(server.process_id, flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=each(ENGINES))
def kind(request: pytest.FixtureRequest) -> type[Server]:
    engine: Engine[Any] = request.param
    prepare(engine, request)
    return next(kind for kind, _ in KINDS if kind.name == engine.name)


def processes_in(folder: Path) -> list[str]:
    """Give the command lines of the processes that work in a folder or name it."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        told = " ".join(process.info["cmdline"] or ())
        if process.info["cwd"] == str(folder) or str(folder) in told:
            found.append(told)
    return found


def store(server: Server) -> None:
    """Put something into a server, as its clients do; it is confirmed."""
    if isinstance(server, MariaDbServer):
        server.query("CREATE DATABASE kept")
        server.query("CREATE TABLE t (word VARCHAR(20))", database="kept")
        server.query("INSERT INTO t VALUES (%s)", "été 🎨", database="kept")
    elif isinstance(server, RabbitServer):
        with channel(server) as line:
            line.confirm_delivery()
            line.queue_declare("kept", durable=True, arguments={"x-queue-type": "quorum"})
            line.basic_publish("", "kept", b"still here", pika.BasicProperties(delivery_mode=2))
    elif isinstance(server, RedisServer):
        assert exchange(server.port, b"SET kept 1\r\n", 16) == b"+OK\r\n"
    elif isinstance(server, S3Server):
        server.fresh_bucket()


def stored(server: Server) -> bool:
    """Say whether what ``store`` put there is there."""
    if isinstance(server, MariaDbServer):
        return server.query("SELECT word FROM t", database="kept") == [{"word": "été 🎨"}]
    if isinstance(server, RabbitServer):
        with channel(server) as line:
            return bool(line.basic_get("kept", auto_ack=True)[2] == b"still here")
    if isinstance(server, RedisServer):
        return exchange(server.port, b"EXISTS kept\r\n", 16) == b":1\r\n"
    return b"<Name>" in exchange(server.port, b"GET / HTTP/1.0\r\n\r\n", 65_536)


@contextmanager
def channel(server: RabbitServer) -> Iterator[Any]:
    """Open a channel to the first virtual host."""
    connection = pika.BlockingConnection(pika.URLParameters(server.url("/")))
    try:
        yield connection.channel()
    finally:
        connection.close()


async def test_a_server_killed_comes_back_on_its_port_with_its_data_and_leaves_nothing(
    kind: type[Server], tmp_path: Path
) -> None:
    folder = tmp_path / "server"
    server = kind(folder)
    with server:
        port, process_id = server.port, server.process_id
        store(server)
        if isinstance(server, RabbitServer):
            await until(lambda: server.settled, 10, "queues on disk")
        server.kill()
        assert not server.running
        assert exchange(port, b"", 1) == b""
        server.start()
        assert server.port == port
        assert server.process_id != process_id
        assert stored(server) is (kind in {RabbitServer, MariaDbServer})
        server.stop()
        assert not server.running
    await until(lambda: not processes_in(folder), 10, f"nothing left: {processes_in(folder)}")
    assert not folder.exists()


async def test_a_server_does_not_outlive_an_owner_that_is_killed(
    kind: type[Server], tmp_path: Path
) -> None:
    folder = tmp_path / "server"
    script = OWNER.format(module=kind.__module__.rpartition(".")[2], kind=kind.__name__)
    root = Path(__file__).parents[2]
    with subprocess.Popen(  # noqa: ASYNC220 - its first line is waited for anyway
        [sys.executable, "-c", script, str(folder)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        process_id = int(owner.stdout.readline())
        assert psutil.pid_exists(process_id)
        owner.send_signal(signal.SIGKILL)
    await until(lambda: not folder.exists(), 10, "the folder's end")
    assert processes_in(folder) == []


def test_a_server_that_cannot_start_says_what_it_wrote(tmp_path: Path) -> None:
    if reason := missing.no_redis():
        pytest.skip(reason)
    with RedisServer(tmp_path / "one") as first:
        second = RedisServer(tmp_path / "two", ports=first.ports)
        second.ready = lambda: False  # type: ignore[method-assign]
        with pytest.raises(NotStarted, match="Address already in use"):
            second.start()


def test_shared_servers_are_the_same_for_all_that_ask_and_keep_tests_apart() -> None:
    if reason := missing.no_mariadb() or missing.no_redis() or missing.no_moto():
        pytest.skip(reason)
    server = shared.mariadb()
    shared.mariadb.cache_clear()
    found = shared.mariadb()
    assert found.ports == server.ports
    first, second = found.fresh_database(), server.fresh_database()
    assert first != second
    server.query("CREATE TABLE t (n INT)", database=first.rpartition("/")[2])
    assert server.query("SHOW TABLES", database=second.rpartition("/")[2]) == []
    server.drop_database(first)
    assert shared.redis().fresh_database() != shared.redis().fresh_database()
    assert shared.s3().fresh_bucket() != shared.s3().fresh_bucket()


def test_a_virtual_host_is_empty_and_can_be_removed() -> None:
    if reason := missing.no_rabbitmq():
        pytest.skip(reason)
    server = shared.rabbitmq()
    url = server.fresh_vhost()
    assert server.queues(url) == {}
    connection = pika.BlockingConnection(pika.URLParameters(url))
    line = connection.channel()
    line.confirm_delivery()
    line.queue_declare("q", durable=True, arguments={"x-queue-type": "quorum"})
    line.basic_publish("", "q", b"1")
    assert server.queues(server.fresh_vhost()) == {}
    connection.close()
    server.drop_vhost(url)
    server.drop_vhost(url)

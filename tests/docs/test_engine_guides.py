"""The guides to real engines work as they stand, word for word but for ports.

Their commands are typed on a machine with servers of its own: ``rabbitmqctl`` and ``mariadb`` are
there under their names and lead to these.
"""

import json
import shutil
import subprocess
import urllib.error
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

from limner.actors.generator.messages import Generate
from limner.actors.mailer.messages import Send
from limner.actors.registry import ACTORS
from limner.core.errors import Busy, EngineUnavailable
from limner.storage.cache.redis import RedisCache
from tests.contracts.engines import Engine, prepare
from tests.docs.pages import ROOT, blocks
from tests.docs.tree import URL, Tree, free_port, is_ready, wait_for
from tests.engines import missing, rabbitmq, shared
from tests.engines.mariadb import USER, MariaDbServer
from tests.engines.rabbitmq import RabbitServer
from tests.engines.redis import RedisServer
from tests.engines.server import HOST

pytestmark = [pytest.mark.journey, pytest.mark.real, pytest.mark.timeout(240)]

CLUSTER = "docs/guides/several-processes.md"
PRODUCERS = "docs/guides/foreign-producers.md"
OPERATING = "docs/operating.md"
ENGINES = "docs/engines.md"
ACCOUNTS = ("limner", "shop")
VHOST = "limner"
NOT_FOUND = 404
AMQP, MYSQL, REDIS, S3 = (f"{HOST}:{port}" for port in (5672, 3306, 6379, 9000))
CONTROLLED = ("RABBITMQ_", "ERL_", "HOME")
"""What tells rabbitmqctl which server it is for."""


def not_here() -> str | None:
    """Say why the guides cannot be followed on this machine."""
    for program, package in (
        ("rabbitmqctl", "rabbitmq-server"),
        ("mariadb", "mariadb-client"),
        ("redis-cli", "redis-tools"),
        ("amqp-publish", "amqp-tools"),
        ("openssl", "openssl"),
        ("curl", "curl"),
    ):
        if not shutil.which(program):
            return f"{program} is not installed: apt-get install {package}"
    return missing.no_engines()


GUIDES: Engine[None] = Engine("guides", lambda _: nullcontext(), real=True, missing=not_here)


@pytest.fixture
def rabbit(request: pytest.FixtureRequest) -> Iterator[RabbitServer]:
    """Give a RabbitMQ without the virtual host and the users of the guides, then and before."""
    prepare(GUIDES, request)
    server = shared.rabbitmq()
    _forget(server)
    yield server
    _forget(server)


def _forget(server: RabbitServer) -> None:
    for path in (f"/vhosts/{VHOST}", *(f"/users/{name}" for name in ACCOUNTS)):
        try:
            server.api("DELETE", path)
        except urllib.error.HTTPError as error:
            with error:
                if error.code != NOT_FOUND:
                    raise


class EngineTree(Tree):
    """A reader's tree on a machine with engines; the ports of the page become those of ours."""

    def __init__(self, root: Path, page: str, ports: dict[str, int], rabbit: RabbitServer) -> None:
        super().__init__(root, page)
        self.front = free_port()
        self._places = {place: f"{HOST}:{port}" for place, port in ports.items()}
        self._places |= {
            AMQP: f"{HOST}:{rabbit.port}",
            URL.removeprefix("http://"): f"{HOST}:{self.front}",
        }
        for block in self.blocks:
            if block.path:
                path = self.root / block.path
                path.write_text(self.ours(path.read_text()))
        self.path = root / "bin"
        self.path.mkdir()
        self.environment["PATH"] = f"{self.path}:{self.environment['PATH']}"
        theirs = rabbit.environment()
        names = {name: theirs[name] for name in theirs if name.startswith(CONTROLLED)}
        program = Path(rabbitmq.program() or rabbitmq.PROGRAM).with_name("rabbitmqctl")
        self.command("rabbitmqctl", str(program), **names)

    def ours(self, text: str) -> str:
        """Put our ports in the place of the page's."""
        for place, port in self._places.items():
            text = text.replace(place, port)
        return text

    def command(self, name: str, *words: str, **environment: str) -> None:
        """Make a command that is another one."""
        script = self.path / name
        exports = "".join(f"export {key}='{value}'\n" for key, value in environment.items())
        script.write_text(f'#!/bin/sh\n{exports}exec {" ".join(words)} "$@"\n')
        script.chmod(0o755)

    def typed(self, words: str) -> str:
        return self.ours(super().typed(words))

    def commands(self, words: str) -> str:
        """Give the one block that is the single line beginning with ``words``."""
        (line,) = [
            block.text.strip()
            for block in self.blocks
            if block.language == "sh"
            and block.text.startswith(words)
            and len(block.text.splitlines()) == 1
        ]
        return self.ours(line)

    @contextmanager
    def at_work(self, command: str, name: str, port: int = 0) -> Iterator[Path]:
        """Run a server until the block ends; it is at work when its front or its log says so."""
        with self.running(command, name) as log:

            def works() -> bool:
                return is_ready(port) if port else '"event": "started"' in log.read_text()

            wait_for(f"the start of {name}", works, log)
            yield log

    def key(self) -> str:
        """Give an API key of the owner's."""
        return self.shell(".venv/bin/python run.py key create").strip()


@pytest.fixture
def mariadb(tmp_path: Path, rabbit: RabbitServer) -> Iterator[MariaDbServer]:
    """Give a MariaDB with nobody but its administrator."""
    with MariaDbServer(tmp_path / "mariadb") as server:
        subprocess.run(
            [*_administrator(server), "-e", f"DROP USER '{USER}'@'%'"], check=True, timeout=20
        )
        yield server


def _administrator(server: MariaDbServer) -> list[str]:
    return ["mariadb", "--no-defaults", f"--socket={server.folder / 'socket'}", "-uroot"]


@pytest.fixture
def cluster_tree(
    tmp_path: Path, rabbit: RabbitServer, mariadb: MariaDbServer
) -> Iterator[EngineTree]:
    """Give the tree of the guide to several processes, before its first command."""
    with RedisServer(tmp_path / "redis") as redis:
        ports = {MYSQL: mariadb.port, REDIS: redis.port, S3: shared.s3().port}
        tree = EngineTree(tmp_path / "limner", CLUSTER, ports, rabbit)
        real = shutil.which("mariadb") or "mariadb"
        tree.command("mariadb", real, *_administrator(mariadb)[1:])
        dump = shutil.which("mariadb-dump") or "mariadb-dump"
        tree.command("mariadb-dump", dump, *_administrator(mariadb)[1:])
        yield tree


def test_the_guide_to_several_processes_leads_from_empty_servers_to_mails(
    cluster_tree: EngineTree,
) -> None:
    tree = cluster_tree
    for words in ("add_vhost", "CREATE DATABASE", "create_bucket", "openssl"):
        tree.shell(tree.typed(words))
    said = tree.shell(tree.typed("run.py migrate"))
    assert "fail" not in said
    assert {"broker", "objects", "cache"} <= {line[4:].split()[0] for line in said.splitlines()[1:]}
    serve = ".venv/bin/python run.py serve "
    front = f"{tree.commands(f'{serve}--actors')} --port {tree.front}"
    with ExitStack() as stack:
        log = stack.enter_context(tree.at_work(front, "front", tree.front))
        stack.enter_context(tree.at_work(tree.commands(f"{serve}--no-http --actors sub"), "second"))
        stack.enter_context(tree.at_work(tree.commands(f"{serve}--no-http --actors gen"), "third"))
        tree.shell(tree.typed("/api/sources"))
        ask, key = tree.typed("state=emailed"), tree.key()

        def emailed(ask: str = ask) -> int:
            listed = json.loads(tree.shell(ask, URL=f"http://{HOST}:{tree.front}", KEY=key))
            return len(listed["data"])

        wait_for("the ends", lambda: emailed() == tree.samples("emailed"), log)
        queues = dict(
            line.split("\t", 1) for line in tree.shell(tree.typed("list_queues")).splitlines()[1:]
        )
        assert queues["limner.generator"] == "0\t1"
        (dump,) = [one.text for one in blocks(ROOT / OPERATING) if "mariadb-dump" in one.text]
        (tree.root / "backup").mkdir()
        tree.shell(dump)
        assert "INSERT INTO `tasks`" in (tree.root / "backup" / "limner.sql").read_text()
        other = free_port()
        again = tree.commands(f"{serve}--port 8081").replace("8081", str(other))
        with tree.at_work(again, "other", other):
            listed = tree.shell(ask, URL=f"http://{HOST}:{other}", KEY=key)
            assert len(json.loads(listed)["data"]) == tree.samples("emailed")


@pytest.fixture
def shop_tree(tmp_path: Path, rabbit: RabbitServer) -> EngineTree:
    """Give the tree of the guide to other producers, with a user for Limner and one for them."""
    tree = EngineTree(tmp_path / "limner", PRODUCERS, {}, rabbit)
    (room,) = [one.text for one in blocks(ROOT / CLUSTER) if "add_vhost" in one.text]
    tree.shell(room)
    tree.shell(tree.typed("add_user shop"))
    return tree


def test_other_programs_have_mails_sent_and_pictures_made_as_the_guide_says(
    shop_tree: EngineTree,
) -> None:
    tree = shop_tree
    migrate, serve = tree.typed("run.py serve").splitlines()
    tree.shell(migrate)
    with tree.at_work(f"{serve} --port {tree.front}", "limner", tree.front) as log:
        tree.shell(tree.typed("send_mail.py"))
        tree.shell(tree.typed('"message_id: order-1043-shipped"'))
        mails = "SELECT recipient, subject FROM mailbox ORDER BY recipient"
        expected = [("ada@example.com", "Your order"), ("ben@example.com", "Hello")]
        wait_for("both mails", lambda: tree.rows(mails) == expected, log)
        assert "Your order" in tree.shell(tree.typed("/api/mailbox"))

        said = tree.shell(tree.typed("make_picture.py")).splitlines()[-1]
        ((job_id, outputs),) = tree.rows("SELECT id, outputs FROM jobs")
        assert said == f"job.succeeded {job_id}"
        (picture,) = json.loads(outputs)
        assert picture["key"].startswith(f"jobs/{job_id}/")
        assert picture["content_type"] == "image/png"

        tree.shell(tree.typed("Who am I?"))
        letters = "SELECT reason, topic FROM dead_letters"
        dead = [("no_message_id", "mailer.send")]
        wait_for("the dead letter", lambda: tree.rows(letters) == dead, log)
        assert "no_message_id" in tree.shell(tree.typed("dead list"))
        assert tree.rows(mails) == expected


def test_the_operators_commands_for_rabbitmq_do_what_the_page_says(
    shop_tree: EngineTree, rabbit: RabbitServer
) -> None:
    tree = shop_tree
    typed = {
        word: block.text
        for block in blocks(ROOT / OPERATING)
        for word in ("set_policy", "submitter.submit")
        if block.language == "sh" and word in block.text
    }
    (limner,) = [block.text for block in tree.blocks if block.path == ".env"]
    url = tree.ours(limner.strip().partition("=")[2])
    tree.shell(".venv/bin/python run.py migrate")
    serve = f".venv/bin/python run.py serve --port {tree.front}"
    with tree.at_work(serve, "limner", tree.front) as log:
        tree.shell(typed["set_policy"])

        def limited() -> set[str]:
            queues = rabbit.api("GET", f"/queues/{VHOST}")
            return {queue["name"] for queue in queues if queue.get("policy") == "limner-length"}

        all_but_the_dead = {f"limner.{actor}" for actor in ACTORS}
        wait_for("the limit", lambda: limited() == all_but_the_dead, log)

        tree.shell(typed["submitter.submit"], LIMNER_BROKER_URL=url, TASK="task_1")
        letters = "SELECT reason, detail FROM dead_letters"
        told = [("not_found", "there is no task task_1")]
        wait_for("the answer", lambda: tree.rows(letters) == told, log)


@pytest.fixture
def guarded_redis(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Give a Redis that lets in nobody but the user of the page of engines."""
    prepare(GUIDES, request)
    (typed,) = [block.text for block in blocks(ROOT / ENGINES) if "ACL SETUSER" in block.text]
    with RedisServer(tmp_path / "redis") as server:
        shim = f'redis-cli() {{ command redis-cli -e -p {server.port} "$@"; }}'
        for line in (typed, "redis-cli ACL SETUSER default off"):
            subprocess.run(["bash", "-euc", f"{shim}\n{line}"], check=True, timeout=20)
        yield server


async def test_the_user_of_the_page_of_engines_may_do_in_redis_what_the_cache_does(
    guarded_redis: RedisServer,
) -> None:
    place = f"{HOST}:{guarded_redis.port}/1"
    cache = RedisCache(f"redis://limner:change-me@{place}")
    await cache.check()
    assert await cache.add("key", b"value", 5)
    await cache.set("key", b"other", 5)
    assert await cache.get("key") == b"other"
    await cache.delete("key")
    assert (await cache.take("bucket", 1, 5)).remaining == 4
    async with cache.lock("name", 5) as lock:
        await lock.extend()
        with pytest.raises(Busy):
            await cache.lock("name", 5).__aenter__()
    await cache.aclose()
    stranger = RedisCache(f"redis://{place}")
    with pytest.raises(EngineUnavailable):
        await stranger.check()
    await stranger.aclose()


def test_the_user_of_the_guide_may_send_the_public_commands_and_no_others(
    shop_tree: EngineTree,
) -> None:
    (limner,) = [block.text for block in shop_tree.blocks if block.path == ".env"]
    ours = shop_tree.ours(limner.strip().partition("=")[2])
    connection = pika.BlockingConnection(pika.URLParameters(ours))
    connection.channel().exchange_declare("limner.commands", "topic", durable=True)
    connection.close()
    theirs = ours.replace("limner:", "shop:", 1)
    connection = pika.BlockingConnection(pika.URLParameters(theirs))
    channel = connection.channel()
    channel.confirm_delivery()
    for topic in (Send.topic, Generate.topic):
        channel.basic_publish("limner.commands", topic, b"{}")
    with pytest.raises(ChannelClosedByBroker, match=r"mailer\.deliver"):
        channel.basic_publish("limner.commands", "mailer.deliver", b"{}")
    connection.close()

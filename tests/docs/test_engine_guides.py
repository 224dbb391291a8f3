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
from limner.storage.sql.accounts import OWNER_ID
from tests.contracts.engines import Engine, prepare
from tests.docs.pages import ROOT, Block, blocks
from tests.docs.tree import URL, Tree, free_port, is_ready, wait_for
from tests.engines import missing, rabbitmq, shared
from tests.engines.mariadb import USER, MariaDbServer
from tests.engines.rabbitmq import RabbitServer
from tests.engines.redis import RedisServer
from tests.engines.server import HOST

pytestmark = [pytest.mark.journey, pytest.mark.real, pytest.mark.timeout(240)]

CLUSTER = "docs/guides/several-processes.md"
PRODUCERS = "docs/guides/foreign-producers.md"
ACCOUNTS = ("limner", "shop")
VHOST = "limner"
AMQP, MYSQL, REDIS, S3 = (f"{HOST}:{port}" for port in (5672, 3306, 6379, 9000))
CONTROLLED = ("RABBITMQ_", "ERL_", "HOME")
"""What tells rabbitmqctl which server it is for."""


def not_here() -> str | None:
    """Say why the guides cannot be followed on this machine."""
    for program, package in (
        ("rabbitmqctl", "rabbitmq-server"),
        ("mariadb", "mariadb-client"),
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
                assert error.code == 404, path


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
        assert said.startswith("job.succeeded job_")
        (outputs,) = tree.rows(f"SELECT outputs FROM jobs WHERE id = '{said.split()[1]}'")
        (picture,) = json.loads(outputs[0])
        assert picture["key"].startswith(f"jobs/{said.split()[1]}/")
        assert picture["content_type"] == "image/png"

        tree.shell(tree.typed("Who am I?"))
        letters = "SELECT reason, topic FROM dead_letters"
        dead = [("no_message_id", "mailer.send")]
        wait_for("the dead letter", lambda: tree.rows(letters) == dead, log)
        assert "no_message_id" in tree.shell(tree.typed("dead list"))
        assert tree.rows(mails) == expected


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
    with pytest.raises(ChannelClosedByBroker, match="mailer.deliver"):
        channel.basic_publish("limner.commands", "mailer.deliver", b"{}")
    connection.close()


def test_the_owner_of_the_guide_is_the_owner() -> None:
    (script,) = _python(PRODUCERS, "make_picture.py")
    assert f'OWNER = "{OWNER_ID}"' in script.text


@pytest.mark.parametrize("message", [Send, Generate])
def test_the_guide_names_every_field_of_the_public_commands(message: type[Send]) -> None:
    text = (ROOT / PRODUCERS).read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith(f"| `{message.topic}`")]
    assert all(f"`{name}`" in row for name in message.model_fields)


def _python(page: str, path: str) -> list[Block]:
    return [block for block in blocks(ROOT / page) if block.path == path]

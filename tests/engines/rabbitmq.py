"""A private RabbitMQ with an epmd of its own."""

import base64
import itertools
import json
import os
import secrets
import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

from tests.engines.server import HOST, Server, exchange

PROGRAM = "/usr/lib/rabbitmq/bin/rabbitmq-server"
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
CONNECTION_START = b"\x00\x0a\x00\x0a"
LOGIN = "guest"
API_LIMIT_S = 30.0
NOT_INHERITED = ("RABBITMQ_", "ERL_")
_numbers = itertools.count(1)


def program() -> str | None:
    """Give the server's start script; the one on PATH of Debian demands root."""
    return shutil.which(PROGRAM) or shutil.which("rabbitmq-server")


class RabbitServer(Server):
    """rabbitmq-server with the management API, ready when it shakes hands by AMQP 0-9-1."""

    name: ClassVar[str] = "rabbitmq"
    port_names: ClassVar[Sequence[str]] = ("port", "api", "node", "epmd")
    start_limit_s: ClassVar[float] = 90.0
    plugins: ClassVar[Sequence[str]] = ("rabbitmq_management",)

    def prepare(self) -> None:
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        cookie = home / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(secrets.token_hex(16))
            cookie.chmod(0o400)
        (self.folder / "plugins").write_text(f"[{','.join(self.plugins)}].\n")
        lines = [
            f"listeners.tcp.default = {HOST}:{self.port}",
            "log.console = true",
            "log.console.level = warning",
            "log.file = false",
            "vm_memory_high_watermark.absolute = 1GB",
            "disk_free_limit.absolute = 50MB",
            f"management.tcp.ip = {HOST}",
            f"management.tcp.port = {self.ports['api']}",
            "management_agent.disable_metrics_collector = true",
        ]
        (self.folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        # epmd in the foreground is of the server's group and ends with it.
        epmd = f"epmd -port {self.ports['epmd']} -address {HOST} &"
        return ["/bin/sh", "-c", f'{epmd} exec "$0"', program() or PROGRAM]

    def environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(NOT_INHERITED)}
        folder = str(self.folder)
        return {
            **inherited,
            "HOME": f"{folder}/home",
            "RABBITMQ_NODENAME": f"limner{self.port}@localhost",
            "RABBITMQ_MNESIA_BASE": f"{folder}/mnesia",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/none",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{folder}/generated",
            "RABBITMQ_FEATURE_FLAGS_FILE": f"{folder}/flags",
            "RABBITMQ_SCHEMA_DIR": f"{folder}/schema",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            "RABBITMQ_DIST_PORT": str(self.ports["node"]),
            "RABBITMQ_SERVER_START_ARGS": "-noinput",
            # The script then becomes the virtual machine, in place of waiting for it.
            "RABBITMQ_ALLOW_INPUT": "1",
            # A node that waits for work must not burn the cores that others need.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
            "ERL_EPMD_PORT": str(self.ports["epmd"]),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_CRASH_DUMP": "/dev/null",
        }

    def ready(self) -> bool:
        answer = exchange(self.port, PROTOCOL_HEADER, 16, limit_s=2.0)
        return answer[:1] == b"\x01" and CONNECTION_START in answer and self._api_answers()

    def _api_answers(self) -> bool:
        try:
            self.api("GET", "/whoami")
        except OSError:
            return False
        return True

    @property
    def settled(self) -> bool:
        """Whether kill -9 finds all quorum queues on disk.

        RabbitMQ 3.10 writes the names of new ones a second later; one that dies before that comes
        back with queues that never find a leader.
        """
        (folder,) = self.folder.glob("mnesia/*/quorum/*/")
        declared = [config.stat().st_mtime for config in folder.glob("*/config")]
        return (folder / "names.dets").stat().st_mtime > max(declared, default=0.0)

    def last_command(self) -> list[str] | None:
        return ["epmd", "-port", str(self.ports["epmd"]), "-kill"]

    def url(self, vhost: str) -> str:
        """Give the URL of a virtual host."""
        return f"amqp://{LOGIN}:{LOGIN}@{HOST}:{self.port}/{quote(vhost, safe='')}"

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the management API and give the JSON of its answer.

        Raises:
            OSError: nobody answers; ``urllib.error.HTTPError`` with an error's status.
        """
        token = base64.b64encode(f"{LOGIN}:{LOGIN}".encode()).decode()
        request = urllib.request.Request(
            f"http://{HOST}:{self.ports['api']}/api{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Basic {token}", "Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=API_LIMIT_S) as answer:  # noqa: S310
            text = answer.read()
        return json.loads(text) if text else None

    def fresh_vhost(self) -> str:
        """Make a virtual host without queues and give its URL."""
        name = f"t{os.getpid()}-{next(_numbers)}"
        self.api("PUT", f"/vhosts/{name}", {})
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self.api("PUT", f"/permissions/{name}/{LOGIN}", everything)
        return self.url(name)

    def drop_vhost(self, url: str) -> None:
        """Remove a virtual host with its queues and connections, by its URL."""
        try:
            self.api("DELETE", f"/vhosts/{urlsplit(url).path[1:]}")
        except urllib.error.HTTPError as error:
            with error:
                if error.code != 404:
                    raise

    def queues(self, url: str) -> dict[str, int]:
        """Give how many messages each queue of a virtual host holds, by the queues' own count."""
        vhost = urlsplit(url).path[1:]
        columns = "disable_stats=true&enable_queue_totals=true"
        rows = self.api("GET", f"/queues/{vhost}?{columns}")
        return {row["name"]: row["messages"] for row in rows}

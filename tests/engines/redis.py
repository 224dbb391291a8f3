"""A private Redis."""

import os
import socket
from collections.abc import Sequence
from typing import ClassVar

from tests.engines.server import HOST, Server, exchange

DATABASES = 4_096


class RedisServer(Server):
    """redis-server without persistence: a cache, which comes back empty from every end."""

    name: ClassVar[str] = "redis"
    port_names: ClassVar[Sequence[str]] = ("port",)
    _used = 0

    def command(self) -> list[str]:
        return [
            *("redis-server", "--port", str(self.port), "--bind", HOST),
            *("--dir", str(self.folder), "--save", "", "--appendonly", "no"),
            *("--databases", str(DATABASES), "--daemonize", "no"),
        ]

    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}

    def ready(self) -> bool:
        return exchange(self.port, b"PING\r\n", 16).startswith(b"+PONG")

    @property
    def url(self) -> str:
        """Its URL, with the first database."""
        return f"redis://{HOST}:{self.port}/0"

    def fresh_database(self) -> str:
        """Give the URL of an empty database; channels are shared by all of them."""
        number, self._used = self._used % DATABASES, self._used + 1
        url = f"redis://{HOST}:{self.port}/{number}"
        self.flush(url)
        return url

    def flush(self, url: str) -> None:
        """Empty one database."""
        number = url.rpartition("/")[2]
        with socket.create_connection((HOST, self.port), 5) as line:
            line.sendall(f"SELECT {number}\r\nFLUSHDB\r\n".encode())
            answer = b""
            while answer.count(b"\r\n") < 2:
                answer += line.recv(64) or b"-ERR closed\r\n\r\n"
        assert b"-" not in answer, answer

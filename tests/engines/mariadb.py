"""A private MariaDB."""

import itertools
import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pymysql

from tests.engines.server import HOST, Server, exchange

USER = "limner"
PASSWORD = "limner-of-the-tests"
INSTALL_LIMIT_S = 60.0
QUERY_LIMIT_S = 30.0
HANDSHAKE = 10
"""The protocol version that a server greets with; a server in start says nothing or an error."""
SETUP = (
    f"CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';\n"
    f"GRANT ALL PRIVILEGES ON *.* TO '{USER}'@'%' WITH GRANT OPTION;\n"
)
_numbers = itertools.count(1)


def _account() -> list[str]:
    """Give the option without which mariadbd refuses to run as root."""
    return [f"--user={pwd.getpwuid(os.getuid()).pw_name}"] if os.getuid() == 0 else []


class MariaDbServer(Server):
    """mariadbd with small logs; ``durable`` writes each commit to disk, as a real one does.

    Without it a commit still survives kill -9, only not a loss of power. A new server copies
    ``template``, an installed data folder, where one is given.
    """

    name: ClassVar[str] = "mariadb"
    port_names: ClassVar[Sequence[str]] = ("port",)
    durable = False
    template: Path | None = None

    def prepare(self) -> None:
        (self.folder / "setup.sql").write_text(SETUP)
        if self._data.exists():
            return
        if self.template is not None:
            shutil.copytree(self.template, self._data)
        else:
            install(self._data)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def command(self) -> list[str]:
        return [
            *("mariadbd", "--no-defaults", *_account(), f"--datadir={self._data}"),
            *(f"--socket={self.folder / 'socket'}", f"--pid-file={self.folder / 'pid'}"),
            *(f"--port={self.port}", f"--bind-address={HOST}", "--skip-name-resolve"),
            *("--character-set-server=utf8mb4", "--collation-server=utf8mb4_general_ci"),
            *("--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M"),
            f"--innodb-flush-log-at-trx-commit={1 if self.durable else 2}",
            *("--performance-schema=OFF", "--max-connections=400"),
            f"--tmpdir={self.folder}",
            f"--init-file={self.folder / 'setup.sql'}",
        ]

    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}

    def ready(self) -> bool:
        greeting = exchange(self.port, b"", 64)
        return len(greeting) > 4 and greeting[4] == HANDSHAKE and self._answers()

    def _answers(self) -> bool:
        try:
            self.query("SELECT 1")
        except pymysql.MySQLError:
            return False
        return True

    def url(self, database: str) -> str:
        """Give the URL of a database."""
        return f"mysql://{USER}:{PASSWORD}@{HOST}:{self.port}/{database}"

    def query(self, sql: str, *values: Any, database: str | None = None) -> list[dict[str, Any]]:
        """Run one statement beside everybody else and give its rows."""
        connection = pymysql.connect(
            host=HOST,
            port=self.port,
            user=USER,
            password=PASSWORD,
            database=database,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=5,
            read_timeout=QUERY_LIMIT_S,
            cursorclass=pymysql.cursors.DictCursor,
        )
        with closing(connection), connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            return list(cursor.fetchall())

    def fresh_database(self) -> str:
        """Make a database without tables and give its URL."""
        name = f"t{os.getpid()}_{next(_numbers)}"
        self.query(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Remove a database, by its URL."""
        self.query(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]}")


def install(data: Path) -> None:
    """Make an empty data folder, which takes seconds."""
    command = [
        *("mariadb-install-db", "--no-defaults", f"--datadir={data}", *_account()),
        *("--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"),
        *("--innodb-log-file-size=16M", f"--tmpdir={data.parent}"),
    ]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=INSTALL_LIMIT_S, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr

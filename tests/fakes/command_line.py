"""The command line in this process: homes to run it over, and what it printed."""

import asyncio
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner, Result

from limner.actors.mailer.messages import Deliver
from limner.app import Service, open_engines
from limner.cli import cli
from limner.core.settings import Settings
from limner.ops import migration
from limner.storage.sql.messaging import DeadLetter
from tests.journeys.process import until

LIMIT_S = 20.0


class CommandLine:
    """Runs commands over ``folder/home``, in ``folder`` and with no other setting."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"

    def __call__(self, *arguments: str, **settings: str) -> Result:
        environment = {"LIMNER_HOME": str(self.home), **settings}
        return CliRunner().invoke(cli, arguments, env=environment)

    def migrate(self) -> None:
        """Make the tables and the owner."""

        async def make() -> None:
            async with open_engines(Settings(home=self.home), check_schema=False) as engines:
                await migration.migrate(engines.ports.database, engines.ports.units)

        asyncio.run(make())

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement on the home's database."""
        with closing(sqlite3.connect(self.home / "limner.db")) as connection, connection:
            return connection.execute(query, values).fetchall()

    def bury(self) -> tuple[str, str]:
        """Have the mailer bury a real message, about a delivery there is not; give id and body."""
        return asyncio.run(self._bury())

    async def _bury(self) -> tuple[str, str]:
        async with open_engines(Settings(home=self.home)) as engines:
            service = Service(engines, ("mailer",), {})
            await service.start(http=False)
            try:
                work = engines.ports.units.open("test")
                work.send(Deliver(delivery_id="delivery_none"))
                await engines.ports.units.commit(work)
                await until(DeadLetter.exists, LIMIT_S, "a dead letter")
            finally:
                await service.stop()
            letter = await DeadLetter.get()
            return letter.id, bytes(letter.body).decode()


@contextmanager
def command_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CommandLine]:
    """Give a command line over ``folder``; what commands do to logging is undone afterwards."""
    for name in os.environ:
        if name.startswith("LIMNER_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(folder)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield CommandLine(folder)
    finally:
        # They log to the stream that the runner has closed since.
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()

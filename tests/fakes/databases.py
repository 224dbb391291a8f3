"""The database that tests of actors and of the front run over: SQLite, or by choice MariaDB.

``TESTS_DATABASE=mariadb pytest tests/http tests/actors`` runs the same tests over a server.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from limner.core.clock import Clock
from limner.storage.sql.database import Database
from tests.contracts import mariadb

CHOICE = "TESTS_DATABASE"

_used: set[Path] = set()


@asynccontextmanager
async def opened(migrated: Path, path: Path, clock: Clock) -> AsyncIterator[Database]:
    """Open a database with the newest schema and, at the first time for ``path``, no rows.

    On SQLite it is a copy of the file ``migrated`` at ``path``.
    """
    if os.environ.get(CHOICE) == "mariadb":
        database = await mariadb.opened(clock, emptied=path not in _used)
        _used.add(path)
    else:
        if not path.exists():
            await asyncio.to_thread(shutil.copyfile, migrated, path)
        database = Database(f"sqlite://{path}", clock)
        await database.open()
    try:
        yield database
    finally:
        await database.close()

"""The connections of a process to a MySQL or MariaDB server: bounded, waited for with a limit.

aiomysql's own pool opens connections one after another while everybody waits, and waits for a
free one without end; this one does neither. A quarter of the connections is left to readers, so
that transactions that read beside themselves cannot all wait for each other.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from limner.core.errors import EngineUnavailable

WAIT_S = 10.0
RECYCLE_S = 300.0
"""A connection that was idle for longer is opened anew: proxies and firewalls forget it."""


class ConnectionPool:
    """Lends connections, the one that was used last first; ``size`` at most are open.

    ``connect`` opens one. ``writing`` asks for one to hold a transaction on.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[Any]], size: int, wait_s: float = WAIT_S
    ) -> None:
        self.size = max(2, size)
        self._connect = connect
        self._wait_s = wait_s
        self._turns = asyncio.Semaphore(self.size)
        self._writing = asyncio.Semaphore(self.size - max(1, self.size // 4))
        self._free: list[Any] = []
        self._lent: dict[Any, bool] = {}
        self._closed = False

    async def acquire(self, *, writing: bool = False) -> Any:
        """Take a connection; give it back by ``release``.

        Raises:
            EngineUnavailable: all are busy for ``wait_s``, or the server is out of reach.
        """
        await self._wait_turn(writing=writing)
        try:
            connection = self._reusable() or await self._connect()
        except BaseException:
            self._end_turn(writing=writing)
            raise
        self._lent[connection] = writing
        return connection

    async def _wait_turn(self, *, writing: bool) -> None:
        if self._closed:
            raise EngineUnavailable("MySQL: the database is closed")
        try:
            async with asyncio.timeout(self._wait_s), AsyncExitStack() as undo:
                if writing:
                    await self._writing.acquire()
                    undo.callback(self._writing.release)
                await self._turns.acquire()
                undo.pop_all()
        except TimeoutError as error:
            raise EngineUnavailable(
                f"MySQL: all {self.size} connections are busy; LIMNER_DATABASE_POOL allows more"
            ) from error

    def _end_turn(self, *, writing: bool) -> None:
        self._turns.release()
        if writing:
            self._writing.release()

    def _reusable(self) -> Any:
        """Give a free connection that still stands, or None; close those that do not."""
        now = asyncio.get_running_loop().time()
        while self._free:
            connection = self._free.pop()
            if stands(connection) and now - connection.last_usage < RECYCLE_S:
                return connection
            connection.close()
        return None

    def release(self, connection: Any) -> None:
        """Give a connection back; one that is left inside a transaction is closed."""
        writing = self._lent.pop(connection)
        if self._closed or not stands(connection) or connection.get_transaction_status():
            connection.close()
        else:
            self._free.append(connection)
        self._end_turn(writing=writing)

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Any]:
        """Hold a connection for a block."""
        connection = await self.acquire()
        try:
            yield connection
        finally:
            self.release(connection)

    async def close(self) -> None:
        """Say goodbye on free connections and cut those in use; may be called again."""
        self._closed = True
        free, self._free = self._free, []
        for connection in self._lent:
            connection.close()
        for connection in free:
            try:
                await connection.ensure_closed()
            except OSError:
                connection.close()
        # A transport is rid of its socket one turn of the loop after it was closed.
        await asyncio.sleep(0)


def stands(connection: Any) -> bool:
    """Whether a connection is open as far as this side knows: a server that ends says so."""
    if connection.closed:
        return False
    reader = connection._reader
    return not (reader.at_eof() or reader.eof_received or reader.exception())

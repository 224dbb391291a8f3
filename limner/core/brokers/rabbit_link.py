"""A link: one connection to RabbitMQ, opened when it is needed and again after it was lost.

The driver's robust connection repairs itself behind everybody's back: numbers of deliveries that
belong to the old channel are acknowledged on the new one, and publishing waits instead of saying
that it cannot. Here whoever uses a lost connection is told; the relay and the actors' loops begin
again by themselves, and the first of them opens the next connection.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import aio_pika
import aiormq
import aiormq.abc
from aio_pika.abc import AbstractChannel
from aiormq.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelInvalidStateError,
    InvalidFrameError,
    ProbableAuthenticationError,
)
from yarl import URL

from limner.core.brokers.rabbit_lane import Arrive, Confirm, Lane, ignore
from limner.core.brokers.rabbit_wire import Wire
from limner.core.errors import EngineUnavailable

T = TypeVar("T")

CONNECT_LIMIT_S = 10.0
DECLARE_LIMIT_S = 30.0
ANSWER_LIMIT_S = 10.0
CLOSE_LIMIT_S = 5.0
MOMENT_S = 0.001
HEARTBEAT_S = 10
"""A peer that vanished without a word is noticed after three of these and a little."""

CONNECTING = "connecting"

Declare = Callable[[AbstractChannel], Awaitable[None]]
Question = Callable[[AbstractChannel], Awaitable[T]]


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what the driver raises into EngineUnavailable.

    A channel that is closed cancels those who wait for its answers; that is no cancellation of
    the task that waits. On the other hand the driver's waits can lose a cancellation that comes
    together with an answer (``asyncio.wait_for`` before Python 3.12), or tell it as an error of
    the channel; that is made up for here.
    """
    task = asyncio.current_task()
    cancelled_before = task.cancelling() if task else 0

    def is_cancelled() -> bool:
        return task is None or task.cancelling() > cancelled_before

    try:
        yield
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        raise EngineUnavailable(f"broker: {doing}: the channel was closed") from error
    except Exception as error:
        if is_cancelled():
            raise asyncio.CancelledError from error
        sentence = _sentence(error, doing)
        if sentence is None:
            raise
        raise EngineUnavailable(f"broker: {sentence}") from error
    if task is not None and is_cancelled():
        raise asyncio.CancelledError


def _sentence(error: Exception, doing: str) -> str | None:
    """Say what the driver means, or nothing for what is not the driver's."""
    if isinstance(error, (AuthenticationError, ProbableAuthenticationError)):
        return "RabbitMQ refuses the user name or password in LIMNER_BROKER_URL"
    if isinstance(error, InvalidFrameError) and doing == CONNECTING:
        # What the broker says of it is lost in the driver.
        return (
            "RabbitMQ refuses the virtual host in LIMNER_BROKER_URL: it is not there, or this "
            "user may not use it (rabbitmqctl add_vhost, rabbitmqctl set_permissions)"
        )
    if isinstance(error, TimeoutError):
        return f"{doing}: no answer in time"
    if isinstance(error, (AMQPError, ChannelInvalidStateError, OSError, RuntimeError)):
        return f"{doing}: {str(error) or type(error).__name__}"
    return None


@dataclass(frozen=True)
class Opened:
    """An open connection, its wire and a channel for questions."""

    connection: aio_pika.Connection
    underlying: aiormq.abc.AbstractConnection
    wire: Wire

    @property
    def is_open(self) -> bool:
        """Whether it may still be used."""
        return self.underlying.is_opened and self.wire.is_open


class Link:
    """One connection. ``declare`` is called on each new one, before anybody uses it."""

    def __init__(self, url: str, name: str, declare: Declare) -> None:
        address = URL(url)
        if "heartbeat" not in address.query:
            address = address.update_query(heartbeat=HEARTBEAT_S)
        self._url = address
        self._name = name
        self._declare = declare
        self._opened: Opened | None = None
        self._scratch: AbstractChannel | None = None
        self._opening = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def is_open(self) -> bool:
        """Whether there is a connection that may be used."""
        return self._opened is not None and self._opened.is_open

    async def opened(self) -> Opened:
        """Give the connection; open it if there is none.

        Raises:
            EngineUnavailable: the broker does not answer, or does not let us in.
            NotConfigured: what we declare is there with other arguments.
        """
        opened = self._opened
        if opened is not None and opened.is_open:
            return opened
        async with self._opening:
            if self._opened is not None and self._opened.is_open:
                return self._opened
            if self._closed:
                raise EngineUnavailable("broker: the connection was closed by this process")
            await self.drop()
            self._opened = await self._open()
            return self._opened

    async def _open(self) -> Opened:
        wire = Wire()
        connection = aio_pika.Connection(
            self._url, client_properties={"connection_name": self._name}
        )
        connection.kwargs["transport_factory"] = wire
        try:
            with translated(CONNECTING):
                await connection.connect(timeout=CONNECT_LIMIT_S)
                async with asyncio.timeout(DECLARE_LIMIT_S):
                    channel = await connection.channel(publisher_confirms=False)
                    underlying = (await channel.get_underlay_channel()).connection
                    await self._declare(channel)
        except BaseException:
            await _close(connection, wire)
            raise
        self._scratch = channel
        return Opened(connection, underlying, wire)

    async def lane(
        self,
        *,
        arrive: Arrive = ignore,
        confirm: Confirm | None = None,
        returned: Arrive = ignore,
    ) -> Lane:
        """Open a lane on the connection.

        Raises:
            EngineUnavailable: the broker does not answer.
        """
        opened = await self.opened()
        with translated("opening a channel"):
            lane = Lane(
                opened.underlying, opened.wire, arrive=arrive, confirm=confirm, returned=returned
            )
        try:
            with translated("opening a channel"):
                await lane.open(timeout=ANSWER_LIMIT_S)
        except BaseException:
            await self.finish(close_lane(lane))
            raise
        return lane

    async def ask(self, question: Question[T], limit_s: float = ANSWER_LIMIT_S) -> T:
        """Ask on a channel of its own, which an answer may close.

        Raises:
            EngineUnavailable: the broker does not answer within ``limit_s`` seconds.
        """
        with translated("asking"):
            async with asyncio.timeout(limit_s), self._asking:
                opened = await self.opened()
                scratch, self._scratch = self._scratch, None
                if scratch is None or scratch.is_closed:
                    scratch = await opened.connection.channel(publisher_confirms=False)
                # A channel on which a question failed, or was given up, is not used again.
                try:
                    answer = await question(scratch)
                except BaseException:
                    self._end(_close_channel(scratch))
                    raise
                self._scratch = None if scratch.is_closed else scratch
                return answer

    async def declare_again(self) -> None:
        """Declare everything, whether or not the connection is new."""
        if self.is_open:
            await self.ask(self._declare, DECLARE_LIMIT_S)
        else:
            await self.opened()

    async def drop_if_silent(self) -> None:
        """Give up a connection that does not answer, unless the broker has said that it waits.

        A broker that is short of memory or disk lets publishers wait; a new connection would not
        help, and would send once more what the old one has sent.
        """
        if self._opened is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(MOMENT_S):
                    await self._opened.underlying.ready()
                await self.drop()

    async def finish(self, ending: Coroutine[Any, Any, None]) -> None:
        """Run to its end even if the caller is cancelled: a consumer left behind keeps messages."""
        await asyncio.shield(self._end(ending))

    def _end(self, ending: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    async def drop(self) -> None:
        """Give up the connection; the next who needs one opens it."""
        opened, self._opened = self._opened, None
        self._scratch = None
        if opened is not None:
            await _close(opened.connection, opened.wire)

    async def aclose(self) -> None:
        """Close for good."""
        self._closed = True
        if self._ending:
            await asyncio.wait(tuple(self._ending), timeout=CLOSE_LIMIT_S)
        await self.drop()


async def close_lane(lane: Lane) -> None:
    """Close a channel within ``CLOSE_LIMIT_S`` seconds; what is in hand there comes again."""
    with suppress(EngineUnavailable), translated("closing a channel"):
        await lane.close(timeout=CLOSE_LIMIT_S)


async def _close_channel(channel: AbstractChannel) -> None:
    with suppress(EngineUnavailable), translated("closing a channel"):
        async with asyncio.timeout(CLOSE_LIMIT_S):
            await channel.close()


async def _close(connection: aio_pika.Connection, wire: Wire) -> None:
    try:
        with suppress(Exception):
            async with asyncio.timeout(CLOSE_LIMIT_S):
                await connection.close()
    finally:
        wire.abort()

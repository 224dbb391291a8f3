"""A lane: a channel whose messages and confirms take no detour.

The driver puts each frame into a queue, reads it in a task, and starts a task per message. At
thousands of messages a second that is most of the work of a process, so a lane handles the frames
of messages and confirms where they are read; all else is the driver's channel.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import aiormq
import aiormq.abc
import aiormq.channel
from pamqp import commands as spec
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from limner.core.brokers.rabbit_wire import Wire
from limner.core.logs import get_logger
from limner.core.message import BODY_LIMIT_BYTES

log = get_logger("rabbit")

CHANNEL_LIMIT = 2047
"""RabbitMQ's default for channels per connection."""


class Arrival(NamedTuple):
    """A message as it came: ``body`` is cut at ``BODY_LIMIT_BYTES``, ``size_bytes`` is not."""

    tag: int
    exchange: str
    routing_key: str
    header: bytes
    body: bytes
    size_bytes: int


Arrive = Callable[[Arrival], None]
Confirm = Callable[[int, bool, bool], None]


@dataclass(slots=True)
class _Content:
    """A message of which some frames are still to come."""

    method: spec.Basic.Deliver | spec.Basic.Return
    header: bytes = b""
    size_bytes: int = 0
    got_bytes: int = 0
    parts: list[bytes] = field(default_factory=list)


class _Frames(asyncio.Queue[Any]):
    """The channel's queue of frames; takes those of messages and confirms out before it."""

    handlers: dict[type, Callable[[Any], None]]

    async def put(self, item: Any) -> None:
        handler = self.handlers.get(type(item[1]))
        if handler is None:
            await super().put(item)
        else:
            handler(item[1])


def ignore(*_: object) -> None:
    """Take what a lane was not opened for."""


class Lane(aiormq.channel.Channel):
    """A channel of ours.

    ``arrive`` gets each message, ``returned`` each that no queue takes, ``confirm`` a delivery
    tag, whether it stands for all up to it, and whether the broker took them. They are called
    where frames are read: they must not block.
    """

    def __init__(
        self,
        connection: aiormq.abc.AbstractConnection,
        wire: Wire,
        *,
        arrive: Arrive = ignore,
        confirm: Confirm | None = None,
        returned: Arrive = ignore,
    ) -> None:
        number = _free_number(connection)
        super().__init__(connection, number, publisher_confirms=confirm is not None)
        self._wire = wire
        # Stays registered when the lane closes, for messages that are on their way until the
        # broker has closed it too; the next lane of the same number takes its place.
        self._headers = wire.headers[number] = deque()
        self._content = _Content(spec.Basic.Deliver())
        self._arrive, self._returned = arrive, returned
        self._confirm: Confirm = confirm or ignore
        self._watchers: list[Callable[[str], None]] = []
        self._loss = ""
        self.frames = frames = _Frames(maxsize=self.frames.maxsize)
        frames.handlers = {
            spec.Basic.Deliver: self._begin,
            spec.Basic.Return: self._begin,
            ContentHeader: self._take_header,
            ContentBody: self._take_body,
            spec.Basic.Ack: self._take_ack,
            spec.Basic.Nack: self._take_nack,
        }
        self.on_consumer_cancel_callbacks.add(self._take_cancel)
        connection.channels[number] = self
        self._closing.add_done_callback(self._take_closing)

    def write(self, frames: bytes) -> None:
        """Send marshalled frames of this channel now."""
        if not self.is_lost:
            self._wire.write(frames)

    async def drain(self) -> None:
        """Wait while the socket does not take what was written."""
        await self._wire.drain()

    @property
    def is_lost(self) -> bool:
        """Whether nothing more comes."""
        return bool(self._loss)

    def watch(self, tell: Callable[[str], None]) -> None:
        """Have ``tell`` called once, with the reason, when the lane is lost.

        That is when the broker ends the channel or the consumer, or the connection is gone.
        """
        self._watchers.append(tell)
        if self._loss:
            tell(self._loss)

    def dismiss(self) -> None:
        """Tell nobody of the loss: the lane is about to be closed on purpose."""
        self._watchers.clear()

    def lose(self, reason: str) -> None:
        """Tell whoever uses the lane that nothing more comes."""
        if not self._loss:
            self._loss = reason
            for tell in self._watchers:
                tell(reason)

    def _take_closing(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        told = [str(part) for part in getattr(error, "args", ()) if part]
        self.lose(" ".join(told) or "the connection is closed")

    def _take_cancel(self, _: spec.Basic.Cancel) -> None:
        self.lose("the broker ended the consumer: its queue was deleted or has moved")

    def _begin(self, frame: Any) -> None:
        self._content = _Content(frame)

    def _take_header(self, frame: ContentHeader) -> None:
        content = self._content
        content.header, content.size_bytes = self._headers.popleft(), frame.body_size
        self._complete(content)

    def _take_body(self, frame: ContentBody) -> None:
        content = self._content
        room_bytes = BODY_LIMIT_BYTES - content.got_bytes
        if room_bytes > 0:
            content.parts.append(frame.value[:room_bytes])
        content.got_bytes += len(frame.value)
        self._complete(content)

    def _complete(self, content: _Content) -> None:
        if content.got_bytes < content.size_bytes:
            return
        method, parts = content.method, content.parts
        arrival = Arrival(
            0 if isinstance(method, spec.Basic.Return) else method.delivery_tag or 0,
            method.exchange or "",
            method.routing_key or "",
            content.header,
            parts[0] if len(parts) == 1 else b"".join(parts),
            content.size_bytes,
        )
        is_return = isinstance(method, spec.Basic.Return)
        self._hand_over(self._returned if is_return else self._arrive, arrival)

    def _take_ack(self, frame: spec.Basic.Ack) -> None:
        self._hand_over(self._confirm, frame.delivery_tag or 0, bool(frame.multiple), True)

    def _take_nack(self, frame: spec.Basic.Nack) -> None:
        self._hand_over(self._confirm, frame.delivery_tag or 0, bool(frame.multiple), False)

    def _hand_over(self, take: Callable[..., None], *what: object) -> None:
        """Call one of ours; a bug in it must neither vanish nor end the connection."""
        try:
            take(*what)
        except Exception:
            log.exception("a lane failed", channel=self.number)
            self.lose("a bug in the taking of messages")


def _free_number(connection: aiormq.abc.AbstractConnection) -> int:
    """Give the lowest channel number that is not in use.

    Raises:
        RuntimeError: all are.
    """
    for number in range(1, CHANNEL_LIMIT + 1):
        if number not in connection.channels:
            return number
    raise RuntimeError(f"all {CHANNEL_LIMIT} channels of the connection are in use")

"""Messages: what actors say to each other, and the envelope a broker carries them in."""

import json
import random
import re
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from limner.core.errors import Invalid
from limner.core.ids import uuid7_hex

OWN_APP_ID = "limner"
BODY_LIMIT_BYTES = 1 << 20
TOPIC = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


def refuse_constants(body: bytes) -> None:
    """Refuse NaN and Infinity, which many write and JSON has not (RFC 8259, section 6).

    Raises:
        Invalid: one stands outside of a string.
    """

    def refuse(name: str) -> None:
        raise Invalid(f"{name} is no JSON", code="invalid_message")

    # What is no JSON at all, or too deep, is refused with its reason by whoever reads it next.
    with suppress(ValueError, RecursionError):
        json.loads(body, parse_constant=refuse)


class Message(BaseModel):
    """A command to one actor or an event for all; its ``topic`` is the routing key ``actor.verb``.

    Inside Limner a message carries ids, never the data itself: the database is the truth.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    topic: ClassVar[str] = ""
    public: ClassVar[bool] = False

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Refuse a subclass whose topic no broker could route."""
        if cls.topic and not TOPIC.fullmatch(cls.topic):
            raise TypeError(f"{cls.__name__}.topic {cls.topic!r} is not of the form actor.verb")

    def to_bytes(self) -> bytes:
        """Give the JSON form, UTF-8."""
        return self.model_dump_json().encode()

    @classmethod
    def from_bytes(cls, body: bytes) -> Self:
        """Read the JSON form.

        Raises:
            Invalid: no JSON, or not this message; ``faults`` name each place.
        """
        try:
            if b"NaN" in body or b"Infinity" in body:
                refuse_constants(body)
            return cls.model_validate_json(body)
        except ValidationError as error:
            raise Invalid(
                f"not a valid {cls.topic or cls.__name__}",
                code="invalid_message",
                faults=[
                    ("/" + "/".join(str(part) for part in fault["loc"]), fault["msg"])
                    for fault in error.errors(include_url=False, include_input=False)
                ],
            ) from None


class Event(Message):
    """What has happened, told to whoever listens; no state depends on it (``limner.events``)."""

    topic: ClassVar[str] = ""
    id: str
    type: str
    at: datetime
    user_id: str | None = None
    subject: dict[str, str]
    data: dict[str, Any] = {}


def new_trace_id() -> str:
    """Give 32 hex digits (W3C Trace Context, section 3.2.2.3)."""
    return uuid7_hex()


def traceparent(trace_id: str) -> str:
    """Give the header for ``trace_id`` with a fresh span id (W3C Trace Context, section 3.2)."""
    # A span id is a name, not a secret.
    return f"00-{trace_id}-{random.getrandbits(64):016x}-01"


def trace_id_of(header: str | None) -> str | None:
    """Give the trace id in a ``traceparent`` header, or None if the header is not valid."""
    match = TRACEPARENT.fullmatch(header or "")
    return match[1] if match and match[1] != "0" * 32 else None


@dataclass(frozen=True, slots=True)
class Envelope:
    """One message on its way.

    ``attempt`` counts from 1. ``outbox_id`` names the row that makes the message durable; it is
    empty for messages of foreign producers. ``fault`` is (reason, sentence) of a message that must
    not reach a handler: what carried it found it unreadable, or gave it up.
    """

    message_id: str
    topic: str
    body: bytes
    kind: Literal["command", "event"] = "command"
    app_id: str = OWN_APP_ID
    attempt: int = 1
    trace_id: str = ""
    outbox_id: str = ""
    sent_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    fault: tuple[str, str] | None = None

    @property
    def consumer(self) -> str:
        """The actor this command is for: the first word of the topic."""
        return self.topic.partition(".")[0]

    def next_attempt(self) -> "Envelope":
        """Give the same message one attempt on."""
        return replace(self, attempt=self.attempt + 1)


def announced(event: Event, trace_id: str) -> Envelope:
    """Put an event in its envelope: it is told once and has no row."""
    return Envelope(
        message_id=event.id,
        topic=event.type,
        body=event.to_bytes(),
        kind="event",
        trace_id=trace_id,
        sent_at=event.at,
    )


def seal(message: Message, *, topic: str | None = None, trace_id: str, now: datetime) -> Envelope:
    """Put a message of our own in a fresh envelope."""
    ident = uuid7_hex()
    return Envelope(
        message_id=ident,
        topic=topic or message.topic,
        body=message.to_bytes(),
        kind="event" if isinstance(message, Event) else "command",
        trace_id=trace_id,
        outbox_id=ident,
        sent_at=now,
    )

"""Envelopes as AMQP messages and back; what a producer did wrong becomes the envelope's fault.

Producers that are not ours need to set only ``message_id``, as property or header; nothing they
set makes this module raise.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from pamqp import commands as spec
from pamqp import frame as frames
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from limner.core.broker import DELIVERY_LIMIT
from limner.core.brokers.rabbit_lane import Arrival
from limner.core.brokers.rabbit_topology import COMMANDS, EVENTS
from limner.core.ids import uuid7_hex
from limner.core.message import BODY_LIMIT_BYTES, Envelope, trace_id_of, traceparent

PERSISTENT = 2
JSON = "application/json"
ENCODINGS = frozenset({"", "utf-8", "utf8", "identity"})
MESSAGE_ID_LIMIT_BYTES = 255
"""What AMQP's own property holds, so that the message can be sent again."""
OUTBOX_ID_LIMIT = 48
ATTEMPT_LIMIT = 10_000
DETAIL_LIMIT = 300
TRACE_ID = re.compile(r"[0-9a-f]{32}")
FRAME_OVERHEAD_BYTES = 8

Fault = tuple[str, str]


def marshal(envelope: Envelope, channel: int, frame_limit_bytes: int) -> bytes:
    """Give the frames that publish an envelope."""
    is_event = envelope.kind == "event"
    body = envelope.body
    parts = [
        frames.marshal(
            spec.Basic.Publish(
                exchange=EVENTS if is_event else COMMANDS,
                routing_key=envelope.topic,
                mandatory=not is_event,
            ),
            channel,
        ),
        frames.marshal(ContentHeader(0, len(body), _properties(envelope)), channel),
    ]
    room_bytes = frame_limit_bytes - FRAME_OVERHEAD_BYTES
    parts += [
        frames.marshal(ContentBody(body[start : start + room_bytes]), channel)
        for start in range(0, len(body), room_bytes)
    ]
    return b"".join(parts)


def _properties(envelope: Envelope) -> spec.Basic.Properties:
    headers: dict[str, Any] = {"attempt": envelope.attempt}
    if envelope.outbox_id:
        headers["outbox_id"] = envelope.outbox_id
    if envelope.trace_id:
        headers["traceparent"] = traceparent(envelope.trace_id)
    return spec.Basic.Properties(
        content_type=JSON,
        headers=headers,
        delivery_mode=PERSISTENT,
        correlation_id=envelope.trace_id or None,
        message_id=envelope.message_id,
        timestamp=envelope.sent_at,
        message_type=envelope.topic,
        app_id=envelope.app_id or None,
    )


def envelope_of(arrival: Arrival, now: datetime) -> Envelope:
    """Read a message of a queue with commands or events."""
    return _read(arrival, now)[0]


def dead_envelope_of(arrival: Arrival, now: datetime) -> Envelope:
    """Read a message of the queue of the dead; its ``fault`` says of what it died.

    A message that nobody could read, whatever else it died of, has that as its reason: it cannot
    be sent again.
    """
    envelope, headers = _read(arrival, now)
    death = _death(arrival, headers)
    if envelope.fault is None:
        return _with_fault(envelope, death)
    reason, detail = envelope.fault
    return _with_fault(envelope, (reason, f"{detail}; {death[1]}"))


def _read(arrival: Arrival, now: datetime) -> tuple[Envelope, Mapping[str, Any]]:
    properties = _unmarshal(arrival.header)
    if properties is None:
        fault = ("unreadable_properties", "the properties are no valid AMQP 0-9-1")
        return _envelope(arrival, spec.Basic.Properties(), now, {}, fault), {}
    headers: Mapping[str, Any] = properties.headers or {}
    return _envelope(arrival, properties, now, headers, None), headers


def _unmarshal(header: bytes) -> spec.Basic.Properties | None:
    content = ContentHeader()
    try:
        content.unmarshal(header)
    except Exception:  # noqa: BLE001 - the decoder raises whatever the bytes make it raise
        return None
    return content.properties


def _envelope(
    arrival: Arrival,
    properties: spec.Basic.Properties,
    now: datetime,
    headers: Mapping[str, Any],
    fault: Fault | None,
) -> Envelope:
    faults = [] if fault is None else [fault]
    message_id = _message_id(properties, headers, faults)
    attempt = _attempt(headers, faults)
    outbox_id = headers.get("outbox_id", "")
    if not isinstance(outbox_id, str) or len(outbox_id) > OUTBOX_ID_LIMIT:
        faults.append(("invalid_header", f"the header outbox_id is {_shown(outbox_id)}"))
        outbox_id = ""
    encoding = properties.content_encoding or ""
    if encoding.lower() not in ENCODINGS:
        detail = f"content_encoding is {_shown(encoding)}, not utf-8"
        faults.append(("unsupported_encoding", detail))
    if arrival.size_bytes > BODY_LIMIT_BYTES:
        detail = f"the body was {arrival.size_bytes} bytes long; kept are the first 1 MiB"
        faults.append(("message_too_large", detail))
    return Envelope(
        message_id=message_id,
        topic=properties.message_type or arrival.routing_key,
        body=arrival.body,
        kind="event" if arrival.exchange == EVENTS else "command",
        app_id=properties.app_id or "",
        attempt=attempt,
        trace_id=_trace_id(properties.correlation_id, headers.get("traceparent")),
        outbox_id=outbox_id,
        sent_at=properties.timestamp or now,
        fault=faults[0] if faults else None,
    )


def _message_id(
    properties: spec.Basic.Properties, headers: Mapping[str, Any], faults: list[Fault]
) -> str:
    """Give the id the producer chose; without one, a fresh id and a fault."""
    ident: object = properties.message_id or headers.get("message_id") or ""
    if isinstance(ident, str) and 0 < len(ident.encode()) <= MESSAGE_ID_LIMIT_BYTES:
        return ident
    if ident:
        faults.append(("no_message_id", f"the header message_id is {_shown(ident)}"))
    else:
        faults.append(("no_message_id", "neither property nor header message_id is set"))
    return uuid7_hex()


def _attempt(headers: Mapping[str, Any], faults: list[Fault]) -> int:
    attempt = headers.get("attempt", 1)
    if type(attempt) is int and 1 <= attempt <= ATTEMPT_LIMIT:
        return attempt
    faults.append(("invalid_header", f"the header attempt is {_shown(attempt)}"))
    return 1


def _trace_id(correlation_id: str | None, header: object) -> str:
    if correlation_id and TRACE_ID.fullmatch(correlation_id):
        return correlation_id
    return (trace_id_of(header) if isinstance(header, str) else None) or ""


def _death(arrival: Arrival, headers: Mapping[str, Any]) -> Fault:
    """Say of what a message died (https://www.rabbitmq.com/docs/dlx#effects)."""
    reason, queue = headers.get("x-first-death-reason"), headers.get("x-first-death-queue")
    if not isinstance(reason, str) or not reason:
        return ("unroutable", f"no queue takes {_shown(arrival.routing_key)}")
    told = {
        DELIVERY_LIMIT: "was delivered again and again, and never acknowledged",
        "rejected": "was rejected",
        "expired": "was not taken before it expired",
        "maxlen": "found no room",
    }.get(reason, f"died: {_shown(reason)}")
    return (reason[:64], f"the message in {_shown(queue)} {told}")


def _with_fault(envelope: Envelope, fault: Fault) -> Envelope:
    return replace(envelope, fault=fault)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= DETAIL_LIMIT else f"{text[:DETAIL_LIMIT]}…"

"""Whatever a producer sets, it is read; what is wrong with it is the envelope's fault."""

import struct
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands as spec
from pamqp import frame as frames
from pamqp.header import ContentHeader

from limner.core.broker import DELIVERY_LIMIT
from limner.core.brokers.rabbit_lane import Arrival
from limner.core.brokers.rabbit_properties import dead_envelope_of, envelope_of, marshal
from limner.core.message import BODY_LIMIT_BYTES, Envelope, trace_id_of
from tests.core.brokers.vhost import HEADERS_FLAG, UNREADABLE, short, table

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
TRACE = "ab" * 16
FRAME_BYTES = 4096


def arrival(
    body: bytes = b"{}", *, key: str = "echo.say", exchange: str = "limner.commands", **given: Any
) -> Arrival:
    header = ContentHeader(0, len(body), spec.Basic.Properties(**given)).marshal()
    return Arrival(1, exchange, key, header, body, len(body))


def raw(properties: bytes) -> Arrival:
    fixed = struct.pack(">HHQ", 60, 0, 2)
    return Arrival(1, "limner.commands", "echo.say", fixed + properties, b"{}", 2)


def fault_of(**given: Any) -> tuple[str, str]:
    fault = envelope_of(arrival(**{"message_id": "m1", **given}), NOW).fault
    assert fault is not None
    return fault


def test_an_envelope_comes_back_as_it_was_sent() -> None:
    sent = Envelope(
        "m1", "echo.say", b"x" * 9000, app_id="shop", attempt=3, trace_id=TRACE, outbox_id="o1",
        sent_at=NOW,
    )  # fmt: skip
    data = marshal(sent, 7, FRAME_BYTES)
    found: list[Any] = []
    while data:
        size_bytes, channel, frame = frames.unmarshal(data)
        assert channel == 7
        assert size_bytes <= FRAME_BYTES
        data, found = data[size_bytes:], [*found, frame]
    publish, header, *parts = found
    assert (publish.exchange, publish.routing_key) == ("limner.commands", "echo.say")
    assert publish.mandatory
    properties = header.properties
    assert properties.delivery_mode == 2
    assert properties.content_type == "application/json"
    assert properties.correlation_id == TRACE
    assert trace_id_of(properties.headers["traceparent"]) == TRACE
    body = b"".join(part.value for part in parts)
    came = Arrival(1, "limner.commands", "echo.say", header.marshal(), body, header.body_size)
    assert envelope_of(came, datetime.now(UTC)) == sent


def test_an_event_goes_to_the_exchange_of_events_and_nobody_need_hear_it() -> None:
    data = marshal(Envelope("e1", "task.failed", b"{}", kind="event"), 1, FRAME_BYTES)
    publish: Any = frames.unmarshal(data)[2]
    assert (publish.exchange, bool(publish.mandatory)) == ("limner.events", False)
    back = envelope_of(arrival(exchange="limner.events", message_id="e1"), NOW)
    assert back.kind == "event"


def test_a_message_id_is_all_that_a_producer_needs() -> None:
    got = envelope_of(arrival(message_id="m1"), NOW)
    assert got == Envelope("m1", "echo.say", b"{}", app_id="", sent_at=NOW)


def test_the_message_id_may_be_a_header() -> None:
    assert envelope_of(arrival(headers={"message_id": "m1"}), NOW).message_id == "m1"
    assert envelope_of(arrival(message_id="m0", headers={"message_id": 7}), NOW).fault is None


@pytest.mark.parametrize(
    "ident", [None, "", 7, "x" * 256, "界" * 86, bytearray(b"\xff"), {"a": 1}, True]
)
def test_without_a_message_id_there_is_a_fault_and_a_fresh_id(ident: Any) -> None:
    headers = {} if ident is None else {"message_id": ident}
    first, second = (envelope_of(arrival(headers=headers), NOW) for _ in range(2))
    assert first.fault is not None
    assert first.fault[0] == "no_message_id"
    assert "message_id" in first.fault[1]
    assert first.message_id != second.message_id


def test_the_type_names_the_message_where_it_is_set() -> None:
    assert envelope_of(arrival(message_id="m", message_type="echo.shout"), NOW).topic == (
        "echo.shout"
    )


@pytest.mark.parametrize("attempt", [0, -1, 10_001, 1 << 40, "2", 1.0, True, None, [1], {}])
def test_an_absurd_attempt_is_a_fault(attempt: Any) -> None:
    reason, detail = fault_of(headers={"attempt": attempt})
    assert reason == "invalid_header"
    assert detail.startswith("the header attempt is ")


@pytest.mark.parametrize(
    "ident", [1, "x" * 49, bytearray(b"\xff"), ["a"], {"a": {"b": "c" * 9000}}]
)
def test_a_wrong_outbox_id_is_a_fault_with_a_bounded_sentence(ident: Any) -> None:
    reason, detail = fault_of(headers={"outbox_id": ident})
    assert reason == "invalid_header"
    assert len(detail) < 400


@pytest.mark.parametrize("encoding", ["gzip", "latin-1", "x" * 255])
def test_an_encoding_that_is_not_utf_8_is_a_fault(encoding: str) -> None:
    reason, detail = fault_of(content_encoding=encoding)
    assert reason == "unsupported_encoding"
    assert encoding[:10] in detail


@pytest.mark.parametrize("encoding", ["utf-8", "UTF-8", "utf8", ""])
def test_utf_8_and_no_encoding_at_all_are_fine(encoding: str) -> None:
    assert envelope_of(arrival(message_id="m", content_encoding=encoding), NOW).fault is None


def test_a_body_that_is_too_long_is_a_fault_that_says_how_long_it_was() -> None:
    kept = arrival(b"x" * BODY_LIMIT_BYTES, message_id="m1")
    assert envelope_of(kept, NOW).fault is None
    got = envelope_of(kept._replace(size_bytes=BODY_LIMIT_BYTES + 1), NOW)
    assert got.fault is not None
    assert got.fault[0] == "message_too_large"
    assert str(BODY_LIMIT_BYTES + 1) in got.fault[1]
    assert got.message_id == "m1"


@pytest.mark.parametrize(
    ("correlation_id", "header", "trace_id"),
    [
        (TRACE, None, TRACE),
        ("order 7", f"00-{TRACE}-{'cd' * 8}-01", TRACE),
        (None, f"00-{TRACE}-{'cd' * 8}-01", TRACE),
        ("order 7", "00-no-trace-01", ""),
        (None, 7, ""),
        (TRACE.upper(), None, ""),
    ],
)
def test_the_trace_is_the_correlation_id_or_the_traceparent(
    correlation_id: str | None, header: Any, trace_id: str
) -> None:
    headers = {} if header is None else {"traceparent": header}
    given = arrival(message_id="m", correlation_id=correlation_id, headers=headers)
    got = envelope_of(given, NOW)
    assert (got.trace_id, got.fault) == (trace_id, None)


ALL_UNREADABLE = {
    **UNREADABLE,
    "a header of a type nobody knows": HEADERS_FLAG + table(short(b"a") + b"?\x01"),
    "flags that never end": b"\xff\xff",
}


@pytest.mark.parametrize("properties", ALL_UNREADABLE.values(), ids=ALL_UNREADABLE.keys())
def test_properties_that_nobody_can_read_are_a_fault(properties: bytes) -> None:
    got = envelope_of(raw(properties), NOW)
    assert got.fault == ("unreadable_properties", "the properties are no valid AMQP 0-9-1")
    assert (got.topic, got.body, got.attempt) == ("echo.say", b"{}", 1)


@given(st.binary(max_size=200))
def test_no_properties_make_the_reading_fail(properties: bytes) -> None:
    for read in (envelope_of, dead_envelope_of):
        got = read(raw(properties), NOW)
        assert got.message_id
        assert got.body == b"{}"
        assert 1 <= got.attempt <= 10_000


@pytest.mark.parametrize("reason", [DELIVERY_LIMIT, "rejected", "expired", "maxlen", "other"])
def test_the_dead_say_of_what_and_where_they_died(reason: str) -> None:
    headers = {"x-first-death-reason": reason, "x-first-death-queue": "limner.echo"}
    got = dead_envelope_of(arrival(message_id="m1", headers=headers), NOW)
    assert got.fault is not None
    assert got.fault[0] == reason
    assert "limner.echo" in got.fault[1]


def test_what_did_not_die_anywhere_found_no_queue() -> None:
    got = dead_envelope_of(arrival(message_id="m1", key="nobody.hears"), NOW)
    assert got.fault == ("unroutable", "no queue takes 'nobody.hears'")


def test_what_nobody_can_read_keeps_that_as_its_reason_whatever_it_died_of() -> None:
    headers = {"x-first-death-reason": DELIVERY_LIMIT, "x-first-death-queue": "limner.echo"}
    got = dead_envelope_of(arrival(headers=headers), NOW)
    assert got.fault is not None
    assert got.fault[0] == "no_message_id"
    assert got.fault[1].endswith("was delivered again and again, and never acknowledged")

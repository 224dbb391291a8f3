"""Messages and their envelopes: JSON both ways, topics that can be routed, traces that go on."""

from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limner.core.errors import Invalid
from limner.core.message import (
    Envelope,
    Event,
    Message,
    new_trace_id,
    seal,
    trace_id_of,
    traceparent,
)

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Paint(Message):
    topic: ClassVar[str] = "painter.paint"

    prompt: str
    tags: tuple[str, ...] = ()


@given(st.text(), st.lists(st.text()))
def test_a_message_is_the_same_after_its_way_through_json(prompt: str, tags: list[str]) -> None:
    message = Paint(prompt=prompt.encode(errors="replace").decode(), tags=())
    assert Paint.from_bytes(message.to_bytes()) == message
    with_tags = Paint(prompt="x", tags=tuple(tag.encode(errors="replace").decode() for tag in tags))
    assert Paint.from_bytes(with_tags.to_bytes()) == with_tags


def test_a_message_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Paint(prompt="x").prompt = "y"  # type: ignore[misc] # on purpose


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        (b"", ["/"]),
        (b"\x00", ["/"]),
        (b"null", ["/"]),
        (b"{}", ["/prompt"]),
        (b'{"prompt": 1, "tags": ["a", 2], "more": 3}', ["/prompt", "/tags/1", "/more"]),
    ],
)
def test_what_does_not_fit_is_refused_with_every_place(body: bytes, pointers: list[str]) -> None:
    with pytest.raises(Invalid, match=r"not a valid painter\.paint") as caught:
        Paint.from_bytes(body)
    assert caught.value.code == "invalid_message"
    assert [pointer for pointer, _ in caught.value.faults] == pointers


def test_what_was_sent_is_not_repeated_in_the_refusal() -> None:
    with pytest.raises(Invalid) as caught:
        Paint.from_bytes(b'{"prompt": ["hunter2"]}')
    assert "hunter2" not in str(caught.value.faults)


@pytest.mark.parametrize(
    "name", ["paint", "Painter.paint", "painter.", ".paint", "a b.c", "a.b\n", "1a.b"]
)
def test_a_topic_that_no_broker_could_route_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=r"not of the form actor\.verb"):
        type("Bad", (Message,), {"topic": name, "__annotations__": {"topic": ClassVar[str]}})


def test_a_message_without_a_topic_is_for_subclasses() -> None:
    class Shared(Message):
        n: int

    with pytest.raises(Invalid, match="not a valid Shared"):
        Shared.from_bytes(b"{}")


def test_a_sealed_message_is_a_command_under_its_topic() -> None:
    envelope = seal(Paint(prompt="a cat"), trace_id=TRACE, now=NOW)
    assert (envelope.topic, envelope.consumer, envelope.kind) == (
        "painter.paint",
        "painter",
        "command",
    )
    assert (envelope.app_id, envelope.attempt, envelope.trace_id) == ("limner", 1, TRACE)
    assert envelope.message_id == envelope.outbox_id
    assert (envelope.sent_at, envelope.body) == (NOW, b'{"prompt":"a cat","tags":[]}')
    assert seal(Paint(prompt="a cat"), trace_id=TRACE, now=NOW).message_id != envelope.message_id


def test_a_sealed_event_is_an_event_under_the_topic_it_is_given() -> None:
    event = Event(id="e1", type="task.done", at=NOW, subject={"id": "t1"})
    envelope = seal(event, topic="task.done", trace_id=TRACE, now=NOW)
    assert (envelope.kind, envelope.topic) == ("event", "task.done")
    assert Event.from_bytes(envelope.body) == event


def test_the_next_attempt_is_the_same_message() -> None:
    first = Envelope("m1", "painter.paint", b"{}", sent_at=NOW)
    second = first.next_attempt()
    assert (second.message_id, second.attempt, first.attempt) == ("m1", 2, 1)


def test_an_envelope_is_sent_now_unless_told_otherwise() -> None:
    assert Envelope("m1", "a.b", b"").sent_at.tzinfo is UTC


def test_a_trace_goes_out_and_comes_in_by_one_header() -> None:
    trace_id = new_trace_id()
    one, two = traceparent(trace_id), traceparent(trace_id)
    assert one != two
    assert trace_id_of(one) == trace_id_of(two) == trace_id


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        TRACE,
        f"00-{TRACE}-00f067aa0ba902b7",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE.upper()}-00f067aa0ba902b7-01",
        f"00-{TRACE}-00f067aa0ba902b7-01\n",
        f"00-{TRACE}-00f067aa0ba902b7-01-extra",
    ],
)
def test_a_header_that_is_not_valid_begins_a_new_trace(header: Any) -> None:
    assert trace_id_of(header) is None


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_json_has_not_is_refused_wherever_it_stands(word: str) -> None:
    body = b'{"id": "e", "type": "t", "at": "2026-11-22T12:00:00Z", "subject": {}, "data": %s}'
    with pytest.raises(Invalid, match="is no JSON") as caught:
        Event.from_bytes(body % b'{"a": [1, %s]}' % word.encode())
    assert caught.value.code == "invalid_message"
    spoken = Event.from_bytes(body % b'{"a": "%s"}' % word.encode())
    assert spoken.data == {"a": word}


def test_a_depth_bomb_with_such_a_number_is_refused_like_any_other() -> None:
    with pytest.raises(Invalid):
        Event.from_bytes(b"[" * 100_000 + b"NaN" + b"]" * 100_000)

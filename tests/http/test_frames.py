"""What goes over the wire: events whose data is stored JSON, cursors, and both forms of a frame."""

import json
from typing import Any

import pytest

from limner.http import frames
from limner.storage.sql.lines import Line


def line(data: str = "{}", **fields: Any) -> Line:
    told = {"type": "status", "state": "running", "detail": "", **fields}
    return Line(31, "task", "task_1", 5, "2026-11-22T12:00:00Z", **told, data=data)


OWN = {"n": 5, "at": "2026-11-22T12:00:00Z", "state": "running", "detail": ""}

# What is stored against what is sent, beside what every event has.
STORED = [
    ("{}", {}),
    ("{ }", {}),
    ('{"a": 1}', {"a": 1}),
    (' {"a": {"b": [1, 2]}} ', {"a": {"b": [1, 2]}}),
    ('{"text": "\\u732b \\n 猫"}', {"text": "猫 \n 猫"}),
    ('{"text": "\\"n\\": 7"}', {"text": '"n": 7'}),
    # Names that are ours, and JSON on several lines, are read again.
    ('{"n": 7, "a": 1}', {"a": 1}),
    ('{"state":"other","detail":"x","at":1,"object":2,"b":3}', {"b": 3}),
    ('{\n  "a": 1\n}', {"a": 1}),
    ('{"state": "other"}', {}),
]


@pytest.mark.parametrize(("stored", "sent"), STORED)
@pytest.mark.parametrize("is_shared", [False, True])
def test_what_is_stored_is_sent_once_under_each_name(
    stored: str, sent: dict[str, Any], is_shared: bool
) -> None:
    made = line(stored)
    frame = frames.shared_frame_of(made, 16) if is_shared else frames.frame_of(made, is_last=False)
    ident, event, data, *rest = frame.plain.decode().split("\n")
    assert (ident, event, rest) == (
        "id: 10-1f" if is_shared else "id: 5",
        "event: status",
        ["", ""],
    )
    pairs: list[tuple[str, Any]] = json.loads(
        data.removeprefix("data: "), object_pairs_hook=lambda found: found
    )
    assert len({name for name, _ in pairs}) == len(pairs)
    named = {"object": {"kind": "task", "id": "task_1"}} if is_shared else {}
    assert json.loads(data.removeprefix("data: ")) == {**sent, **OWN, **named}


def test_a_detail_is_quoted() -> None:
    frame = frames.frame_of(line(detail='no "provider"\r\n猫\u2028'), is_last=False)
    data = frame.plain.decode().split("\n")[2].removeprefix("data: ")
    assert json.loads(data)["detail"] == 'no "provider"\r\n猫\u2028'


def test_half_a_character_does_not_break_a_stream() -> None:
    frame = frames.frame_of(line(detail="\ud800"), is_last=False)
    assert json.loads(frame.plain.decode().split("\n")[2].removeprefix("data: "))["detail"] == "?"


def test_a_frame_is_also_one_chunk_of_the_same_bytes() -> None:
    frame = frames.encode("gap", {"reason": "history"})
    size, _, rest = frame.chunk.partition(b"\r\n")
    assert int(size, 16) == len(frame.plain)
    assert rest == frame.plain + b"\r\n"


@pytest.mark.parametrize(
    ("cursor", "settled"),
    [
        ("0", 0),
        ("10-1f", 16),
        ("ff", 255),
        ("fffffffffffffff", 16**15 - 1),
        ("", None),
        ("10-", None),
        ("-1f", None),
        ("xyz", None),
        ("1" * 16, None),
        ("10-1f\n", None),
        ("１０", None),
    ],
)
def test_a_cursor_is_read_or_refused(cursor: str, settled: int | None) -> None:
    assert frames.settled_in(cursor) == settled


def test_a_done_that_a_retry_has_overtaken_ends_nothing() -> None:
    lines = [line(type=name)._replace(n=n) for n, name in enumerate(["status", "done", "status"])]
    told, ends = frames.frames_of(lines)
    assert ([number for number, _ in told], ends) == ([0, 1, 2], False)
    assert [frame.plain.split(b"\n")[1] for _, frame in told] == [b"event: status"] * 3


def test_what_follows_the_done_that_ends_a_stream_is_not_sent() -> None:
    names = ["done", "status", "done", "log"]
    told, ends = frames.frames_of([line(type=name)._replace(n=n) for n, name in enumerate(names)])
    assert ([number for number, _ in told], ends) == ([0, 1, 2], True)
    events = [frame.plain.split(b"\n")[1].decode() for _, frame in told]
    assert events == ["event: status", "event: status", "event: done"]


def test_nothing_ends_nothing() -> None:
    assert frames.frames_of([]) == ([], False)

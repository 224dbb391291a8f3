"""What is sent over an event stream: lines of a timeline as events, encoded once (HTML, 9.2.6)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from limner.storage.sql.lines import DONE
from limner.storage.sql.timeline import TimelineLine

RETRY_MS = 3000
STATUS = "status"


def encode(event: str, data: Mapping[str, Any], ident: int | None = None) -> bytes:
    """Give one event; ``data`` is one JSON object on one line."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    head = f"id: {ident}\n" if ident is not None else ""
    return f"{head}event: {event}\ndata: {text}\n\n".encode(errors="replace")


def retry(delay_ms: int) -> bytes:
    """Tell the client how long to wait before it comes back."""
    return f"retry: {delay_ms}\n\n".encode()


def data_of(line: TimelineLine) -> dict[str, Any]:
    """Give the JSON object of a line."""
    at = line.at.isoformat().replace("+00:00", "Z")
    return {**line.data, "n": line.n, "at": at, "state": line.state, "detail": line.detail}


def frame_of(line: TimelineLine, *, is_last: bool) -> bytes:
    """Give the event of a line.

    ``done`` ends a stream, so a ``done`` that a retry has overtaken goes out as ``status``.
    """
    name = STATUS if line.type == DONE and not is_last else line.type
    return encode(name, data_of(line), line.n)


def terminal(lines: Sequence[TimelineLine]) -> TimelineLine | None:
    """Give the ``done`` that ends the stream: the newest, unless the object moved on after it."""
    for line in reversed(lines):
        if line.type == DONE:
            return line
        if line.type == STATUS:
            return None
    return None


def through_end(lines: Sequence[TimelineLine]) -> tuple[list[TimelineLine], bool]:
    """Give the lines up to the terminal one, and whether it is among them."""
    last = terminal(lines)
    if last is None:
        return list(lines), False
    return [line for line in lines if line.n <= last.n], True


def frames_of(lines: Sequence[TimelineLine], *, ends: bool) -> list[tuple[int, bytes]]:
    """Give number and event of each line; with ``ends`` the last one is the ``done``."""
    count = len(lines)
    return [
        (line.n, frame_of(line, is_last=ends and place == count - 1))
        for place, line in enumerate(lines)
    ]

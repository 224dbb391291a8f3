"""What is sent over an event stream: lines of a timeline as events, encoded once (HTML, 9.2.6)."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from limner.storage.sql.lines import DONE, Line

RETRY_MS = 3000
STATUS = "status"
CURSOR = re.compile(r"([0-9a-f]{1,15})(?:-[0-9a-f]{1,15})?", re.ASCII)

OURS = re.compile(r'[\r\n]|"(?:n|at|state|detail|object)"\s*:')
EMPTY = '""'
_quoted = json.encoder.encode_basestring
_to_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Frame(NamedTuple):
    """One event, ready for every connection: bare, and as one chunk of HTTP/1.1 (RFC 9112, 7.1)."""

    plain: bytes
    chunk: bytes


def framed(content: bytes) -> Frame:
    """Give both forms of some bytes of a stream."""
    return Frame(content, b"%x\r\n%b\r\n" % (len(content), content))


def encode(event: str, data: Mapping[str, Any], ident: int | str | None = None) -> Frame:
    """Give one event; ``data`` is one JSON object on one line."""
    head = f"id: {ident}\n" if ident is not None else ""
    return framed(f"{head}event: {event}\ndata: {_to_text(data)}\n\n".encode(errors="replace"))


def retry(delay_ms: int) -> Frame:
    """Tell the client how long to wait before it comes back."""
    return framed(f"retry: {delay_ms}\n\n".encode())


def position(settled: int) -> Frame:
    """Tell the client where it is without an event: an id alone is taken (HTML, 9.2.6)."""
    return framed(f"id: {settled:x}\n\n".encode())


PING = framed(b": ping\n\n")


def _text_of(line: Line, more: str = "") -> str:
    """Give the JSON object of a line: its own data, then what every line has, then ``more``.

    What is stored is JSON already and is not read again; unless it has a name that is ours, for an
    object must not name anything twice (RFC 8259, section 4), or lies on several lines.
    """
    stored, detail = line.data, line.detail
    if OURS.search(stored):
        names = ("n", "at", "state", "detail", "object")
        told = {name: one for name, one in json.loads(stored).items() if name not in names}
        stored = _to_text(told)
    inner = stored.strip()[1:-1].strip()
    return (
        f'{{{inner}{"," if inner else ""}"n":{line.n},"at":"{line.at}",'
        f'"state":"{line.state}","detail":{_quoted(detail) if detail else EMPTY}{more}}}'
    )


def _line_frame(name: str, ident: int | str, text: str) -> Frame:
    return framed(f"id: {ident}\nevent: {name}\ndata: {text}\n\n".encode(errors="replace"))


def frame_of(line: Line, *, is_last: bool) -> Frame:
    """Give the event of a line.

    ``done`` ends a stream, so a ``done`` that a retry has overtaken goes out as ``status``.
    """
    name = STATUS if line.type == DONE and not is_last else line.type
    return _line_frame(name, line.n, _text_of(line))


def shared_frame_of(line: Line, settled: int) -> Frame:
    """Give the event of a line among those of other objects; it names its own.

    Its cursor says up to which row everything has been sent; the row's own id makes it unique.
    """
    named = f',"object":{{"kind":"{line.kind}","id":"{line.object_id}"}}'
    return _line_frame(line.type, cursor_of(line, settled), _text_of(line, named))


def named(data: Mapping[str, Any], kind: str, ident: str) -> dict[str, Any]:
    """Give an event's JSON object with the object it is about."""
    return {**data, "object": {"kind": kind, "id": ident}}


def cursor_of(line: Line, settled: int) -> str:
    """Give the cursor of a line: hexadecimal, the row that is settled and the line's own."""
    return f"{settled:x}-{line.id:x}"


def settled_in(cursor: str) -> int | None:
    """Give up to where a cursor says that everything was sent, or None if it is none of ours."""
    match = CURSOR.fullmatch(cursor)
    return int(match[1], 16) if match else None


def terminal(lines: Sequence[Line]) -> Line | None:
    """Give the ``done`` that ends the stream: the newest, unless the object moved on after it."""
    for line in reversed(lines):
        if line.type == DONE:
            return line
        if line.type == STATUS:
            return None
    return None


def frames_of(lines: Sequence[Line]) -> tuple[list[tuple[int, Frame]], bool]:
    """Give number and event of each line up to the terminal one, and whether that is among them."""
    last = terminal(lines)
    shown = lines if last is None else [line for line in lines if line.n <= last.n]
    return [(line.n, frame_of(line, is_last=line is last)) for line in shown], last is not None

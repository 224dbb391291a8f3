"""Logs: one line per event, JSON where a program reads them, and never a secret."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from limner.core.logs import DEPTH_LIMIT, REDACTED, configure, get_logger, redact, redact_text


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    config = structlog.get_config()
    quiet = {name: logging.getLogger(name).level for name in ("aiosqlite", "asyncio", "tortoise")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, was in quiet.items():
        logging.getLogger(name).setLevel(was)
    structlog.configure(**config)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abc.def-123", f"Authorization: Bearer {REDACTED}"),
        ("basic dXNlcjpwYXNz==", f"basic {REDACTED}"),
        ("key lim_0123456789abcdef", f"key {REDACTED}"),
        ("sk-proj-0123456789", REDACTED),
        ("whsec_0123456789", REDACTED),
        (
            "https://h/o/x?signature=abc123&expires=5",
            f"https://h/o/x?signature={REDACTED}&expires=5",
        ),
        ("?token=abc&code=xyz", f"?token={REDACTED}&code={REDACTED}"),
        ("password=hunter2", f"password={REDACTED}"),
        ("mysql://root:hunter2@db:3306/x", f"mysql://root:{REDACTED}@db:3306/x"),
        ("amqp://guest:p%40ss@mq", f"amqp://guest:{REDACTED}@mq"),
        ("GET /r/0123456789abcdef", f"GET /r/{REDACTED}"),
        ("/unsubscribe/0123456789abcdefX", f"/unsubscribe/{REDACTED}"),
        ("mail to a.b+c@example.co.uk now", "mail to [address] now"),
        ("<x@y.test>, z@y.test", "<[address]>, [address]"),
        ("one\r\ntwo\nthree", "one\\r\\ntwo\\nthree"),
    ],
)
def test_what_looks_like_a_secret_is_replaced(text: str, expected: str) -> None:
    assert redact_text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "task_0199aabbccddeeff is running",
        "draw 3 cats @ noon",
        "http://127.0.0.1:8080/r/short",
        "小猫 🐱",
        "",
    ],
)
def test_what_is_harmless_stays(text: str) -> None:
    assert redact_text(text) == text


@pytest.mark.parametrize(
    "key",
    ["password", "DB_PASSWD", "client_secret", "token", "Authorization", "Set-Cookie",
     "signature", "api_key", "apiKey", "credentials"],
)  # fmt: skip
def test_values_under_telling_keys_are_replaced_whatever_they_are(key: str) -> None:
    assert redact({key: "x", "deep": [{key: {"a": 1}}]}) == {
        key: REDACTED,
        "deep": [{key: REDACTED}],
    }


def test_harmless_keys_and_plain_values_stay() -> None:
    value = {"fencing_token": 3, "prompt_tokens": 5, "a": None, "b": True, "c": 1.5, 4: "four"}
    assert redact(value) == {**{str(key): one for key, one in value.items()}}
    assert redact(("a", {"b"})) == ["a", ["b"]]


def test_other_objects_are_redacted_as_text() -> None:
    assert redact(ValueError("Bearer abcdef")) == f"Bearer {REDACTED}"
    assert redact(b"password=x") == f"b'password={REDACTED}"


def test_what_is_nested_too_deep_is_replaced_whole() -> None:
    value: Any = "leaf"
    for _ in range(DEPTH_LIMIT + 1):
        value = [value]
    shown = redact(value)
    for _ in range(DEPTH_LIMIT):
        shown = shown[0]
    assert shown == REDACTED


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_no_line_break_survives_in_a_value(value: Any) -> None:
    def texts(part: Any) -> list[str]:
        if isinstance(part, str):
            return [part]
        parts = part.values() if isinstance(part, dict) else part
        return [text for one in parts for text in texts(one)]

    assert not any("\n" in text or "\r" in text for text in texts(redact(value)))


def test_every_event_is_one_line_of_json() -> None:
    out = io.StringIO()
    configure("info", stream=out)
    with structlog.contextvars.bound_contextvars(trace_id="t1"):
        get_logger("test").info("made\na cat", prompt="小猫\n🐱", n=3, url="x://u:secret@h")
    (line,) = lines(out)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "made\\na cat",
        "level": "info",
        "trace_id": "t1",
        "prompt": "小猫\\n🐱",
        "n": 3,
        "url": f"x://u:{REDACTED}@h",
    }
    assert "小猫" in out.getvalue()


def test_lines_under_the_level_are_dropped() -> None:
    out = io.StringIO()
    configure("warning", stream=out)
    get_logger("test").info("quiet")
    get_logger("test").warning("loud", password="x")
    logging.getLogger("other").info("quiet too")
    assert [(line["event"], line.get("password")) for line in lines(out)] == [("loud", REDACTED)]


def test_the_standard_librarys_records_come_the_same_way() -> None:
    out = io.StringIO()
    configure("info", stream=out)
    logging.getLogger("other").warning("cannot reach %s", "amqp://u:secret@mq")
    logging.getLogger("asyncio").info("noise")
    logging.getLogger("aiosqlite").debug("noise")
    (line,) = lines(out)
    assert (line["event"], line["level"]) == (f"cannot reach amqp://u:{REDACTED}@mq", "warning")


def test_a_traceback_keeps_its_lines_and_loses_its_secrets() -> None:
    out = io.StringIO()
    configure("info", stream=out)
    try:
        raise ValueError("no login for Bearer abcdef and a@b.test")
    except ValueError:
        get_logger("test").exception("failed")
        logging.getLogger("other").exception("failed too")
    for line in lines(out):
        assert line["exception"].startswith("Traceback (most recent call last):\n")
        assert line["exception"].endswith(
            f"ValueError: no login for Bearer {REDACTED} and [address]"
        )


def test_a_terminal_gets_coloured_text_and_a_choice_is_kept() -> None:
    out = Terminal()
    configure("info", stream=out)
    get_logger("test").info("made a cat", password="x")
    assert "\x1b[" in out.getvalue()
    assert REDACTED in out.getvalue()
    chosen = Terminal()
    configure("info", stream=chosen, json=True)
    get_logger("test").info("made a cat")
    assert lines(chosen)[0]["event"] == "made a cat"
    plain = io.StringIO()
    configure("info", stream=plain, json=False)
    get_logger("test").info("made a cat")
    assert "\x1b[" not in plain.getvalue()
    assert not plain.getvalue().startswith("{")


def test_by_default_lines_go_to_the_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info")
    get_logger("test").info("made a cat")
    seen = capsys.readouterr()
    assert seen.out == ""
    assert json.loads(seen.err)["event"] == "made a cat"

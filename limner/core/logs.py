"""Structured logs: JSON lines in production, coloured text at a terminal, secrets never.

Every line passes the redactor: values under telling keys and anything in a text that looks like a
credential or a mail address are replaced before a renderer sees them.
"""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO, cast

import structlog

REDACTED = "[redacted]"
SECRET_KEYS = re.compile(
    r"(?i)(password|passwd|secret|token|authorization|cookie|signature|api_?key|credential)"
)
HARMLESS_KEYS = frozenset({"fencing_token", "prompt_tokens", "completion_tokens"})
ADDRESS = re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,255}")
CREDENTIALS = re.compile(
    r"(?i)(\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]+"
    r"|\b(?:limr?|whsec|sk)[_-][A-Za-z0-9_-]{8,}"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9._-]+"
    r"|((?:signature|token|password|secret|code|state|limner_[a-z]{1,16})=)[^&;\s]+"
    r"|((?:signature|token|password|secret|code|cookie)[\"']\s?:\s?[\"'])[^\"']+"
    r"|(://[^/\s:@]+:)[^@\s]+(?=@)"
    r"|((?:/r/|/unsubscribe/|/callback/|/sign-in/|/approve/))[A-Za-z0-9_-]{16,}"
)
DEPTH_LIMIT = 6
NOISY = (
    "aio_pika",
    "aiobotocore",
    "aiohttp.access",
    "aiormq",
    "aiosqlite",
    "asyncio",
    "botocore",
    "tortoise",
    "tortoise.db_client",
)

_is_debug = True


def is_debug() -> bool:
    """Whether lines of the level debug are wanted: asking costs less than a line that is not."""
    return _is_debug


def redact_text(text: str) -> str:
    """Give ``text`` without credentials and mail addresses, CR and LF escaped."""

    def hide(match: re.Match[str]) -> str:
        kept = next((group for group in match.groups() if group), "")
        return kept + REDACTED

    text = CREDENTIALS.sub(hide, text)
    if "@" in text:
        text = ADDRESS.sub("[address]", text)
    return text.replace("\r", "\\r").replace("\n", "\\n")


def redact(value: Any, depth: int = 0) -> Any:
    """Give ``value`` with every secret in it replaced; nested to ``DEPTH_LIMIT`` levels."""
    if isinstance(value, str):
        return redact_text(value)
    if depth >= DEPTH_LIMIT:
        return REDACTED
    if isinstance(value, Mapping):
        return {
            str(key): REDACTED if _telling(str(key)) else redact(one, depth + 1)
            for key, one in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(one, depth + 1) for one in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return redact_text(str(value))


def _telling(key: str) -> bool:
    return SECRET_KEYS.search(key) is not None and key not in HARMLESS_KEYS


def _redactor(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if key == "exception":
            event[key] = "\n".join(redact_text(line) for line in str(value).split("\n"))
        elif _telling(key):
            event[key] = REDACTED
        else:
            event[key] = redact(value)
    return event


def configure(
    level: str = "info", *, stream: TextIO | None = None, json: bool | None = None
) -> None:
    """Set up structlog and hand the standard library's log records to it.

    ``json`` None means: text if ``stream`` (default stderr) is a terminal, JSON lines otherwise.
    """
    global _is_debug  # noqa: PLW0603 - one log per process
    _is_debug = level == "debug"
    out = stream or sys.stderr
    as_json = not out.isatty() if json is None else json
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redactor,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if as_json
        else structlog.dev.ConsoleRenderer(colors=out.isatty())
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared[:3],
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared[:3],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *shared[3:],
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel("WARNING")


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Give the logger of one part of the system."""
    return cast("structlog.stdlib.BoundLogger", structlog.get_logger(f"limner.{name}"))

"""Identifiers: UUIDv7 (RFC 9562 section 5.7), so that keys sort by creation, with a kind prefix."""

import os
import re
import threading
import time
import uuid

_lock = threading.Lock()
_last = (0, 0)
POOLED = 256
_pool: list[bytes] = []
# A child that was forked must not give its parent's numbers again.
os.register_at_fork(after_in_child=_pool.clear)

PREFIXED = re.compile(r"[a-z]{2,12}_[0-9a-f]{32}")


def _random_bytes() -> bytes:
    """Give 8 bytes of the system's randomness, fetched some hundred at a time."""
    try:
        return _pool.pop()
    except IndexError:
        fresh = os.urandom(8 * POOLED)
        _pool.extend(fresh[place : place + 8] for place in range(8, 8 * POOLED, 8))
        return fresh[:8]


def _uuid7_value() -> int:
    """Give a UUIDv7 as a number.

    48 bits of Unix milliseconds, a 12-bit counter within the millisecond (RFC 9562, method 1 of
    section 6.2) and 62 random bits; when the counter is full or the clock went back, the time of
    the newest id is carried on.
    """
    global _last  # noqa: PLW0603 - the counter of the process, under a lock
    with _lock:
        now_ms = time.time_ns() // 1_000_000
        last_ms, counter = _last
        if now_ms > last_ms:
            counter = 0
        else:
            now_ms, counter = (last_ms, counter + 1) if counter < 0xFFF else (last_ms + 1, 0)
        _last = (now_ms, counter)
    random62 = int.from_bytes(_random_bytes(), "big") & ((1 << 62) - 1)
    return (now_ms & ((1 << 48) - 1)) << 80 | 0x7 << 76 | counter << 64 | 0b10 << 62 | random62


def uuid7() -> uuid.UUID:
    """Give a UUIDv7 that is greater than every one this process gave before."""
    return uuid.UUID(int=_uuid7_value())


def uuid7_hex() -> str:
    """Give the 32 hex digits of a fresh UUIDv7, without the object around them."""
    return f"{_uuid7_value():032x}"


def new_id(kind: str) -> str:
    """Give ``kind_`` + 32 hex digits, e.g. ``task_0199…``."""
    return f"{kind}_{uuid7_hex()}"


def is_id(kind: str, text: str) -> bool:
    """Say whether ``text`` is an id of that kind."""
    return text.startswith(f"{kind}_") and PREFIXED.fullmatch(text) is not None


def derived_id(kind: str, *parts: str) -> str:
    """Give the id that the same parts always give (UUIDv5, RFC 9562 section 5.5)."""
    name = "\x1f".join(parts)
    return f"{kind}_{uuid.uuid5(uuid.NAMESPACE_URL, 'limner:' + name).hex}"

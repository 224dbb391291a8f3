"""Passwords: hashed slowly beside the loop, checked alike whoever asks, refused when well known.

Argon2id with 19 MiB, 2 passes and 1 lane (OWASP Password Storage Cheat Sheet; RFC 9106). What is
hashed is the NFKC form, so that every keyboard writes the same password (NIST SP 800-63B-4 section
3.1.1.2). Hashes of other systems that begin with ``$2`` are bcrypt and are replaced when their
owner signs in.
"""

import asyncio
import base64
import os
import re
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import TypeVar

import bcrypt
from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from limner.core.errors import Busy, Invalid, Unauthenticated

MEMORY_KIB = 19_456
PASSES = 2
LANES = 1
SALT_BYTES = 16
HASH_BYTES = 32

MIN_CHARACTERS = 8
MAX_CHARACTERS = 256

MOST_THREADS = 8
WAITING_PER_THREAD = 32
BUSY_S = 1.0

BCRYPT = "$2"
BCRYPT_BYTES = 72
SERVICE = "limner"
_NO_WORD = re.compile(r"[\W_]+")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a password is right; ``rehash`` is what shall be stored in place of an old hash."""

    ok: bool
    rehash: str | None = None


class Threads:
    """Threads for hashing alone, and a queue in front of them that has an end.

    Each thread holds ``MEMORY_KIB`` while it hashes; who would wait behind ``waiting`` others is
    told to come back instead.
    """

    def __init__(self, threads: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="passwords")
        self._places = threading.BoundedSemaphore(threads + waiting)

    async def run(self, work: Callable[[], T]) -> T:
        """Give what ``work`` gives, run in a thread.

        Raises:
            Busy: too many wait.
        """
        if not self._places.acquire(blocking=False):
            raise Busy("too many passwords are being checked", retry_after_s=BUSY_S)
        future = self._pool.submit(work)
        # Also who gave up waiting frees a place, when the thread is done with the work.
        future.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(future)


def _cores() -> int:
    """Give how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _threads() -> Threads:
    """Make the threads at first use; one core is left to the loop, where there is another."""
    count = max(1, min(MOST_THREADS, _cores() - 1))
    return Threads(count, count * WAITING_PER_THREAD)


@cache
def _hasher() -> PasswordHasher:
    return PasswordHasher(
        time_cost=PASSES,
        memory_cost=MEMORY_KIB,
        parallelism=LANES,
        hash_len=HASH_BYTES,
        salt_len=SALT_BYTES,
        type=Type.ID,
    )


def _dummy() -> str:
    """Give a hash that no password has, as dear to check as a real one.

    It is not made by hashing: nobody knows what would give 32 zero bytes.
    """
    salt, digest = (
        base64.b64encode(bytes(size)).rstrip(b"=").decode() for size in (SALT_BYTES, HASH_BYTES)
    )
    return f"$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${salt}${digest}"


def _plain(password: str) -> bytes:
    """Give the bytes that are hashed."""
    return unicodedata.normalize("NFKC", password).encode(errors="surrogatepass")


async def hash_password(password: str) -> str:
    """Give the Argon2id hash of a password, in the PHC string format (97 characters).

    Raises:
        Busy: too many wait for their hash.
    """
    return await _threads().run(lambda: _hasher().hash(_plain(password)))


def wrong_credentials() -> Unauthenticated:
    """Give the error for every sign-in that a password does not open, whatever the reason."""
    return Unauthenticated(
        "the address or the password is wrong, or the address is not confirmed yet",
        code="invalid_credentials",
    )


async def verify(stored: str | None, password: str) -> Verdict:
    """Say whether a password belongs to a stored hash.

    Without a hash, or with one of no known form, the same work is done and the answer is no.

    Raises:
        Busy: too many wait.
    """
    return await _threads().run(lambda: _verified(stored, password))


def _verified(stored: str | None, password: str) -> Verdict:
    if stored is not None and stored.startswith(BCRYPT):
        return _bcrypt_verified(stored, password)
    plain = _plain(password)
    try:
        _hasher().verify(stored or _dummy(), plain)
    except InvalidHashError:
        return _verified(None, password)
    except VerificationError:
        return Verdict(ok=False)
    if stored is None:
        return Verdict(ok=False)  # pragma: no cover - as likely as guessing 256 bits
    is_old = _hasher().check_needs_rehash(stored)
    return Verdict(ok=True, rehash=_hasher().hash(plain) if is_old else None)


def _bcrypt_verified(stored: str, password: str) -> Verdict:
    """Check a hash of another system: of the bytes as typed, of which bcrypt sees the first 72."""
    typed = password.encode(errors="surrogatepass")[:BCRYPT_BYTES]
    try:
        ok = bcrypt.checkpw(typed, stored.encode())
    except ValueError:
        return _verified(None, password)
    return Verdict(ok=True, rehash=_hasher().hash(_plain(password))) if ok else Verdict(ok=False)


def check_new(
    password: str, *, email: str = "", name: str = "", pointer: str = "/password"
) -> None:
    """Return if a password may be chosen; call it in a thread, its first use reads a long list.

    8 to 256 characters of any kind, no rule on their mix (NIST SP 800-63B-4 section 3.1.1.2, ASVS
    5.0 chapter 6.2). Refused: the commonest passwords, and the account's address and name and this
    service's name, also repeated or spelled with other punctuation.

    Raises:
        Invalid: it may not; the fault is at ``pointer``.
    """
    fault = _fault(password, email, name)
    if fault:
        raise Invalid("choose another password", faults=[(pointer, fault)])


def _fault(password: str, email: str, name: str) -> str | None:
    normal = unicodedata.normalize("NFKC", password)
    if len(password) > MAX_CHARACTERS:
        return f"has more than {MAX_CHARACTERS} characters"
    # A composed form counts once and a decomposed one must not count for more.
    if min(len(password), len(normal)) < MIN_CHARACTERS:
        return f"has fewer than {MIN_CHARACTERS} characters"
    if any("\ud800" <= character <= "\udfff" for character in password):
        return "holds half of a character"
    if normal.casefold() in commonest():
        return "is among the commonest passwords"
    folded = _word(normal)
    for known in (email, email.partition("@")[0], name, SERVICE):
        word = _word(unicodedata.normalize("NFKC", known))
        if word and folded and folded == word * (len(folded) // len(word)):
            return "is the address, the name or the service's name"
    return None


def _word(text: str) -> str:
    return _NO_WORD.sub("", text).casefold()


@cache
def commonest() -> frozenset[str]:
    """Give the commonest passwords that are long enough to be chosen, about 11,600.

    They are those of zxcvbn (30,000 by frequency of use). Its module is read without being kept:
    it holds dictionaries of names and words too, 6 MB in all.

    Raises:
        ModuleNotFoundError: zxcvbn is not installed.
    """
    package = find_spec("zxcvbn")
    places = package.submodule_search_locations if package else []
    spec = PathFinder.find_spec("frequency_lists", places)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("zxcvbn.frequency_lists")
    lists = module_from_spec(spec)
    spec.loader.exec_module(lists)
    listed: list[str] = lists.FREQUENCY_LISTS["passwords"]
    return frozenset(each.casefold() for each in listed if len(each) >= MIN_CHARACTERS)

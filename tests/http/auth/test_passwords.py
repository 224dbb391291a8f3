"""Passwords: how they are hashed, what is accepted, and what waiting costs."""

import asyncio
import os
import threading
import tracemalloc
import unicodedata
from importlib import import_module

import bcrypt
import pytest
from argon2 import PasswordHasher, extract_parameters

from limner.core.errors import Busy, Invalid
from limner.http.auth import passwords
from limner.http.auth.passwords import (
    MAX_CHARACTERS,
    Threads,
    Verdict,
    check_new,
    commonest,
    hash_password,
    verify,
)

GOOD = "correct horse battery"


def faults(password: str, **known: str) -> list[tuple[str, str]]:
    try:
        check_new(password, **known)
    except Invalid as error:
        return list(error.faults)
    return []


async def test_a_hash_is_argon2id_with_the_parameters_that_are_promised() -> None:
    stored = await hash_password(GOOD)
    parameters = extract_parameters(stored)
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert (parameters.salt_len, parameters.hash_len) == (16, 32)
    assert stored != await hash_password(GOOD)


async def test_a_password_is_known_again_and_another_is_not() -> None:
    stored = await hash_password(GOOD)
    assert await verify(stored, GOOD) == Verdict(ok=True)
    for wrong in ("", GOOD.upper(), GOOD + " ", GOOD[:-1]):
        assert await verify(stored, wrong) == Verdict(ok=False)


async def test_every_way_to_type_a_letter_is_the_same_password() -> None:
    composed = "Käsebrötchen 24"
    decomposed = unicodedata.normalize("NFD", composed)
    assert decomposed != composed
    assert (await verify(await hash_password(composed), decomposed)).ok


@pytest.mark.parametrize("length", [64, 72, 73, 128, MAX_CHARACTERS])
async def test_long_passwords_count_to_their_last_character(length: int) -> None:
    password = "x1" * (length // 2) + "y" * (length % 2)
    stored = await hash_password(password)
    assert (await verify(stored, password)).ok
    assert not (await verify(stored, password[:-1] + "z")).ok


@pytest.mark.parametrize("stored", [None, "", "plain", "$argon2id$v=19$broken", "$2b$broken"])
async def test_without_a_usable_hash_nothing_is_right(stored: str | None) -> None:
    assert await verify(stored, GOOD) == Verdict(ok=False)


async def test_a_hash_by_older_parameters_is_replaced_after_the_right_password_only() -> None:
    old = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(GOOD)
    assert await verify(old, "wrong") == Verdict(ok=False)
    verdict = await verify(old, GOOD)
    assert verdict.ok
    assert verdict.rehash is not None
    assert await verify(verdict.rehash, GOOD) == Verdict(ok=True)


@pytest.mark.parametrize("password", [GOOD, "pass wörd 💡", "x" * 90])
@pytest.mark.parametrize("prefix", [b"2a", b"2b"])
async def test_a_hash_of_bcrypt_is_known_and_replaced(password: str, prefix: bytes) -> None:
    typed = password.encode()[:72]
    old = bcrypt.hashpw(typed, bcrypt.gensalt(4, prefix=prefix)).decode()
    assert await verify(old, "wrong") == Verdict(ok=False)
    verdict = await verify(old, password)
    assert verdict.ok
    assert verdict.rehash is not None
    assert verdict.rehash.startswith("$argon2id$")
    assert await verify(verdict.rehash, password) == Verdict(ok=True)


@pytest.mark.parametrize(
    "password",
    [
        "x7$kqLw2",
        "correct horse battery",
        "    spaces    are kept    ",
        "一二三四五六七八九",
        "🦊🐻🐼🐨🐯🦁🐮🐷",
        "z" * 63 + "!",
        "pässwörd-mit-ümläuten",
        "a" * 255 + "b",
        "just lower case letters",
        "92837465019283746501",
        "tab\tand\nline",
    ],
)
def test_any_characters_and_any_mix_are_accepted(password: str) -> None:
    assert faults(password, email="anna@example.org", name="Anna Lee") == []


@pytest.mark.parametrize(
    ("password", "said"),
    [
        ("", "fewer"),
        ("short77", "fewer"),
        ("e\u0301" * 7, "fewer"),
        ("ﷺ", "fewer"),
        ("x" * 257, "more"),
        ("password", "commonest"),
        ("PassWord", "commonest"),
        ("ｐａｓｓｗｏｒｄ", "commonest"),
        ("123456789", "commonest"),
        ("qwertyuiop", "commonest"),
        ("half a \ud800 character", "half"),
        ("anna@example.org", "the address"),
        ("ANNA@EXAMPLE.ORG", "the address"),
        ("Anna-Lee-Smith", "the address"),
        ("annaleesmith", "the address"),
        ("limnerlimner", "the address"),
        ("Limner! Limner!", "the address"),
        ("annaanna", "the address"),
    ],
)
def test_short_long_common_and_own_words_are_refused(password: str, said: str) -> None:
    (found,) = faults(password, email="anna@example.org", name="Anna Lee Smith")
    assert found[0] == "/password"
    assert said in found[1]


def test_a_fault_stands_at_the_field_it_was_typed_in() -> None:
    with pytest.raises(Invalid) as caught:
        check_new("password", pointer="/new_password")
    assert caught.value.faults[0][0] == "/new_password"


def test_none_of_the_ten_thousand_commonest_passwords_can_be_chosen() -> None:
    listed = import_module("zxcvbn.frequency_lists").FREQUENCY_LISTS["passwords"][:10_000]
    assert len(listed) == 10_000
    assert [password for password in listed if not faults(password)] == []


def test_the_list_of_common_passwords_takes_little_memory() -> None:
    commonest.cache_clear()
    tracemalloc.start()
    try:
        assert len(commonest()) > 10_000
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 2_500_000


def test_without_the_list_no_password_is_taken_for_uncommon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commonest.cache_clear()
    monkeypatch.setattr(passwords, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError):
        check_new(GOOD)


def test_one_core_is_left_to_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some systems cannot say which cores a process may use."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert passwords._cores() == 6


async def test_the_loop_stays_free_while_passwords_are_hashed() -> None:
    hashing = asyncio.gather(*(hash_password(GOOD) for _ in range(6)))
    turns = 0
    while not hashing.done():
        turns += 1
        await asyncio.sleep(0)
    assert len(await hashing) == 6
    assert turns > 100


async def test_who_would_wait_behind_too_many_is_told_to_come_back() -> None:
    threads, gate = Threads(1, waiting=2), threading.Event()
    try:
        held = [asyncio.ensure_future(threads.run(gate.wait)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Busy) as caught:
            await threads.run(gate.wait)
        assert (caught.value.status, caught.value.retry_after_s) == (503, 1.0)
        held[-1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await held[-1]
        again = asyncio.ensure_future(threads.run(gate.wait))
        await asyncio.sleep(0)
    finally:
        gate.set()
    assert [await each for each in (held[0], held[1], again)] == [True, True, True]


async def test_a_failure_in_a_thread_frees_its_place() -> None:
    threads = Threads(1, waiting=0)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 // 0)

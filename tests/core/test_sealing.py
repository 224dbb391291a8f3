"""Sealing: what one key and one name closed, no other opens, and what digests tell."""

from collections.abc import Callable

import pytest

from limner.core.errors import NotConfigured
from limner.core.sealing import NONCE_BYTES, Sealer

KEY, OTHER = bytes(range(32)), bytes(32)


@pytest.mark.parametrize("plain", [b"", b"x", bytes(range(256)) * 100])
def test_what_was_sealed_opens_again(plain: bytes) -> None:
    sealed = Sealer(KEY).seal("name", plain)
    assert len(sealed) == len(plain) + 28
    assert Sealer(KEY).open("name", sealed) == plain


def test_the_same_is_never_sealed_alike() -> None:
    sealer = Sealer(KEY)
    assert sealer.seal("name", b"x") != sealer.seal("name", b"x")


@pytest.mark.parametrize(
    ("key", "name", "change"),
    [
        (OTHER, "name", lambda sealed: sealed),
        (KEY, "another", lambda sealed: sealed),
        (KEY, "name", lambda sealed: sealed[:-1]),
        (KEY, "name", lambda sealed: sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (KEY, "name", lambda sealed: bytes([sealed[0] ^ 1]) + sealed[1:]),
        (KEY, "name", lambda sealed: sealed[: NONCE_BYTES - 5]),
        (KEY, "name", lambda _: b""),
    ],
    ids=["another key", "another name", "cut", "changed", "another nonce", "very short", "nothing"],
)
def test_what_is_not_ours_or_was_changed_does_not_open(
    key: bytes, name: str, change: Callable[[bytes], bytes]
) -> None:
    sealed = Sealer(KEY).seal("name", b"secret")
    with pytest.raises(NotConfigured) as caught:
        Sealer(key).open(name, change(sealed))
    assert "secret key" in caught.value.detail


def test_a_digest_depends_on_the_key_the_name_and_every_byte() -> None:
    digest = Sealer(KEY).digest("name", b"plain")
    assert digest == Sealer(KEY).digest("name", b"plain")
    assert len(digest) == 64
    others = {
        Sealer(OTHER).digest("name", b"plain"),
        Sealer(KEY).digest("nam", b"e\0plain"),
        Sealer(KEY).digest("another", b"plain"),
        Sealer(KEY).digest("name", b"plaim"),
    }
    assert digest not in others
    assert len(others) == 4

"""The tree of errors: each has a code and a status, and is either worth another try or not."""

import pytest

from limner.core import errors
from limner.core.errors import (
    EngineUnavailable,
    Invalid,
    LimnerError,
    Permanent,
    Refused,
    Transient,
)

ALL = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, LimnerError)
]


@pytest.mark.parametrize("kind", ALL)
def test_every_error_says_something_without_being_told(kind: type[LimnerError]) -> None:
    error = kind()
    assert error.detail
    assert not error.detail.endswith(".")
    assert str(error)
    assert 400 <= error.status < 600
    assert error.code == error.code.lower()
    assert not issubclass(kind, Transient) or not issubclass(kind, Permanent)


def test_codes_tell_the_errors_apart() -> None:
    codes = [kind.code for kind in ALL]
    assert len(set(codes)) == len(codes)


def test_a_detail_and_a_code_may_be_given() -> None:
    error = LimnerError("the mailbox is full", code="mailbox_full")
    assert (str(error), error.detail, error.code) == (
        "the mailbox is full",
        "the mailbox is full",
        "mailbox_full",
    )
    assert LimnerError.code == "internal"


def test_what_errors_carry() -> None:
    assert EngineUnavailable("gone", retry_after_s=3).retry_after_s == 3
    assert Transient().retry_after_s is None
    assert Invalid("no", faults=[("/a", "is missing")]).faults == (("/a", "is missing"),)
    assert Invalid().faults == ()
    assert Refused("no", context={"a": "b"}).context == {"a": "b"}
    assert Refused().context == {}

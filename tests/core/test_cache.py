"""The token bucket in one number, against the bucket that everybody draws."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limner.core.cache import gcra, validate_bucket, validate_name, validate_ttl, validate_value
from limner.core.errors import Invalid, TooLarge


@settings(deadline=None)
@given(
    st.sampled_from([0.5, 1.0, 3.0, 10.0, 50.0]),
    st.integers(1, 20),
    st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 20)), max_size=40),
)
def test_the_answers_are_those_of_a_token_bucket(
    rate_per_s: float, burst: int, visits: list[tuple[int, int]]
) -> None:
    now_s, full_at_s, level = 1000.0, 0.0, float(burst)
    for pause_ms, wanted in visits:
        cost = min(wanted, burst)
        now_s += pause_ms / 1000
        level = min(burst, level + pause_ms / 1000 * rate_per_s)
        full_at_s, answer = gcra(full_at_s, now_s, rate_per_s, burst, cost)
        if abs(level - cost) > 1e-4:
            assert answer.allowed == (level > cost)
        if answer.allowed:
            level = max(0.0, level - cost)
            assert answer.retry_after_s == 0
        else:
            assert answer.retry_after_s == pytest.approx((cost - level) / rate_per_s, abs=1e-4)
            waited = gcra(full_at_s, now_s + answer.retry_after_s, rate_per_s, burst, cost)
            assert waited[1].allowed
        assert answer.reset_s == pytest.approx((burst - level) / rate_per_s, abs=1e-4)
        assert answer.remaining in {math.floor(level - 1e-4), math.floor(level + 1e-4), 0}


def test_a_refusal_takes_nothing() -> None:
    full_at_s, _ = gcra(0, 100, 1, 3, 3)
    assert gcra(full_at_s, 100, 1, 3, 1)[0] == full_at_s


def test_a_smaller_burst_than_before_leaves_nothing_rather_than_less() -> None:
    full_at_s, _ = gcra(0, 100, 1, 100, 100)
    _, answer = gcra(full_at_s, 100, 1, 5, 1)
    assert (answer.allowed, answer.remaining, answer.retry_after_s) == (False, 0, 96)


def test_what_fits_is_given_back() -> None:
    assert validate_name("x" * 512) == "x" * 512
    assert validate_ttl(0.001) == 0.001
    assert validate_value(b"x") == b"x"
    validate_bucket("b", 0.1, 1, 1)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(Invalid):
        validate_name("")
    with pytest.raises(Invalid):
        validate_ttl(0.0001)
    with pytest.raises(TooLarge):
        validate_value(bytes(1024 * 1024 + 1))
    with pytest.raises(Invalid):
        validate_bucket("b", 1, 1, 2)
    with pytest.raises(Invalid):
        validate_bucket("b", 0, 1, 1)

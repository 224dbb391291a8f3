"""Back-off: full jitter under a ceiling that doubles and is capped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limner.core.backoff import Backoff


@pytest.mark.parametrize(("attempt", "ceiling_s"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60)])
def test_the_ceiling_doubles_up_to_the_cap(attempt: int, ceiling_s: float) -> None:
    assert Backoff().ceiling_s(attempt) == ceiling_s


@given(st.floats(0.001, 1000), st.floats(0.001, 10_000), st.integers(min_value=1, max_value=10**9))
def test_a_wait_is_never_over_the_ceiling(first_s: float, cap_s: float, attempt: int) -> None:
    backoff = Backoff(first_s, cap_s)
    assert 0 <= backoff.delay_s(attempt) <= backoff.ceiling_s(attempt) <= cap_s


def test_waits_are_spread_over_the_whole_range() -> None:
    backoff = Backoff(first_s=10, cap_s=10)
    waits = [backoff.delay_s(1) for _ in range(400)]
    assert min(waits) < 2
    assert max(waits) > 8
    assert 3.5 < sum(waits) / len(waits) < 6.5

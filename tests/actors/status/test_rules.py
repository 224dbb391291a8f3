"""When a provider is asked next."""

import pytest

from limner.actors.status.rules import check_delay_s


def test_checks_come_after_15_30_and_then_every_60_seconds() -> None:
    delays = [check_delay_s(n, 15, 60) for n in range(1, 21)]
    assert delays == [15, 30] + [60] * 18
    assert 18 * 60 < sum(delays) < 19 * 60


@pytest.mark.parametrize(
    ("n", "retry_after_s", "delay_s"),
    [
        (1, 40, 40),
        (5, 5, 5),
        (5, 3600, 3600),
        (5, 0, 1),
        (0, None, 15),
        (1_000_000, None, 60),
    ],
)
def test_the_providers_wish_takes_the_place_of_our_own(
    n: int, retry_after_s: float | None, delay_s: float
) -> None:
    assert check_delay_s(n, 15, 60, retry_after_s) == delay_s


def test_a_wish_for_no_wait_never_waits_longer_than_our_own() -> None:
    assert check_delay_s(1, 0.05, 0.1, 0) == 0.05

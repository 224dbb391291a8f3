"""The clock seam: the machine's time, or one that stands still."""

from datetime import UTC, datetime, timedelta

from limner.core.clock import HeldClock, SystemClock

AT = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def test_the_systems_clock_is_now_in_utc_and_never_runs_backwards() -> None:
    clock = SystemClock()
    assert clock.now().tzinfo is UTC
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=5)
    assert clock.monotonic() <= clock.monotonic()


def test_a_held_clock_moves_only_when_told_to() -> None:
    clock = HeldClock(AT)
    assert (clock.now(), clock.monotonic()) == (AT, 0.0)
    clock.advance(1.5)
    clock.advance(2)
    assert (clock.now() - AT, clock.monotonic()) == (timedelta(seconds=3.5), 3.5)

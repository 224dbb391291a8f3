"""What was noted lately: bounded in number and in time."""

from limner.core.clock import HeldClock
from limner.core.recent import Recent


def test_what_is_noted_is_bounded_and_ends(clock: HeldClock) -> None:
    noted: Recent[str] = Recent(clock, 10.0, limit=2)
    for name in ("a", "b", "a", "c"):
        noted.note(name, name.upper())
    assert [name in noted for name in "abc"] == [True, False, True], "the one of longest ago went"
    clock.advance(9)
    noted.note("a", "again")
    clock.advance(1)
    assert [noted.find(name) for name in "abc"] == ["again", None, None]
    assert [name in noted for name in "abc"] == [True, False, False]
    assert len(noted) == 1
    noted.forget("a")
    noted.forget("never there")
    assert not noted

"""Who is remembered for a database outage: few, not for long, and for one scope."""

import pytest

from limner.core.clock import HeldClock
from limner.http.auth.callers import OPS_READ, Caller, RecentCallers
from limner.storage.sql.accounts import ADMIN, SCOPES, ApiKey, User

LIFE_S = 300.0


@pytest.fixture
def recent(clock: HeldClock) -> RecentCallers:
    return RecentCallers(clock, limit=3, life_s=LIFE_S)


def caller(*scopes: str, key: ApiKey | None = None) -> Caller:
    return Caller(User(id="user_1", role=ADMIN), frozenset(scopes), key)


def test_whoever_is_believed_has_one_scope_whatever_they_had(recent: RecentCallers) -> None:
    admin = caller(*SCOPES)
    recent.note("a", admin)
    believed = recent.find("a")
    assert believed is not None
    assert believed.user is admin.user
    assert believed.scopes == {OPS_READ}
    assert not believed.is_admin


def test_who_may_not_read_reports_is_not_remembered(recent: RecentCallers) -> None:
    recent.note("a", caller("tasks:read", "tasks:write"))
    assert (recent.find("a"), len(recent)) == (None, 0)


def test_who_has_lost_the_scope_is_forgotten(recent: RecentCallers) -> None:
    recent.note("a", caller(OPS_READ))
    recent.note("a", caller("tasks:read"))
    assert recent.find("a") is None


def test_a_caller_is_forgotten_after_its_time_and_asking_does_not_renew_it(
    recent: RecentCallers, clock: HeldClock
) -> None:
    recent.note("a", caller(OPS_READ))
    clock.advance(LIFE_S - 1)
    assert recent.find("a") is not None
    clock.advance(1)
    assert (recent.find("a"), len(recent)) == (None, 0)


def test_a_caller_that_is_let_in_again_is_kept_for_the_whole_time_again(
    recent: RecentCallers, clock: HeldClock
) -> None:
    recent.note("a", caller(OPS_READ))
    recent.note("b", caller(OPS_READ))
    clock.advance(LIFE_S - 1)
    recent.note("a", caller(OPS_READ))
    clock.advance(LIFE_S - 1)
    assert recent.find("a") is not None
    assert recent.find("b") is None


def test_of_too_many_the_oldest_go(recent: RecentCallers) -> None:
    for name in ("a", "b", "c", "a", "d"):
        recent.note(name, caller(OPS_READ))
    assert [recent.find(name) is not None for name in "abcd"] == [True, False, True, True]
    assert len(recent) == 3


def test_a_key_that_has_ended_meanwhile_is_not_believed(
    recent: RecentCallers, clock: HeldClock
) -> None:
    now = clock.now()
    clock.advance(10)
    recent.note("a", caller(OPS_READ, key=ApiKey(id="key_1", expires_at=clock.now())))
    recent.note("b", caller(OPS_READ, key=ApiKey(id="key_2", revoked_at=now)))
    recent.note("c", caller(OPS_READ, key=ApiKey(id="key_3")))
    assert [recent.find(name) is not None for name in "abc"] == [False, False, True]


def test_a_credential_can_be_forgotten(recent: RecentCallers) -> None:
    recent.note("a", caller(OPS_READ))
    recent.forget("a")
    recent.forget("b")
    assert recent.find("a") is None

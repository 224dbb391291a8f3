"""Transactions that the database undid are run again, a bounded number of times."""

import pytest

from limner.core.errors import EngineUnavailable, Transient
from limner.storage.sql.faults import REPEATS, CommitUnsure, ConnectionLost, Deadlocked, repeated


class Work:
    """Fails with each error in turn and then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.runs = 0

    async def __call__(self) -> int:
        self.runs += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.runs


async def test_deadlocks_and_lost_connections_are_passed_over() -> None:
    assert await repeated(Work(Deadlocked(), ConnectionLost(), Deadlocked())) == 4


@pytest.mark.parametrize("error", [Deadlocked("again"), ConnectionLost("again")])
async def test_what_never_succeeds_is_given_up(error: Exception) -> None:
    work = Work(*[error] * (REPEATS + 1))
    with pytest.raises(type(error), match="again"):
        await repeated(work)
    assert work.runs == REPEATS + 1


@pytest.mark.parametrize("error", [CommitUnsure(), EngineUnavailable(), ValueError()])
async def test_everything_else_is_the_callers(error: Exception) -> None:
    work = Work(error)
    with pytest.raises(type(error)):
        await repeated(work)
    assert work.runs == 1


def test_all_of_them_may_be_tried_again_later() -> None:
    assert issubclass(Deadlocked, Transient)
    assert issubclass(ConnectionLost, EngineUnavailable)
    assert issubclass(CommitUnsure, EngineUnavailable)
    assert not issubclass(CommitUnsure, ConnectionLost)

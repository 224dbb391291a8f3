"""Limits of processor time, and garbage that is collected meanwhile."""

import gc
import itertools

import pytest

from limner.core.errors import Invalid
from limner.core.thread_time import RENEWALS, ThreadTime


def test_garbage_of_others_that_is_collected_meanwhile_is_not_the_paths_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([0.0, 0.3, 0.3, 0.35, 0.9])  # A collection of 0.3 s, then a path that is slow.
    monkeypatch.setattr("limner.core.thread_time.time.thread_time", lambda: next(times))
    budget = ThreadTime(0.1)
    gc.collect()
    budget.spend()
    budget.spend()
    with pytest.raises(Invalid) as caught:
        budget.spend()
    assert caught.value.code == "path_too_slow"


def test_a_path_that_makes_garbage_without_end_is_given_up_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = itertools.count(0.0, 1.0)
    monkeypatch.setattr("limner.core.thread_time.time.thread_time", lambda: next(seconds))
    budget = ThreadTime(0.1)
    for _ in range(RENEWALS):
        gc.collect()
        budget.spend()
    gc.collect()
    with pytest.raises(Invalid):
        budget.spend()

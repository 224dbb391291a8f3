"""Names in the order in which they end, against a sorted dictionary."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limner.storage.cache.deadlines import Deadlines

steps = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.sampled_from("abcdef"), st.integers(0, 9)),
        st.tuples(st.just("drop"), st.sampled_from("abcdef"), st.just(0)),
        st.tuples(st.just("end"), st.just(""), st.integers(0, 9)),
        st.tuples(st.just("first"), st.just(""), st.just(0)),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(steps)
def test_it_is_a_dictionary_that_knows_its_least_value(steps: list[tuple[str, str, int]]) -> None:
    deadlines, model = Deadlines(), dict[str, int]()
    for action, name, number in steps:
        if action == "set":
            deadlines.set(name, number)
            model[name] = number
        elif action == "drop":
            deadlines.drop(name)
            model.pop(name, None)
        elif action == "end":
            ended = {each for each, end in model.items() if end <= number}
            assert set(deadlines.pop_ended(number)) == ended
            model = {each: end for each, end in model.items() if each not in ended}
        elif model:
            first = deadlines.pop_first()
            assert model.pop(first) <= min(model.values(), default=9)
        else:
            with pytest.raises(IndexError):
                deadlines.pop_first()
        assert len(deadlines) == len(model)
        for each in "abcdef":
            assert (each in deadlines) == (each in model)
            assert deadlines.get(each, -1) == model.get(each, -1)


def test_moving_one_name_for_ever_takes_no_memory() -> None:
    deadlines = Deadlines()
    for number in range(10_000):
        deadlines.set("a", number)
    assert len(deadlines._heap) <= 66
    assert deadlines.pop_first() == "a"
    assert len(deadlines) == 0

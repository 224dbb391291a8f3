"""Ids: sorted by their making, of one form, and never given twice."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from limner.core import ids
from limner.core.ids import derived_id, is_id, new_id, uuid7


def test_a_uuid7_has_version_variant_and_the_time_of_its_making() -> None:
    before_ms = time.time_ns() // 1_000_000
    value = uuid7()
    assert (value.version, value.variant) == (7, "specified in RFC 4122")
    assert before_ms <= value.int >> 80 <= time.time_ns() // 1_000_000 + 1_000


def test_ids_rise_also_within_a_millisecond() -> None:
    values = [uuid7() for _ in range(20_000)]
    assert values == sorted(values)
    assert len(set(values)) == len(values)


def test_ids_rise_when_the_clock_goes_back_and_when_the_counter_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start_ms = time.time_ns() // 1_000_000 + 10_000_000
    monkeypatch.setattr(ids, "_last", (start_ms, 0xFFE))
    values = [uuid7() for _ in range(3)]
    assert values == sorted(values)
    assert [value.int >> 80 for value in values] == [start_ms, start_ms + 1, start_ms + 1]
    assert [(value.int >> 64) & 0xFFF for value in values] == [0xFFF, 0, 1]


def test_threads_never_get_the_same_id() -> None:
    with ThreadPoolExecutor(8) as pool:
        shares = list(pool.map(lambda _: [uuid7() for _ in range(2_000)], range(8)))
    assert all(share == sorted(share) for share in shares)
    assert len({value for share in shares for value in share}) == 16_000


def test_an_id_tells_its_kind() -> None:
    ident = new_id("task")
    assert is_id("task", ident)
    assert not is_id("job", ident)
    assert len(ident) == 37


@pytest.mark.parametrize(
    "text",
    [
        "",
        "task_",
        "task_123",
        "task_" + "g" * 32,
        "task_" + "A" * 32,
        "task_" + "a" * 33,
        "task_" + "a" * 32 + "\n",
        " task_" + "a" * 32,
        "TASK_" + "a" * 32,
    ],
)
def test_what_is_no_id_is_recognised(text: str) -> None:
    assert not is_id("task", text)


def test_the_same_parts_give_the_same_id_and_their_borders_count() -> None:
    assert derived_id("dead", "a", "b") == derived_id("dead", "a", "b")
    assert is_id("dead", derived_id("dead", "a", "b"))
    assert len({derived_id("dead", *p) for p in (("a", "b"), ("ab",), ("a", "b", ""))}) == 3
    assert derived_id("dead", "a") != derived_id("live", "a")

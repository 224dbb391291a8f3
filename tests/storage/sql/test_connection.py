"""One connection: what a statement becomes for the driver of a server."""

from collections.abc import Sequence
from typing import Any

import pytest

from limner.core.clock import HeldClock
from limner.storage.sql.connection import NOW, Connection, FromNow, marks


class Recorder:
    """A driver that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, list[Any]]] = []

    async def execute_query(self, text: str, values: list[Any]) -> tuple[int, Sequence[Any]]:
        self.told.append((text, values))
        return 3, []

    async def execute_query_dict(self, text: str, values: list[Any]) -> list[dict[str, Any]]:
        self.told.append((text, values))
        return [{"a": 1}]


async def test_on_a_server_marks_and_times_are_the_servers_own(clock: HeldClock) -> None:
    driver = Recorder()
    connection = Connection(driver, "mysql", clock)
    changed = await connection.execute(
        "UPDATE t SET a = ?, b = ? WHERE c <= ?", ["x", FromNow(1.5), NOW]
    )
    rows = await connection.query("SELECT a FROM t WHERE b = ?", [FromNow(-2)])
    assert (changed, rows) == (3, [{"a": 1}])
    now = "DATE_ADD(UTC_TIMESTAMP(6), INTERVAL %s MICROSECOND)"
    (update, values), (select, seconds) = driver.told
    assert update.replace(now, "NOW") == "UPDATE t SET a = %s, b = NOW WHERE c <= NOW"
    assert select.replace(now, "NOW") == "SELECT a FROM t WHERE b = NOW"
    assert (values, seconds) == (["x", 1_500_000, 0], [-2_000_000])
    assert connection.insert_or_ignore == "INSERT IGNORE INTO"
    with pytest.raises(ValueError, match="zip"):
        await connection.execute("UPDATE t SET a = ?", ["x", "one too many"])


ODD = """'?' = '100%' OR 'it''s ?' = "?" OR `odd?` = ?"""


async def test_a_mark_inside_quotes_is_only_a_character(clock: HeldClock) -> None:
    driver = Recorder()
    connection = Connection(driver, "mysql", clock)
    await connection.query(f"SELECT 1 WHERE {ODD}", ["x"])
    expected = """'?' = '100%%' OR 'it''s ?' = "?" OR `odd?` = %s"""
    assert driver.told == [(f"SELECT 1 WHERE {expected}", ["x"])]


def test_there_is_a_mark_for_each_value() -> None:
    assert [marks(values) for values in ("", ["a"], ("a", "b", "c"))] == ["", "?", "?, ?, ?"]

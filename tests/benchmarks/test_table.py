"""The tables of the benchmarks: every figure can be read, also where lines are short."""

import io

import pytest
from rich.console import Console

from benchmarks.result import Figure, Result
from benchmarks.table import print_result


@pytest.mark.parametrize("width", [80, 100, 200])
def test_a_figure_is_never_cut(width: int) -> None:
    name = "5000, uvloop: aiohttp-sse, growth per connection and something more"
    figure = Figure(name, "events/s", (123_456.0, 234_567.0, 345_678.0), at_least=1_000_000.0)
    out = io.StringIO()
    print_result(Console(file=out, width=width), Result("streams", "event streams", (figure,), {}))
    printed = out.getvalue()
    for part in ("234,567", "123,456", "345,678", "events/s", "≥ 1,000,000", "missed"):
        assert part in printed
    assert " ".join(printed.split()).count("more") == 1
    assert all(len(line) <= width for line in printed.splitlines())

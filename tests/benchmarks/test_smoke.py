"""Every benchmark runs, with tiny numbers, and its figures can be true; how fast is no test's."""

import asyncio
import importlib
import json
import math
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

# ``python -m pytest`` has it already; plain ``pytest`` does not.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks import child, lag, tape
from benchmarks.__main__ import NAMES, OTHERS
from benchmarks.child import ChildFailed, Measured
from benchmarks.result import Figure, Result, quantile, ratios
from limner.core.metrics import Metrics

RUN_S = 60


@pytest.mark.journey
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", NAMES)
async def test_a_benchmark_runs_and_every_figure_is_a_number(name: str) -> None:
    module: Any = importlib.import_module(f"benchmarks.{name}")

    result: Result = await module.run(module.QUICK)

    assert result.name == name
    assert result.numbers
    assert len({figure.name for figure in result.figures}) == len(result.figures) > 2
    for figure in result.figures:
        assert figure.samples, figure.name
        assert all(math.isfinite(sample) for sample in figure.samples), figure.name
        if figure.unit != "%" and "growth" not in figure.name and "lag" not in name:
            assert min(figure.samples) > 0, figure.name
    assert json.loads(json.dumps(result.as_json()))["figures"]


@pytest.mark.timeout(120)
async def test_the_command_prints_json_alone_on_standard_output() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks", "--quick", "--json", "--only", "units"),
        cwd=child.ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(RUN_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    assert process.returncode == 0, err.decode()
    told = json.loads(out)
    assert [result["name"] for result in told["results"]] == ["units"]
    assert {"processor", "sync of 4 KiB", "python"} <= set(told["machine"])
    assert 0 <= told["results"][0]["numbers"][OTHERS] <= 100


async def fails(reason: str) -> Measured:
    """Stand for a measurement that goes wrong."""
    raise ValueError(reason)


async def never() -> Measured:
    """Stand for a measurement that does not end."""
    await asyncio.Event().wait()
    return {}


async def test_a_failing_measurement_tells_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fails, "__module__", "tests.benchmarks.test_smoke")
    with pytest.raises(ChildFailed, match="out of ink"):
        await child.call(fails, reason="out of ink")


async def test_a_measurement_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(never, "__module__", "tests.benchmarks.test_smoke")
    with pytest.raises(ChildFailed, match=r"no end within 0\.5 s"):
        await child.call(never, limit_s=0.5)


def test_a_trace_is_cut_into_transactions_with_their_values() -> None:
    lines = [
        "SELECT 1",
        "BEGIN IMMEDIATE",
        "UPDATE `t` SET a = 'it''s 5', version = version + 1, b2 = x'00ff' WHERE id = -3",
        "-- a trigger",
        "COMMIT",
        "BEGIN",
        "DELETE FROM t",
        "ROLLBACK",
        "INSERT INTO t VALUES (1.5, NULL)",
    ]

    first, second, third = tape.transactions(lines)

    assert first.statements == (
        (
            "UPDATE `t` SET a = ?, version = version + ?, b2 = ? WHERE id = ?",
            ("it's 5", 1, b"\x00\xff", -3),
        ),
    )
    assert (first.committed, second.committed, third.committed) == (True, False, True)
    assert third.statements == (("INSERT INTO t VALUES (?, NULL)", (1.5,)),)


async def test_a_replay_that_changes_other_rows_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / tape.START)) as start:
        start.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    told = tape.Transaction((("INSERT INTO t VALUES (?)", (1,)),))
    tape.keep(tmp_path, [told], changes=1)
    assert (await tape.replay(str(tmp_path)))["commits"] == 1

    tape.keep(tmp_path, [told], changes=2)
    with pytest.raises(RuntimeError, match="changed 1 rows, the recording 2"):
        await tape.replay(str(tmp_path))


def test_bounds_say_whether_a_figure_is_as_it_should_be() -> None:
    assert Figure("p99", "ms", (9.0, 10.0, 80.0), at_most=50).met is True
    assert Figure("p99", "ms", (9.0, 60.0, 80.0), at_most=50).met is False
    assert Figure("ratio", "×", (0.5,), at_least=0.8).met is False
    assert Figure("ratio", "×", (0.5,)).met is None


def test_quantiles_and_ratios_are_what_they_are_called() -> None:
    assert quantile(range(1, 101), 0.99) == 99
    assert quantile([7.0], 0.5) == 7.0
    assert ratios((6.0, 9.0), (3.0, 2.0)) == (2.0, 4.5)


def test_the_published_lag_is_read_from_its_bucket() -> None:
    metrics = Metrics()
    assert lag.bucket_of(metrics, 0.99) == 0.0
    for late_s in (0.0005, 0.0005, 0.03):
        metrics.event_loop_lag.observe(late_s)
    assert lag.bucket_of(metrics, 0.5) == 0.001
    assert lag.bucket_of(metrics, 0.99) == 0.05
    metrics.event_loop_lag.observe(60.0)
    assert lag.bucket_of(metrics, 0.99) == math.inf

"""Every benchmark runs, with tiny numbers, and its figures can be true; how fast is no test's."""

import asyncio
import importlib
import json
import math
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest

# ``python -m pytest`` has it already; plain ``pytest`` does not.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks import __main__ as command
from benchmarks import chain, child, count, lag, places, servers, stock, tape
from benchmarks.__main__ import NAMES, OTHERS
from benchmarks.child import Call, ChildFailed, Measured
from benchmarks.count import Count
from benchmarks.crew import Shift, figures
from benchmarks.result import Figure, Result, quantile, ratios
from benchmarks.servers import DurableMariaDb, Servers
from benchmarks.worker import Unfinished, check
from limner.core.metrics import Metrics
from tests.engines import missing
from tests.engines.rabbitmq import RabbitServer

RUN_S = 240
ON_SERVERS = frozenset({"jobs", "chain5", "chain", "workers", "backlog"})
BOTH = frozenset({"units", "requests"})
SHARING = ON_SERVERS - {"workers"}
"""Those that are lent servers, which take seconds to start; one starts its own as a user's does."""


def _param(name: str) -> Any:
    marks = [pytest.mark.journey]
    if name in ON_SERVERS | BOTH:
        marks.append(pytest.mark.real)
    return pytest.param(name, marks=marks)


def _demand_engines() -> None:
    """Skip where RabbitMQ or MariaDB are not installed; in CI that is a failure."""
    reason = missing.no_rabbitmq() or missing.no_mariadb()
    if reason is not None and os.environ.get("CI"):
        pytest.fail(reason)
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def engines() -> Iterator[Servers]:
    """Give servers that the benchmarks of this module share."""
    _demand_engines()
    with RabbitServer() as rabbit, DurableMariaDb() as mariadb:
        yield Servers(rabbit, mariadb)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", [_param(name) for name in NAMES])
async def test_a_benchmark_runs_and_every_figure_is_a_number(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in ON_SERVERS | BOTH:
        _demand_engines()
    if name in SHARING:
        shared: Servers = request.getfixturevalue("engines")
        monkeypatch.setattr(servers, "running", lambda: nullcontext(shared))
    module: Any = importlib.import_module(f"benchmarks.{name}")

    result: Result = await module.run(module.QUICK)

    assert result.name == name
    assert result.numbers
    assert len({figure.name for figure in result.figures}) == len(result.figures) > 2
    for figure in result.figures:
        assert figure.samples, figure.name
        assert all(math.isfinite(sample) for sample in figure.samples), figure.name
        if "%" not in figure.unit and "growth" not in figure.name and "lag" not in name:
            assert min(figure.samples) > 0, figure.name
    assert json.loads(json.dumps(result.as_json()))["figures"]


@pytest.mark.timeout(300)
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


async def told_when_let(path: str, slot: int, wanted: int) -> Measured:
    """Stand for a worker: counts to its share of what all shall do."""
    counting = Count(wanted, path, slot)
    await child.gate()
    for _ in range(slot + 1):
        counting.begin()
        counting.one()
    await counting.watch()
    return {**counting.told(), "stopped": counting.stop.is_set()}


async def test_children_begin_together_and_end_when_all_of_them_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(told_when_let, "__module__", "tests.benchmarks.test_smoke")
    path = count.shared_file(tmp_path)
    calls = [Call(told_when_let, {"path": path, "slot": n, "wanted": 3}) for n in range(2)]
    used = iter([{"server": 1.0}, {"server": 3.5}])

    told, usage = await child.together(calls, usage=lambda: next(used), limit_s=RUN_S)

    assert [(each["done"], each["stopped"]) for each in told] == [(1, True), (2, True)]
    assert max(each["started_s"] for each in told) < min(each["ended_s"] for each in told)
    assert usage == {"server": 2.5}


async def test_a_child_that_fails_before_its_gate_tells_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fails, "__module__", "tests.benchmarks.test_smoke")
    with pytest.raises(ChildFailed, match="out of ink"):
        await child.together([Call(fails, {"reason": "out of ink"})])


async def test_jobs_that_were_not_done_are_no_measurement(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/limner.db"
    await stock.fill(url, "", "jobs", 3)

    with pytest.raises(Unfinished, match="3 messages still wait"):
        await check(url, "", "jobs", 3)


async def test_chains_that_ended_early_are_no_measurement(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/limner.db"
    await stock.fill(url, "", "chain5", 0)
    assert (await check(url, "", "chain5", 0))["moved"] == 0

    with pytest.raises(Unfinished, match="of 2 tasks"):
        await check(url, "", "chain5", 2)


@pytest.mark.journey
async def test_an_embedded_worker_handles_what_was_stored() -> None:
    done = await places.embedded("chain5", 3)

    assert done.done == 3
    assert done.seconds > 0
    assert done.told[0]["group"] >= 1


def test_without_engines_a_benchmark_is_left_out_unless_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(missing, "no_rabbitmq", lambda: "no rabbits here")
    monkeypatch.setattr(command, "NAMES", ("jobs",))

    assert command.main(["--quick"]) == 0
    assert "no rabbits here" in capsys.readouterr().out

    assert command.main(["--quick", "--only", "jobs"]) == 1
    assert "no rabbits here" in capsys.readouterr().err


async def test_servers_are_demanded_before_they_are_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(missing, "no_mariadb", lambda: "no database here")
    with pytest.raises(servers.EnginesMissing, match="no database here"):
        async with servers.running():
            pass


def test_a_shift_is_told_per_second_per_thousand_and_as_shares_of_a_core() -> None:
    shift = Shift(500, 2.0, 0.5, 60.0, 61.0, {"RabbitMQ": 0.25, "MariaDB": 0.0})

    assert shift.per_s == 250
    assert shift.per_thousand_ms(shift.cpu_s) == 1000
    assert shift.core_percent(shift.servers_s["RabbitMQ"]) == 12.5
    names = [figure.name for figure in figures("servers", "jobs", [shift])]
    assert names == [
        "servers: jobs",
        "servers: worker's processor",
        "servers: RabbitMQ's processor",
        "servers: worker resident",
    ]


def test_messages_of_a_chain_are_counted_without_the_generators_jobs() -> None:
    metrics = Metrics()
    metrics.jobs_finished.labels("mailer", "done").inc(3)
    metrics.jobs_finished.labels("status", "again").inc(2)
    metrics.jobs_finished.labels("generation", "succeeded").inc(7)

    assert chain.messages(metrics) == 5


def test_what_a_unit_of_a_group_undid_is_no_part_of_its_transaction() -> None:
    lines = [
        "BEGIN IMMEDIATE",
        "SAVEPOINT unit",
        "INSERT INTO t VALUES (1)",
        "RELEASE unit",
        "SAVEPOINT unit",
        "INSERT INTO t VALUES (2)",
        "ROLLBACK TO unit",
        "RELEASE unit",
        "COMMIT",
    ]

    undone, kept = tape.transactions(lines)

    assert (undone.committed, undone.statements) == (False, (("INSERT INTO t VALUES (?)", (2,)),))
    assert (kept.committed, kept.statements) == (True, (("INSERT INTO t VALUES (?)", (1,)),))


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
